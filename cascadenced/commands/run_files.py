"""Runs in files: written, and performed again from what is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from cascadenced.commands.options import Command
from cascadenced.commands.session import Session, pass_session, patience, remark
from cascadenced.commands.tables import coloured, plain, table


@click.command(cls=Command)
@click.argument("run")
@click.option(
    "--to",
    "to",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Where to; `-` is stdout. [default: run-ID.json here]",
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@pass_session
def export(session: Session, run: str, to: str | None, force: bool) -> None:
    """Write a run to a file, to keep it or to `replay` it.

    One JSON document with every event of the run, header and data as the log has them, and the same of the runs that
    its plan asked for. Read beside a running daemon. The file is for its owner only and appears when it is complete.

    It holds content: what the task was given, what it was told, what its steps and stages put out. Users and groups are
    in it as pseudonyms only, unless the task wrote them into its own results.

    \b
    Example: cascadenced export 019ac5e1 --to report.run.json
    """
    from cascadenced.commands import run_file

    with patience("reading the run"):
        file = run_file.export(session.config, run)
    data = run_file.encoded(file)
    if to == "-":
        click.echo(data, nl=False)
        return
    path = Path(to or f"run-{file.run.run_id}.json")
    run_file.write(path, data, force=force)
    done = run_file.summary(file, str(path))
    runs = "1 run" if done["n_runs"] == 1 else f"{done['n_runs']} runs"
    session.show(done, f"{runs} with {done['n_events']} events written to {path}")


@click.command(cls=Command)
@click.argument("path", type=click.Path(dir_okay=False), metavar="FILE")
@click.option(
    "--task",
    metavar="MODULE:CLASS",
    help="The code to perform. [default: where FILE says it was, if that is installed]",
)
@pass_session
def replay(session: Session, path: str, task: str | None) -> int:
    """Perform a run from a file again, and compare.

    The code that FILE names is performed only if it is installed here (plugin_paths, entry points, built in): a file
    may come from anybody. A file that was changed is refused, as far as its hashes tell.

    Every attempt of every stage that came to an end runs once more, in order, on what it was given then. Steps, waits,
    research and the runs of a plan are answered from FILE; no log is opened, nothing is recorded. But code outside of
    steps does run: it is what is tested.

    Compared are the steps and waits that the code comes to, the outputs and the types of errors. The first divergence
    is named, and the exit code is 1; it is 0 if there is none. FILE knows no user and no group: the task finds their
    pseudonyms in `user_id` and `group_id`.

    \b
    Example: cascadenced replay report.run.json --task shop.tasks:Report
    """
    from cascadenced.commands import run_file

    file = run_file.read(Path(path))
    with patience("performing the run again"):
        done = run_file.replay(session.config, file, path, task)
    found = done.divergence
    result = msgspec.to_builtins(done)
    session.show(result, _replayed(result, None if found is None else found.text))
    if not session.as_json:
        for line in _remarks(result):
            remark(line)
    return 0 if found is None else 1


def _replayed(done: dict[str, Any], divergence: str | None) -> str:
    rows = [
        (each["stage"], each["attempt"], each["outcome"], each["n_places"], _VERDICTS[each["verdict"]], each["reason"])
        for each in done["stages"]
    ]
    stages = table(("STAGE", "ATTEMPT", "RECORDED", "PLACES", "REPLAYED", "BECAUSE"), rows)
    if divergence is not None:
        return f"{stages}\n\n{coloured('divergence', 'error')} in {plain(divergence)}"
    if not rows:
        return "no stage of this run came to an end: there is nothing to compare"
    return f"{stages}\n\n{coloured('no divergence', 'success')}"


_VERDICTS = {"same": "as recorded", "different": "differs", "taken": "not performed"}


def _remarks(done: dict[str, Any]) -> list[str]:
    remarks = ["user_id and group_id were the pseudonyms: the file knows no others"]
    if done["code_recorded"] != done["code_now"]:
        remarks.append(f"the code is not the recorded one ({done['code_recorded']} then, {done['code_now']} now)")
    if done["n_wishes"]:
        remarks.append(f"wishes that were not carried out (notes, pointers, events and the like): {done['n_wishes']}")
    return remarks
