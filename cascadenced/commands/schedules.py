"""Schedules: set, removed, paused, loaded from a file; when they are due next, and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cascadenced.clock import iso
from cascadenced.commands.options import Command, Instant, JsonObject, after, limit
from cascadenced.commands.session import Session, pass_session, remark
from cascadenced.commands.tables import cell, content, plain, table, when
from cascadenced.errors import CascadenceError, Invalid

_MAX_FILE_BYTES = 4 * 1024 * 1024

_user_id = click.option("--user-id", metavar="ID", help="Whom it is for; nobody: the system.")
_group_id = click.option("--group-id", metavar="ID", help="The group of that user. [default: the user's own]")


@click.command(cls=Command)
@click.argument("task", metavar="NAME")
@click.argument("expr", metavar="EXPR", nargs=-1)
@_user_id
@_group_id
@click.option("--timezone", metavar="ZONE", help="An IANA time zone. [default: the setting `timezone`]")
@click.option("--every", "every_s", metavar="SECONDS", type=float, help="An interval, in place of EXPR.")
@click.option("--at", metavar="TIME", help="Once, in place of EXPR: a local time, or an instant with an offset.")
@click.option("--rrule", metavar="RULE", help="A rule of iCalendar, in place of EXPR.")
@click.option("--calendar-event", metavar="NODE", help="A calendar's node that says when, in place of EXPR.")
@click.option("--poll", metavar="SECONDS", type=float, help="How often that node is read. [default: 300]")
@click.option(
    "--gap",
    type=click.Choice(["shift", "skip"]),
    help="What becomes of a time that a change of the clocks leaves out. [default: shift]",
)
@click.option(
    "--fold",
    type=click.Choice(["first", "last", "both"]),
    help="Which counts of a time that there is twice. [default: first]",
)
@click.option(
    "--misfire",
    type=click.Choice(["skip", "latest", "all"]),
    help="Which fire of those that come late. [default: latest]",
)
@click.option("--within", "within_s", metavar="SECONDS", type=float, help="How late it may come. [default: 3600]")
@click.option("--max", "most", metavar="N", type=int, help="With `all`: how many late ones at once. [default: 100]")
@click.option(
    "--overlap",
    type=click.Choice(["skip", "queue", "allow", "cancel_previous"]),
    help="What happens while the last run has not ended. [default: skip]",
)
@click.option(
    "--jitter", "jitter_s", metavar="SECONDS", type=float, help="Spread: up to so much later each time. [default: 0]"
)
@click.option("--exclude", metavar="DATE", multiple=True, help="A day without any; may be given several times.")
@click.option(
    "--exclude-ics", metavar="PATH", help="A calendar file: nothing during its events. [from: schedules.yml's folder]"
)
@click.option("--event", metavar="EVENT", help="Dispatch this event instead of running the task NAME.")
@click.option("--args", metavar="JSON", type=JsonObject(), help="What the task finds in `self.args`.")
@click.option("--after", "deps", metavar="NAME", multiple=True, help="A task that must have run before, each time.")
@pass_session
def schedule(session: Session, /, task: str, expr: tuple[str, ...], **given: Any) -> None:
    """Run the task NAME by the clock.

    EXPR is a cron expression of five fields (0 and 7 are Sunday), or a word like @daily. Setting a schedule again
    replaces it; what was due before is never fired by the new one. It is also in schedules.yml, to be edited there.

    \b
    Example: cascadenced schedule report "0 9 * * 1-5" --timezone Europe/Berlin
    """
    dst = {"gap": given.pop("gap"), "overlap": given.pop("fold")}
    misfire = {"policy": given.pop("misfire"), "within_s": given.pop("within_s"), "max": given.pop("most")}
    whens = {"expr": _expr(task, expr), **{key: given.pop(key) for key in ("every_s", "at", "rrule", "calendar_event")}}
    whens = {key: value for key, value in whens.items() if value is not None}
    if len(whens) != 1:
        raise click.UsageError("Give EXPR, or one of --every, --at, --rrule and --calendar-event.")
    asked = {
        **given,
        **whens,
        "dst": _given(dst),
        "misfire": _given(misfire),
        "exclude": list(given["exclude"]) or None,
        "deps": list(given["deps"]) or None,
    }
    result = session.ask("schedule", task=task, **{key: value for key, value in asked.items() if value is not None})
    [(kind, value)] = whens.items()
    due = f"{task} scheduled: {f'every {value:g} s' if kind == 'every_s' else plain(str(value))}"
    if result["unread"]:
        due += f"\nits calendar cannot be read now: {plain(result['unread'])}"
    session.show(result, due + (f"\nnext: {result['next_fire_at']}" if result["next_fire_at"] else ""))


def _expr(task: str, words: tuple[str, ...]) -> str | None:
    """The one expression; what people type in its place is named."""
    if len(words) > 1:
        raise click.UsageError('EXPR is one argument: put it into quotes, as in schedule report "0 9 * * 1-5".')
    if words and _looks_like_expr(task) and not _looks_like_expr(words[0]):
        raise click.UsageError(f"NAME comes before EXPR: schedule {words[0]} {task!r}.")
    return words[0] if words else None


def _looks_like_expr(text: str) -> bool:
    """Names of tasks have no spaces."""
    return " " in text.strip() or text.startswith("@")


def _given(values: dict[str, Any]) -> dict[str, Any] | None:
    return {key: value for key, value in values.items() if value is not None} or None


def _of_schedule(name: str, verb: str, done: str, text: str) -> click.Command:
    @click.command(name, cls=Command, help=text)
    @click.argument("task", metavar="NAME")
    @click.option("--user-id", metavar="ID", help="Who does this; the audit trail shows the pseudonym.")
    @click.option("--group-id", metavar="ID", help="Their group.")
    @pass_session
    def command(session: Session, task: str, user_id: str | None, group_id: str | None) -> None:
        session.show(session.ask(verb, task=task, user_id=user_id, group_id=group_id), f"{task} {done}")

    return command


unschedule = _of_schedule(
    "unschedule",
    "unschedule",
    "unscheduled",
    """Remove the schedule of the task NAME.

    What is due later is not fired; runs under way go on.

    \b
    Example: cascadenced unschedule report
