"""The pages for people. Complete as the server sends them; the script only fetches them again when the log grows."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from cascadenced.events.base import Json
from cascadenced.events.catalogue import TYPES
from cascadenced.http.cells import (
    NOTHING,
    duration,
    facts,
    failure,
    moment,
    number,
    pseudonym,
    run_link,
    state_of,
    stopped_at,
    table,
    task_link,
    took,
    value_of,
    verbatim,
)
from cascadenced.http.health import alive
from cascadenced.http.html import Child, Html, tag
from cascadenced.instance import Instance, Status
from cascadenced.projections.answers import TaskView
from cascadenced.projections.page import Page
from cascadenced.projections.run_view import ChildView, RunRow, RunView, StageView, StepView, WaitView
from cascadenced.projections.schedule_view import ScheduleRow
from cascadenced.projections.task_status import TaskRow

N_RUNS = 25
MAX_STEP_CHARS = 200
"""Of what a step returned."""
N_SCHEDULES = 50
MAX_CHILDREN_SHOWN = 200
"""All of them are in the JSON."""

_BACK = tag("p", tag("a", "← All tasks and runs", href="/"), class_="back")


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
            stopped_at(schedules.stale_since),
            _all_schedules(schedules),
            aria_label="Schedules",
        )
        if schedules.items
        else None,
        tag(
            "section",
            tag("h2", "Recent runs"),
            stopped_at(runs.stale_since),
            _runs(runs.items),
            aria_label="Recent runs",
        ),
    ]
    return _document("Cascadence", body, status.position)


def task_page(task: TaskView, schedule: ScheduleRow | None) -> str:
    """One task: how it stands, its schedule if it has one, and its newest runs."""
    body = [
        _BACK,
        tag("h1", "Task ", tag("code", task.name)),
        facts(
            ("Kind", task.kind),
            ("Mode", task.mode),
            ("State", state_of(_switches(task))),
            ("Under way, queued", f"{task.running:,}, {task.queued:,}"),
            ("Last status", state_of(task.last_status)),
            ("Last finished", moment(task.last_finished_at)),
            ("Pointers", number(task.n_pointers)),
        ),
        tag("section", tag("h2", "Schedule"), _schedules([schedule]), aria_label="Schedule") if schedule else None,
        tag(
            "section",
            tag("h2", "Recent runs"),
            stopped_at(task.stale_since),
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
        facts(
            ("Task", task_link(run.task)),
            ("Status", state_of(run.status)),
            *_waiting(run.waits_for),
            ("Requested", moment(run.requested_at)),
            ("Started", moment(run.started_at)),
            ("Finished", moment(run.finished_at)),
            ("Took", took(run.started_at, run.finished_at)),
            ("Attempt", run.attempt or NOTHING),
            ("User", pseudonym(run.user_hash)),
            ("Group", pseudonym(run.group_hash)),
            ("Parent run", run_link(run.parent_run_id) if run.parent_run_id else NOTHING),
        ),
        tag("section", tag("h2", "Error"), failure(error.type, error.message)) if error else None,
        tag("section", tag("h2", "Stages"), _stages(run.stages), aria_label="Stages"),
        [_printed(view.stage, view.printed) for view in run.stages if view.printed],
        tag("section", tag("h2", "Runs of its plan"), _children(run.children), aria_label="Runs of its plan")
        if run.children
        else None,
        tag("section", tag("h2", "Arguments"), value_of(run.args)) if run.args else None,
        tag("section", tag("h2", "Result"), value_of(run.result)) if run.status == "success" else None,
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
        facts(
            ("Health", state_of(health)),
            ("Up", duration(status.uptime_s)),
            ("Log position", f"{status.position:,}"),
            ("Running, queued", f"{status.n_running:,}, {status.n_queued:,}"),
            ("Durability", "each event synced to disk" if status.durability == "fsync" else status.durability),
            (
                "NATS",
                NOTHING if bus is None else [state_of("connected" if bus.connected else "disconnected"), " ", bus.url],
            ),
            ("To publish", NOTHING if bus is None else f"{bus.outbox_pending:,}"),
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
    return table(
        ("Task", "Kind", "Mode", "State", "Under way", "Queued", "Last run", "Last status", "Last finished"),
        [
            (
                task_link(row.name),
                row.kind,
                row.mode,
                state_of(_switches(row)),
                number(row.running),
                number(row.queued),
                run_link(row.last_run_id),
                state_of(row.last_status),
                moment(row.last_finished_at),
            )
            for row in rows
        ],
    )


def _all_schedules(page: Page) -> list[Html | None]:
    more = tag("p", tag("a", "All schedules (JSON)", href="/schedules"), class_="none") if page.next else None
    return [_schedules(page.items), more]


def _schedules(rows: Sequence[ScheduleRow]) -> Html:
    return table(
        ("Task", "When", "Zone", "Next", "State", "Last run", "Ledger"),
        [
            (
                task_link(row.task),
                tag("code", _rule(row)),
                row.timezone,
                NOTHING if row.next_fire_at is None else tag("time", row.next_fire_at, datetime=row.next_fire_at),
                state_of("paused" if row.paused else "enabled"),
                run_link(row.last_run_id),
                tag("a", "JSON", href=f"/schedules/{quote(row.task, safe='')}/ticks"),
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
        return f"every {row.every_s:g} s" if row.every_s < 60 else f"every {duration(row.every_s)}"
    return f"once, {row.at}" if row.at is not None else "as its calendar says"


def _switches(row: TaskRow) -> str:
    if row.kind == "foreign":
        return "foreign"
    return "disabled" if row.disabled else "paused" if row.paused else "enabled"


def _runs(rows: Sequence[RunRow]) -> Html:
    if not rows:
        hint = tag("code", "task run example --user-id you --group-id team")
        return tag("p", "No run yet. Try ", hint, class_="empty")
    return table(
        ("Run", "Task", "Status", "Waits for", "Stage", "Requested", "Took"),
        [
            (
                run_link(row.run_id),
                task_link(row.task),
                state_of(row.status),
                _waits(row.waits_for),
                row.stage or NOTHING,
                moment(row.requested_at),
                took(row.started_at, row.finished_at),
            )
            for row in rows
        ],
    )


def _stages(stages: Sequence[StageView]) -> Html:
    return table(
        ("Stage", "Status", "Started", "Took", "Attempt", "Output"),
        [
            (
                tag("div", view.stage, _steps(view.steps, view.n_steps)) if view.steps else view.stage,
                state_of(view.status),
                moment(view.started_at),
                NOTHING if view.took_s is None else duration(view.took_s),
                view.attempt or NOTHING,
                NOTHING if view.output is None else value_of(view.output),
            )
            for view in stages
        ],
    )


def _printed(stage: str, text: str) -> Html:
    return tag("section", tag("h2", f"Printed by {stage}"), verbatim(text))


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
                state_of(step.status),
                " ",
                step.name if step.kind == "step" else f"{step.kind} {step.name}".rstrip(),
                None if step.took_s is None else tag("span", f" {duration(step.took_s)}", class_="none"),
                None if step.output is None else [" → ", tag("code", _in_a_line(step.output))],
                None if step.error is None else f" {step.error}",
            )
            for step in steps
        ],
        class_="steps",
    )


def _in_a_line(value: Json) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_STEP_CHARS else text[: MAX_STEP_CHARS - 1] + "…"


def _children(children: Sequence[ChildView]) -> Html:
    return table(
        ("Item", "Task", "Run", "Status", "Attempt"),
        [
            (
                child.index,
                child.task,
                run_link(child.run_id),
                state_of(child.status),
                child.attempt or NOTHING,
            )
            for child in children[:MAX_CHILDREN_SHOWN]
        ],
    )


def _waiting(wait: WaitView | None) -> list[tuple[str, Child]]:
    if wait is None:
        return []
    return [("Waits for", wait.text), *([("Because", wait.reason)] if wait.reason else [])]


def _waits(wait: WaitView | None) -> Html:
    return NOTHING if wait is None else tag("span", wait.text, title=wait.reason, class_="waits")
