"""What people write of a schedule, in a file, a message or a command, read as a rule. Pure.

report: "0 9 * * 1-5"

report:
  expr: "30 2 * * *"
  timezone: Europe/Berlin
  dst: {gap: skip, overlap: both}
  misfire: {policy: all, within_s: 86400, max: 10}
  overlap: queue
  jitter_s: 30
  exclude: [2026-12-25]
  args: {sheet: 7}
  user_id: alice
  group_id: eng
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

import msgspec

from cascadenced.errors import CascadenceError, Invalid
from cascadenced.events.base import Json
from cascadenced.events.content import TooLarge, Unserialisable, recordable, type_name
from cascadenced.events.schedule import ScheduleSet
from cascadenced.events.subjects import checked_event_name
from cascadenced.identity import checked, checked_hash
from cascadenced.recurrence.exclusions import parse_dates
from cascadenced.schedules.calendar_node import checked_node
from cascadenced.schedules.timetable import timetable

MISFIRES = ("skip", "latest", "all")
OVERLAPS = ("skip", "queue", "allow", "cancel_previous")
MAX_WINDOW_S = 366 * 86_400.0
MAX_AT_ONCE = 10_000
MAX_JITTER_S = 86_400.0
DEFAULT_POLL_S = 300.0
MIN_POLL_S = 1.0

_WHENS = ("expr", "rrule", "every_s", "at", "calendar_event")
_IDS, _HASHES = {"user_id", "group_id"}, {"user_hash", "group_hash"}
_WHO = ("user_id", "group_id", "user_hash", "group_hash")
_KEYS = (
    *_WHENS,
    *("timezone", "dst", "misfire", "overlap", "jitter_s", "exclude", "exclude_ics", "args", "event"),
    *("recurrence", "poll", "deps"),
    *_WHO,
)


class Definition(msgspec.Struct, frozen=True):
    """who: the ids or pseudonyms that were named, by key."""

    rule: ScheduleSet
    who: Mapping[str, str]


def defined(task: str, entry: Json, *, now_us: int, timezone: str, via: str) -> Definition:
    """The rule that `entry` describes for `task`. timezone: where it names none.  now_us: what it counts from.

    Raises Invalid, each message beginning with the task's name.
    """
    try:
        return _defined(task, entry, now_us=now_us, timezone=timezone, via=via)
    except CascadenceError as error:
        raise Invalid(f"{task}: {error}", code=error.code) from None


def _defined(task: str, entry: Json, *, now_us: int, timezone: str, via: str) -> Definition:
    if isinstance(entry, str):
        entry = {"expr": entry}
    if not isinstance(entry, dict):
        raise Invalid("entry must be a string or mapping")
    for key in entry:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1)
            raise Invalid(f"unknown key {str(key)[:40]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    given = {key: value for key, value in entry.items() if value is not None}
    if not any(key in given for key in _WHENS):
        # A key that is there and empty was meant.
        raise Invalid("'expr' must be a non-empty string" if "expr" in entry else "missing 'expr' or 'calendar_event'")
    node = _calendar_event(given)
    whens = [key for key in _WHENS[:-1] if key in given]
    if node is not None:
        whens = []  # it wins, as it did in the predecessor
    elif len(whens) > 1:
        raise Invalid(f"{' and '.join(map(repr, whens))} are both set; one says when")
    if "expr" in whens and (not isinstance(given["expr"], str) or not given["expr"].strip()):
        raise Invalid("'expr' must be a non-empty string")
    gap, fold = _dst(given.get("dst", {}))
    misfire, within_s, most = _misfire(given.get("misfire", "latest"))
    rule = ScheduleSet(
        task=task,
        calendar_event=node,
        event=None if "event" not in given else checked_event_name(_text(given, "event")),
        args=_args(given.get("args", {})),
        from_us=now_us,
        timezone=_text({"timezone": given.get("timezone") or timezone}, "timezone"),
        gap=gap,
        fold=fold,
        misfire=misfire,
        misfire_within_s=within_s,
        misfire_max=most,
        overlap=_one_of("overlap", given.get("overlap", "skip"), OVERLAPS),
        jitter_s=_number("jitter_s", given.get("jitter_s", 0.0), 0.0, MAX_JITTER_S),
        exclude=_exclude(given.get("exclude", ())),
        exclude_ics=None if "exclude_ics" not in given else _text(given, "exclude_ics"),
        deps=_deps(given.get("deps", [])),
        recurrence=_recordable("recurrence", given.get("recurrence")),
        via=via,
        **{key: given[key] for key in whens},
    )
    return Definition(_checked(rule), _who(given))


def _checked(rule: ScheduleSet) -> ScheduleSet:
    """`rule`, if it is due at all. What its parts must be, `recurrence/` says."""
    for name, kinds in (("rrule", str), ("every_s", (int, float)), ("at", str)):
        value = getattr(rule, name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            wanted = "a number of seconds" if name == "every_s" else "a text"
            raise Invalid(f"'{name}' must be {wanted}, not {type_name(value)}")
    found = timetable(rule)
    if found is not None and found.next_us(rule.from_us) is None:
        if rule.at is not None:
            raise Invalid(f"'at' is in the past: {rule.at}", code="at.past")
        raise Invalid("it is never due from now on", code="never")
    return rule


def _calendar_event(given: Mapping[str, Json]) -> dict[str, Json] | None:
    """{node, poll}"""
    if "calendar_event" not in given:
        return None
    event, poll = given["calendar_event"], given.get("poll")
    if isinstance(event, dict):
        if "node" not in event:
            raise Invalid("calendar_event missing 'node'")
        _mapping("calendar_event", event, ("node", "poll", *_WHO))
        poll = event.get("poll", poll)
        event = event["node"]
        if not isinstance(event, str):
            raise Invalid("calendar_event node must be a text")
    elif not isinstance(event, str):
        raise Invalid("'calendar_event' must be string or mapping")
    node: dict[str, Json] = {"node": checked_node(event)}
    if poll is not None:
        node["poll"] = _number("poll", poll, MIN_POLL_S, MAX_WINDOW_S)
    return node


def _dst(value: Json) -> tuple[str, str]:
    value = _mapping("dst", value, ("gap", "overlap"))
    return str(value.get("gap", "shift")), str(value.get("overlap", "first"))


def _misfire(value: Json) -> tuple[str, float, int]:
    if isinstance(value, str):
        value = {"policy": value}
    value = _mapping("misfire", value, ("policy", "within_s", "max"))
    most = value.get("max", 100)
    if type(most) is not int or not 1 <= most <= MAX_AT_ONCE:
        raise Invalid(f"'misfire.max' must be a whole number from 1 to {MAX_AT_ONCE}")
    return (
        _one_of("misfire", value.get("policy", "latest"), MISFIRES),
        _number("misfire.within_s", value.get("within_s", 3_600.0), 0.0, MAX_WINDOW_S),
        most,
    )


def _exclude(value: Json) -> tuple[str, ...]:
    return tuple(sorted(day.isoformat() for day in parse_dates(value)))


def _args(value: Json) -> dict[str, Json]:
    value = _recordable("args", value)
    if not isinstance(value, dict):
        raise Invalid("'args' must be a mapping")
    return value


def _recordable(key: str, value: Json) -> Json:
    try:
        return recordable(value, key)
    except (Unserialisable, TooLarge) as error:
        quotes = "; write it in quotes" if " is of type date" in str(error) else ""
        raise Invalid(f"{error}{quotes}", code=error.code) from None


def _who(given: Mapping[str, Json]) -> dict[str, str]:
    calendar = given.get("calendar_event")
    inner = calendar if isinstance(calendar, dict) else {}
    who = {key: _text({**given, **inner}, key) for key in _WHO if key in given or key in inner}
    for key, id_or_hash in who.items():
        (checked if key in _IDS else checked_hash)(id_or_hash, f"'{key}'")
    named = who.keys()
    if named & _IDS and named & _HASHES:  # one of them would be passed over
        raise Invalid("'user_id' goes with 'group_id', and 'user_hash' with 'group_hash'; write one pair")
    if named and not named & {"user_id", "user_hash"}:
        raise Invalid("a group needs a user: add " + ("'user_id'" if named & _IDS else "'user_hash'"))
    return who


def _deps(value: Json) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise Invalid("'deps' must be a list of task names")
    return tuple(dict.fromkeys(value))


def _text(given: Mapping[str, Json], key: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise Invalid(f"'{key}' must be a non-empty string")
    return value


def _one_of(key: str, value: Json, words: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in words:
        raise Invalid(f"'{key}' must be {', '.join(words[:-1])} or {words[-1]}")
    return value


def _number(key: str, value: Json, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most:
        raise Invalid(f"'{key}' must be a number from {least:.12g} to {most:.12g}")
    return float(value)


def _mapping(key: str, value: Json, keys: tuple[str, ...]) -> dict[str, Json]:
    if not isinstance(value, dict) or not set(value) <= set(keys):
        raise Invalid(f"'{key}' must be a mapping of {', '.join(keys)}")
    return value
