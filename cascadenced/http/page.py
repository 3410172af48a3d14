"""The pages for people. Complete as the server sends them; the script only fetches them again when the log grows."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from cascadenced.clock import parse_iso
from cascadenced.events.base import Json
from cascadenced.events.catalogue import TYPES
from cascadenced.http.health import alive
from cascadenced.http.html import Child, Html, tag
from cascadenced.instance import Instance, Status
from cascadenced.projections.answers import TaskView
from cascadenced.projections.page import Page
from cascadenced.projections.runs import ChildView, RunRow, RunView, StageView, StepView, WaitView
from cascadenced.projections.schedules import ScheduleRow
from cascadenced.projections.task_status import TaskRow

N_RUNS = 25
MAX_LINE_CHARS = 60
"""A shorter value is shown on one line."""
MAX_SHOWN_CHARS = 4_000
"""Of a value on a page; all of it is in the run's events."""

N_SCHEDULES = 50
MAX_CHILDREN_SHOWN = 200
"""All of them are in the JSON."""

_NOTHING = tag("span", "—", class_="none")
_BACK = tag("p", tag("a", "← All tasks and runs", href="/"), class_="back")
_MARKS = {
    "success": "✓", "enabled": "✓", "ok": "✓", "connected": "✓",
    "error": "✕", "failing": "✕", "disconnected": "✕", "failed": "✕",
    "running": "▶", "started": "▶",
    "queued": "○", "pending": "○", "planned": "○", "timeout": "◔", "skipped": "–", "foreign": "–",
    "waiting": "◔", "paused": "‖", "degraded": "!", "in_doubt": "?", "cancelled": "■", "disabled": "⊘", "refused": "⊘",
}  # fmt: skip
"""A sign for each status, so that colour is never all that tells them apart."""


async def overview(instance: Instance) -> str:
    """The instance, its tasks, its schedules and its newest runs."""
    status = await instance.status()
    runs = await instance.answers.runs(limit=N_RUNS)
    letters = await instance.answers.dead_letters(limit=100)
    tasks = instance.board.rows()
    schedules = await instance.answers.schedules(now_us=instance.clock.now_us(), limit=N_SCHEDULES)
    body = [
        _instance(status, alive(instance).status, letters),
        tag("section", tag("h2", "Tasks"), _tasks(tasks), aria_label="Tasks"),
        tag(
            "section",
            tag("h2", "Schedules"),
            _stale(schedules.stale_since),
            _all_schedules(schedules),
            aria_label="Schedules",
        )
        if schedules.items
        else None,
        tag("section", tag("h2", "Recent runs"), _stale(runs.stale_since), _runs(runs.items), aria_label="Recent runs"),
    ]
    return _document("Cascadence", body, status.position)


def task_page(task: TaskView, schedule: ScheduleRow | None) -> str:
    """One task: how it stands, its schedule if it has one, and its newest runs."""
    body = [
        _BACK,
        tag("h1", "Task ", tag("code", task.name)),
        _facts(
            ("Kind", task.kind),
            ("Mode", task.mode),
            ("State", _status(_state(task))),
            ("Running, queued", f"{task.running:,}, {task.queued:,}"),
            ("Last status", _status(task.last_status)),
            ("Last finished", _time(task.last_finished_at)),
            ("Pointers", _count(task.n_pointers)),
        ),
        tag("section", tag("h2", "Schedule"), _schedules([schedule]), aria_label="Schedule") if schedule else None,
        tag(
            "section",
            tag("h2", "Recent runs"),
            _stale(task.stale_since),
            _runs(task.recent_runs) if task.recent_runs else tag("p", "No run yet.", class_="empty"),
            aria_label="Recent runs",
        ),
    ]
    return _document(f"{task.name} · Cascadence", body, 0)


def refusal_page(detail: str) -> str:
    """What was asked for is not there, or cannot be told from something else."""
    return _document("Cascadence", [_BACK, tag("p", detail, class_="alarm")], None)


def run_page(run: RunView) -> str:
    """One run: how it stands, its six stages and their steps, the runs of its plan, what went in and came out."""
    error = run.error
    ended = run.status in ("success", "error", "refused", "cancelled")
    body = [
        _BACK,
        tag("h1", "Run ", tag("code", run.run_id)),
        _facts(
            ("Task", _task_link(run.task)),
            ("Status", _status(run.status)),
            *_waiting(run.waits_for),
            ("Requested", _time(run.requested_at)),
            ("Started", _time(run.started_at)),
            ("Finished", _time(run.finished_at)),
            ("Took", _took(run.started_at, run.finished_at)),
            ("Attempt", run.attempt or _NOTHING),
            ("User", _short(run.user_hash)),
            ("Group", _short(run.group_hash)),
            ("Parent run", _run_link(run.parent_run_id) if run.parent_run_id else _NOTHING),
        ),
        tag("section", tag("h2", "Error"), _error(error.type, error.message)) if error else None,
        tag("section", tag("h2", "Stages"), _stages(run.stages), aria_label="Stages"),
        tag("section", tag("h2", "Runs of its plan"), _children(run.children), aria_label="Runs of its plan")
        if run.children
        else None,
        tag("section", tag("h2", "Arguments"), _value(run.args)) if run.args else None,
        tag("section", tag("h2", "Result"), _value(run.result)) if run.status == "success" else None,
        tag("p", tag("a", "All events of this run (JSON)", href=f"/runs/{quote(run.run_id, safe='')}/events")),
    ]
    return _document(f"{run.task} {run.run_id[:8]} · Cascadence", body, None if ended else 0)


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────


