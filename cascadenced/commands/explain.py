"""Why a run is as it is, and where it differs from another one."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command
from cascadenced.commands.session import Session, pass_session
from cascadenced.commands.tables import cell, coloured, content, fields, plain, table, took, when
from cascadenced.events.place import in_words


@click.command(cls=Command)
@click.argument("run", metavar="RUN|SCHEDULE@TIME")
@pass_session
def explain(session: Session, run: str) -> None:
    """Tell why a run is as it is, and what to do about it.

    RUN is its id, or the first 8 or more characters of it; SCHEDULE@TIME a due instant, local or with an offset. Of a
    run: what it is queued behind, waits for, was paused, held,
    refused or cancelled by, failed of, or is in doubt about; then the decisions in its life: retries, resumes after
    crashes, late results, what it was told. All of it is read from what is recorded; people are shown by pseudonym.

    \b
    Example: cascadenced explain 019ac5e1
    Example: cascadenced explain report@2026-11-30T09:00
    """
    explanation = session.ask("explain", run=run)
    session.show(explanation, _of_tick(explanation) if "asked" in explanation else _text(explanation))


def _of_tick(explanation: dict[str, Any]) -> str:
    return "\n".join(plain(reason) for reason in explanation["reasons"])


def _text(explanation: dict[str, Any]) -> str:
    stage, attempt = explanation["stage"], explanation["attempt"]
    head = fields(
        [
            ("run", explanation["run_id"]),
            ("task", plain(explanation["task"])),
            ("status", coloured(explanation["status"])),
            ("stage", stage and f"{stage}, attempt {attempt}"),
        ]
    )
    blocks = [head, *map(_reason, explanation["reasons"])]
    moments = [(when(moment["at"]), plain(moment["text"])) for moment in explanation["timeline"]]
    if moments:
        blocks.append(table(("TIME", "DECISION"), moments))
    if explanation["n_left_out"]:
        blocks.append(f"{explanation['n_left_out']} more between these are not shown")
    return "\n\n".join(blocks)


def _reason(reason: dict[str, Any]) -> str:
    text = cell(reason["text"])
    lines = [f"Why: {text}."]
    if reason.get("since"):
        lines.append(f"     since {when(reason['since'])}")
    children = reason.get("children")
    if children:
        rows = [
            (child["index"], child["task"], child["status"], child["run_id"], child["reason"]) for child in children
        ]
        lines.append(table(("ITEM", "TASK", "STATUS", "RUN", "REASON"), rows, indent="     "))
    remedies = reason.get("remedies") or []
    lines += [f"{'Do:  ' if n == 0 else '     '}{plain(remedy)}" for n, remedy in enumerate(remedies)]
    return "\n".join(lines)


@click.command(cls=Command)
@click.argument("left", metavar="RUN")
@click.argument("right", metavar="RUN")
@click.option("--times", is_flag=True, help="Tell how long the stages took, too; that is never a difference.")
@pass_session
def diff(session: Session, left: str, right: str, times: bool) -> int:
    """Show where two runs differ.

    Compared are what they were given and told; of each stage how it ended, its attempts, its steps and waits by their
    places, its output and its error; the runs of the plan; and how the whole run ended. Exits 0 if there is no
    difference, 1 if there is one, as `diff` does.

    \b
    Example: cascadenced diff 019ac5e1 019ac5f7
    """
    found = session.ask("diff", left=left, right=right, times=times)
    session.show(found, _diff(found))
    return 0 if found["same"] else 1


def _diff(found: dict[str, Any]) -> str:
    blocks = [fields([(side, _side(found[side])) for side in ("left", "right")])]
    rows = [(_where(each), _value(each, "left"), _value(each, "right")) for each in found["differences"]]
    blocks.append(table(("WHERE", "LEFT", "RIGHT"), rows) if rows else "no difference")
    if found["has_more"]:
        blocks.append("there are more differences than these")
    if found["times"]:
        times = [(each["stage"] or "the run", took(each["left_s"]), took(each["right_s"])) for each in found["times"]]
        blocks.append(table(("TOOK", "LEFT", "RIGHT"), times))
    return "\n\n".join(blocks)


def _side(side: dict[str, Any]) -> str:
    code = f", code {side['code']}" if side["code"] else ""
    return f"{side['run_id']}  {plain(side['task'])}, {side['status']}{code}"


def _where(difference: dict[str, Any]) -> str:
    place = difference.get("place")
    words = [difference.get("stage"), place and in_words(place), difference["what"], difference.get("path")]
    return " ".join(word for word in words if word)


def _value(difference: dict[str, Any], side: str) -> str:
    return content(difference[side]) if side in difference else "(nothing)"