""",
)
schedule_pause = _of_schedule(
    "schedule-pause",
    "schedule_pause",
    "schedule paused",
    """Let the schedule of NAME fire nothing for now.

    What is due meanwhile is recorded as suppressed when it is resumed. The task itself may still be run.

    \b
    Example: cascadenced schedule-pause report
""",
)
schedule_resume = _of_schedule(
    "schedule-resume",
    "schedule_resume",
    "schedule resumed",
    """Let the paused schedule of NAME fire again.

    \b
    Example: cascadenced schedule-resume report
""",
)


@click.command("load-schedules", cls=Command)
@click.argument("path", metavar="PATH")
@pass_session
def load_schedules(session: Session, path: str) -> None:
    """Set all schedules of a file.

    It is like schedules.yml. Anything wrong with it, and nothing is set. Schedules that it does not name stay.

    \b
    Example: cascadenced load-schedules night.yml
    """
    result = session.ask("load_schedules", text=_text_of(path), name=path)
    session.show(result, f"loaded schedules from {path}")


def _text_of(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise Invalid(f"{path} is too large: {_MAX_FILE_BYTES} bytes are allowed")
        return data.decode()
    except OSError as error:
        raise CascadenceError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Invalid(f"{path} is not UTF-8") from None


@click.command(cls=Command)
@click.option("--preview", metavar="TASK|EXPR", help="Show when this schedule, or expression, is due next.")
@click.option("--timezone", metavar="ZONE", help="Of an expression. [default: the setting `timezone`]")
@click.option("--from", "start", metavar="INSTANT", type=Instant(), help="Where the preview begins. [default: now]")
@click.option(
    "--count", metavar="N", type=click.IntRange(1, 1_000), default=10, show_default=True, help="How many are shown."
)
@click.option("--simulate", is_flag=True, help="Tell what all schedules would do from --from to --to, both included.")
@click.option("--to", "end", metavar="INSTANT", type=Instant(), help="Where the simulation ends.")
@click.option("--change", metavar="PATH", help="And what would be different with this file in their place.")
@click.option("--next", "show_next", is_flag=True, help="Also show when each fires next, or that it is paused.")
@pass_session
def schedules(
    session: Session,
    preview: str | None,
    timezone: str | None,
    start: str | None,
    count: int,
    simulate: bool,
    end: str | None,
    change: str | None,
    show_next: bool,
) -> None:
    """List, preview or simulate schedules.

    One a line: TASK<TAB>EXPRESSION, or another rule as JSON. A preview also shows what changes of the clocks and
    excluded days do. A simulation takes runs to last as long as the newest of their tasks did.

    \b
    Example: cascadenced schedules --simulate --from 2026-12-01T00:00:00Z --to 2027-01-01T00:00:00Z --change new.yml
    Example: cascadenced schedules --preview "30 2 * * *" --timezone Europe/Berlin
    """
    if simulate:
        if start is None or end is None or preview is not None:
            raise click.UsageError("--simulate needs --from and --to, and no --preview.")
        text = None if change is None else _text_of(change)
        simulated = session.ask("simulate", start=start, end=end, change=text, name=change)
        session.show(simulated, _simulation(simulated))
        for task in () if session.as_json else simulated["unknown_tasks"]:
            remark(f"{change}: {task}: there is no such task; its entry does nothing until there is")
        return
    if preview is None:
        page = session.ask_all("schedules")
        session.show_page(page, "\n".join(_line(row, show_next=show_next) for row in page["items"]))
        return
    is_expr = _looks_like_expr(preview)
    if timezone is not None and not is_expr:
        raise click.UsageError(f"--timezone is for an expression; the schedule of {preview} has its own zone.")
    asked = {"expr": preview, "timezone": timezone} if is_expr else {"task": preview}
    shown = session.ask("preview", **asked, start=start, count=count)
    rows = [
        (item["at"], "" if item.get("fires", True) else "left out", item.get("note") or "") for item in shown["items"]
    ]
    session.show(shown, table(("DUE", "", "NOTE"), rows) if rows else "never")


def _simulation(found: dict[str, Any]) -> str:
    blocks = [_of_one(found["simulation"])]
    if found["changed"] is not None:
        blocks.append(f"with the file in place of them:\n\n{_of_one(found['changed'])}")
        lines = [f"{plain(each['task'])}: {_difference(each)}" for each in found["differences"]]
        blocks.append("\n".join(["differences:", *lines]) if lines else "no run would be at another time")
    return "\n\n".join(blocks)


def _of_one(simulation: dict[str, Any]) -> str:
    rows = [
        (
            each["task"],
            each["n_fired"],
            ", ".join(f"{n} {why}" for why, n in each["left_out"].items()),
            each["first"],
            each["last"],
        )
        for each in simulation["schedules"]
    ]
    lines = [table(("TASK", "RUNS", "LEFT OUT", "FIRST", "LAST"), rows) if rows else "no schedules"]
    n, at_us = simulation["peak"]["n_runs"], simulation["peak"]["at_us"]
    if at_us is not None:
        lines.append(f"most runs at once: {n}, first at {when(iso(at_us))}")
    oddities = [
        f"{odd['at']} {plain(each['task'])}: {plain(odd['why'])}"
        for each in simulation["schedules"]
        for odd in each["oddities"]
    ]
    return "\n".join([*lines, *oddities])


def _difference(each: dict[str, Any]) -> str:
    sides = (
        (n, word, ", ".join(instants[:3]) + (", …" if len(instants) > 3 else ""))
        for n, word, instants in (
            (each["n_only_before"], "fewer", each["only_before"]),
            (each["n_only_after"], "more", each["only_after"]),
        )
    )
    return ", ".join(f"{n} {'run' if n == 1 else 'runs'} {word} ({which})" for n, word, which in sides if n)


def _due(at: str) -> str:
    """An instant of the ledger, without a fraction that says nothing. It may be handed to `explain`."""
    return at.replace(".000000Z", "Z")


@click.command(cls=Command)
@click.argument("task", metavar="NAME")
@limit
@after
@pass_session
def ticks(session: Session, task: str, limit: int, after: str | None) -> None:
    """Show what became of the due instants of a schedule.

    Newest first. `explain NAME@TIME` tells more of one.
    """
    page = session.ask("ticks", task=task, limit=limit, after=after)
    rows = [
        (
            *(_due(row["at"]), row["n"] if row["n"] > 1 else "", row["verdict"], row["code"], row["run_id"]),
            row["n_backfilled"] or "",
        )
        for row in page["items"]
    ]
    headers = ("DUE", "N", "VERDICT", "WHY", "RUN", "BACKFILLED")
    session.show_page(page, table(headers, rows, spare=("BACKFILLED", "N")) if rows else "nothing yet")


@click.command(cls=Command)
@click.argument("task", metavar="NAME")
@click.option(
    "--from", "start", metavar="INSTANT", type=Instant(), required=True, help="The first instant, with an offset or Z."
)
@click.option("--to", "end", metavar="INSTANT", type=Instant(), required=True, help="The last one; both are included.")
@click.option("--missed-only", is_flag=True, help="Leave those that fired when they were due.")
@click.option(
    "--max", "most", metavar="N", type=click.IntRange(min=1), default=1_000, show_default=True, help="More are refused."
)
@pass_session
def backfill(session: Session, task: str, start: str, end: str, missed_only: bool, most: int) -> None:
    """Run the task NAME for due instants of the past.

    Those of the present rule, for whom the schedule is. Each is run once, however often this is repeated: after a
    failure or Ctrl-C, the same command goes on where it was. Unless the schedule's overlap is `allow`, one run waits
    for the end of the other. The ledger (`ticks`) keeps what became of each when it was due.

    \b
    Example: cascadenced backfill report --from 2026-11-01T00:00:00Z --to 2026-11-30T23:59:59Z --missed-only
    """
    result = session.ask("backfill", task=task, start=start, end=end, missed_only=missed_only, max=most)
    rows = [
        (_due(row["at"]), row["run_id"], row["status"], "asked before" if row["duplicate"] else "")
        for row in result["items"]
    ]
    session.show(result, table(("DUE", "RUN", "STATUS", ""), rows) if rows else "nothing to run in that range")
    for count, why in (
        (result["n_left_out"], "left out by the schedule"),
        (result["n_unsettled"], "not past yet for the schedule: the daemon fires or records them"),
    ):
        if count and not session.as_json:
            remark(f"{count} {why}")


def _line(row: dict[str, Any], *, show_next: bool) -> str:
    columns = [cell(row["task"]), _value(row)]
    if show_next:
        columns.append("paused" if row["paused"] else row["next_fire_at"] or _never(row))
    return "\t".join(columns)


def _never(row: dict[str, Any]) -> str:
    """A node that was never read may say anything."""
    has_rule = any(row[name] is not None for name in ("expr", "rrule", "every_s", "at"))
    return "never" if has_rule else f"unknown: {plain(row['unread'] or 'its calendar was not read yet')}"


def _value(row: dict[str, Any]) -> str:
    if row["expr"] is not None and row["calendar_event"] is None:
        return cell(row["expr"])
    names = ("calendar_event", "rrule", "every_s", "at")
    given = {name: row[name] for name in names if row[name] is not None}
    if (every_s := row["every_s"]) is not None and every_s == int(every_s):
        given["every_s"] = int(every_s)
    return content(given, None)