def _document(title: str, body: Child, position: int | None) -> str:
    """position: where the script begins to follow the log (0: at its live end), None if nothing will change."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="/static/icon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href="/static/page.css"),
        tag("script", type="module", src="/static/page.js"),
    )
    top = tag(
        "header",
        tag("a", tag("span", aria_hidden="true", class_="sign"), "Cascadence", href="/", class_="brand"),
        tag("span", class_="live", role="status", data_live=True),
    )
    live = {} if position is None else {"data_after": position or None, "data_types": " ".join(TYPES)}
    links = (
        "status",
        "runs",
        "schedules",
        "dead-letters",
        "metrics",
        "openapi.json",
        "asyncapi.json",
        "events.schema.json",
    )
    foot = tag("footer", tag("nav", [tag("a", f"/{link}", href=f"/{link}") for link in links], aria_label="Data"))
    page = tag("html", head, tag("body", top, tag("main", body, **live), foot), lang="en")
    return f"<!doctype html>\n{page}"


def _instance(status: Status, health: str, letters: Page) -> Html:
    bus = status.bus
    unread = sum(not letter.redriven for letter in letters.items)
    return tag(
        "section",
        tag("h1", "Cascadence ", tag("small", status.version), class_="quiet"),
        _facts(
            ("Health", _status(health)),
            ("Up", _duration(status.uptime_s)),
            ("Log position", f"{status.position:,}"),
            ("Running, queued", f"{status.n_running:,}, {status.n_queued:,}"),
            ("Durability", "each event synced to disk" if status.durability == "fsync" else status.durability),
            (
                "NATS",
                _NOTHING if bus is None else [_status("connected" if bus.connected else "disconnected"), " ", bus.url],
            ),
            ("To publish", _NOTHING if bus is None else f"{bus.outbox_pending:,}"),
            *([("NATS broke last", bus.last_break)] if bus is not None and bus.last_break else []),
            ("Dead letters", tag("a", f"{unread:,}{'+' if letters.next else ''}", href="/dead-letters")),
            ("Instance", tag("code", status.instance_id)),
        ),
        tag("p", f"Nothing can be recorded: {status.read_only}", class_="alarm") if status.read_only else None,
        [tag("p", f"The projection {name} has stopped: {why}", class_="alarm") for name, why in status.frozen.items()],
        [tag("p", f"{plugin} is not loaded: {why}", class_="alarm") for plugin, why in status.rejected.items()],
        aria_label="Instance",
    )


def _tasks(rows: Sequence[TaskRow]) -> Html:
    if not rows:
        return tag("p", "No task is registered.", class_="empty")
    return _table(
        ("Task", "Kind", "Mode", "State", "Running", "Queued", "Last run", "Last status", "Last finished"),
        [
            (
                _task_link(row.name),
                row.kind,
                row.mode,
                _status(_state(row)),
                _count(row.running),
                _count(row.queued),
                _run_link(row.last_run_id),
                _status(row.last_status),
                _time(row.last_finished_at),
            )
            for row in rows
        ],
    )


def _all_schedules(page: Page) -> list[Html | None]:
    more = tag("p", tag("a", "All schedules (JSON)", href="/schedules"), class_="none") if page.next else None
    return [_schedules(page.items), more]


def _schedules(rows: Sequence[ScheduleRow]) -> Html:
    return _table(
        ("Task", "When", "Zone", "Next", "State", "Last run", "What became of it"),
        [
            (
                _task_link(row.task),
                tag("code", _rule(row)),
                row.timezone,
                _NOTHING if row.next_fire_at is None else tag("time", row.next_fire_at, datetime=row.next_fire_at),
                _status("paused" if row.paused else "enabled"),
                _run_link(row.last_run_id),
                tag("a", "ledger (JSON)", href=f"/schedules/{quote(row.task, safe='')}/ticks"),
            )
            for row in rows
        ],
    )


def _rule(row: ScheduleRow) -> str:
    if row.expr is not None:
        return row.expr
    if row.rrule is not None:
        return row.rrule
    if row.every_s is not None:
        return f"every {_duration(row.every_s)}"
    return f"once, {row.at}" if row.at is not None else "as its calendar says"


def _state(row: TaskRow) -> str:
    if row.kind == "foreign":
        return "foreign"
    return "disabled" if row.disabled else "paused" if row.paused else "enabled"


def _runs(rows: Sequence[RunRow]) -> Html:
    if not rows:
        hint = tag("code", "task run example --user-id you --group-id team")
        return tag("p", "No run yet. Try ", hint, class_="empty")
    return _table(
        ("Run", "Task", "Status", "Waits for", "Stage", "Requested", "Took"),
        [
            (
                _run_link(row.run_id),
                _task_link(row.task),
                _status(row.status),
                _waits(row.waits_for),
                row.stage or _NOTHING,
                _time(row.requested_at),
                _took(row.started_at, row.finished_at),
            )
            for row in rows
        ],
    )


def _stages(stages: Sequence[StageView]) -> Html:
    return _table(
        ("Stage", "Status", "Started", "Took", "Attempt", "Output"),
        [
            (
                tag("div", view.stage, _steps(view.steps, view.n_steps)) if view.steps else view.stage,
                _status(view.status),
                _time(view.started_at),
                _NOTHING if view.took_s is None else _duration(view.took_s),
                view.attempt or _NOTHING,
                _NOTHING if view.output is None else _value(view.output),
            )
            for view in stages
        ],
    )


def _steps(steps: Sequence[StepView], n_steps: int) -> Html | None:
    """In the order of the code: what is done, and where it stands."""
    if not steps:
        return None
    left_out = n_steps - len(steps)
    return tag(
        "ol",
        tag("li", f"{left_out:,} before", class_="none") if left_out else None,
        [
            tag(
                "li",
                _status(step.status),
                " ",
                step.name if step.kind == "step" else f"{step.kind} {step.name}".rstrip(),
                None if step.took_s is None else tag("span", f" {_duration(step.took_s)}", class_="none"),
            )
            for step in steps
        ],
        class_="steps",
    )


def _children(children: Sequence[ChildView]) -> Html:
    return _table(
        ("Place", "Task", "Run", "Status", "Attempt"),
        [
            (
                child.index + 1,
                child.task,
                _run_link(child.run_id),
                _status(child.status),
                child.attempt or _NOTHING,
            )
            for child in children[:MAX_CHILDREN_SHOWN]
        ],
    )


def _waiting(wait: WaitView | None) -> list[tuple[str, Child]]:
    if wait is None:
        return []
    return [("Waits for", wait.text), *([("Because", wait.reason)] if wait.reason else [])]


def _waits(wait: WaitView | None) -> Html:
    return _NOTHING if wait is None else tag("span", wait.text, title=wait.reason, class_="waits")


def _facts(*facts: tuple[str, Child]) -> Html:
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts")


def _table(heads: Sequence[str], rows: Sequence[Sequence[Child]]) -> Html:
    """Cells carry the name of their column: on a narrow screen each row is shown as a list."""
    return tag(
        "table",
        tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
        tag(
            "tbody",
            [
                tag("tr", [tag("td", cell, data_label=head) for head, cell in zip(heads, row, strict=True)])
                for row in rows
            ],
        ),
    )


def _status(status: str | None) -> Html:
    if status is None:
        return _NOTHING
    # A foreign run's status is whatever its sender calls it; only words of ours become a class.
    known = status if status in _MARKS else "other"
    mark = tag("span", _MARKS.get(status, "·"), aria_hidden="true", class_="mark")
    return tag("span", mark, status.replace("_", " "), class_=f"status {known}")


def _count(n: int) -> Html:
    return tag("span", f"{n:,}", class_="number" if n else "number none")


def _task_link(name: str) -> Html:
    return tag("a", name, href=f"/status/{quote(name, safe='')}")


def _run_link(run_id: str | None) -> Html:
    if run_id is None:
        return _NOTHING
    return tag("a", tag("code", _abridged(run_id)), href=f"/runs/{quote(run_id, safe='')}", title=run_id)


def _abridged(run_id: str) -> str:
    # The beginning of an id is its time, the same for runs of one minute; its end tells them apart.
    return run_id if len(run_id) <= 14 else f"{run_id[:8]}…{run_id[-4:]}"


def _short(pseudonym: str | None) -> Child:
    return _NOTHING if pseudonym is None else tag("code", f"{pseudonym[:12]}…", title=pseudonym)


def _time(at: str | None) -> Html:
    """An instant in UTC; the script shows how long ago it is."""
    if at is None:
        return _NOTHING
    return tag("time", f"{at[:10]} {at[11:19]} UTC", datetime=at)


def _took(started_at: str | None, finished_at: str | None) -> Child:
    if started_at is None or finished_at is None:
        return _NOTHING
    return _duration((parse_iso(finished_at) - parse_iso(started_at)) / 1_000_000)


def _duration(seconds: float) -> str:
    if seconds < 0.0005:
        return "< 1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours == 0:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{hours} h {minutes % 60} min" if days == 0 else f"{days} d {hours % 24} h"


def _error(kind: str, message: str) -> Html:
    return tag("p", tag("strong", kind), " ", tag("span", message, class_="message"), class_="alarm")


def _value(value: Json) -> Html:
    encoded = msgspec.json.encode(value)
    text = msgspec.json.format(encoded, indent=0 if len(encoded) <= MAX_LINE_CHARS else 2).decode()
    cut = len(text) > MAX_SHOWN_CHARS
    return tag("pre", tag("code", text[:MAX_SHOWN_CHARS] + ("\n… (cut; all of it is in the events)" if cut else "")))


def _stale(since: str | None) -> Html | None:
    return tag("p", f"This list stopped at {since}.", class_="alarm") if since else None
