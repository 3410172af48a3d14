"""What a stage may ask for on its way. Pure; what makes no sense raises Invalid, for the task to see.

Asked before a place is taken, in a thread, in a process of the task's own and in a replay alike: a stage that catches
what it was refused goes on counting as if it had not asked.
"""

from __future__ import annotations

from cascadenced.errors import Invalid
from cascadenced.events.base import Json
from cascadenced.events.content import recordable, type_name

MAX_NAME_CHARS = 200
LONGEST_S = 10 * 366 * 86_400


def checked_step(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise Invalid(f"the name of a step is 1 to {MAX_NAME_CHARS} printable characters, not {name!r:.80}")
    return name


def checked_sleep(seconds: object) -> float:
    return _checked_s(seconds, "sleep() takes")


def checked_wait(event: object, timeout_s: object, where: object) -> dict[str, Json]:
    """What the event must hold, as it is recorded."""
    if not isinstance(event, str):
        raise Invalid(f"the name of an event must be text, not {event!r:.80}")
    from cascadenced.events.subjects import checked_event_name  # 3 ms of a worker's start, for the few that wait

    checked_event_name(event)
    if timeout_s is not None:
        _checked_s(timeout_s, "timeout_s must be")
    matching = recordable(where or {}, "where")
    if not isinstance(matching, dict):
        raise Invalid(f"where must be a dict, not a {type_name(where)}")
    return matching


def refused_within(what: str) -> Invalid:
    """what: asked for by the code of a step."""
    return Invalid(f"{what} cannot be taken within another one: do it before or after", code="step.nested")


def _checked_s(seconds: object, what: str) -> float:
    if type(seconds) not in (int, float) or not 0 <= seconds <= LONGEST_S:  # type: ignore[operator]
        raise Invalid(f"{what} a number of seconds from 0 to {LONGEST_S}, not {seconds!r:.80}")
    return float(seconds)  # type: ignore[arg-type]
