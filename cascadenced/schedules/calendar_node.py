"""What the node of a calendar says of when something is due, taken into a rule. Pure."""

from __future__ import annotations

from urllib.parse import quote

from msgspec.structs import replace

from cascadenced.errors import CascadenceError, Invalid
from cascadenced.events.base import Json
from cascadenced.events.content import recordable
from cascadenced.events.schedule import ScheduleSet
from cascadenced.recurrence.zones import zone
from cascadenced.schedules.timetable import timetable

MAX_NODE_CHARS = 1_000
MISSING = "event missing recurrence cron"


def checked_node(node: str) -> str:
    """`node` if it may name one: a path, with or without a slash at its beginning. Raises Invalid."""
    parts = node.strip().strip("/").split("/")
    if parts == [""]:
        raise Invalid("calendar_event node is required")
    if len(node) > MAX_NODE_CHARS or not node.isprintable() or not {".", ".."}.isdisjoint(parts):
        raise Invalid(f"calendar_event node must be a path of at most {MAX_NODE_CHARS} characters, without . and ..")
    return node.strip()


def node_path(node: str) -> str:
    """As it is spelled in a URL, without a slash at its beginning."""
    return quote(node.lstrip("/"), safe="/")


def as_node_says(rule: ScheduleSet, recurrence: Json, *, now_us: int) -> ScheduleSet:
    """`rule` with the node's `recurrence`: {cron or rrule, timezone?}; the same object if it has that already.

    It counts from `now_us`, unless it is due as before. Raises Invalid for what is no recurrence, or never due. What
    the node says is not quoted: others than whose calendar it is read the message.
    """
    expr, rrule = _trigger(recurrence)
    assert isinstance(recurrence, dict)
    node_timezone = recurrence.get("timezone")
    try:
        kept = recordable(recurrence)
        if node_timezone is not None:
            zone(node_timezone if isinstance(node_timezone, str) else "")
        said = replace(
            rule,
            expr=expr,
            rrule=rrule,
            node_timezone=node_timezone,
            recurrence=kept,
            via="calendar",
        )
        if replace(said, recurrence=rule.recurrence, via=rule.via) == rule:
            return rule if kept == rule.recurrence else said
        said = replace(said, from_us=now_us)
        table = timetable(said)
        is_due = table is not None and table.next_us(now_us) is not None
    except CascadenceError as error:
        raise Invalid(f"its recurrence is no rule that can be kept ({error.code})", code=error.code) from None
    if not is_due:
        raise Invalid("its recurrence is never due from now on", code="never")
    return said


def _trigger(recurrence: Json) -> tuple[str | None, str | None]:
    """(cron expression, iCalendar rule): one of them."""
    for name in ("cron", "rrule"):
        value = recurrence.get(name) if isinstance(recurrence, dict) else None
        if isinstance(value, str) and value.strip():
            return (value, None) if name == "cron" else (None, value)
    raise Invalid(MISSING, code="no_recurrence")
