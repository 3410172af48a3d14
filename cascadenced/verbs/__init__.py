"""The one table: verb → what it takes, what it does. The micro service, the Unix socket, the HTTP control routes and
commands without a daemon all serve it; none of them knows more than a name, a struct and a result.

A result is anything msgspec can encode; it is what the HTTP route of the same name returns.

base.py  runs.py  tasks.py  schedules.py  pointers.py  log.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cascadenced.errors import BadMessage, Invalid
from cascadenced.events.base import Json
from cascadenced.events.strict import shaped
from cascadenced.verbs import log, pointers, runs, schedules, tasks
from cascadenced.verbs.base import OWNERS_DOORS, Readable, Someone, Verb

VERBS: Mapping[str, Verb[Any]] = {
    verb.name: verb for verb in (*tasks.VERBS, *runs.VERBS, *schedules.VERBS, *pointers.VERBS, *log.VERBS)
}
"""What every face offers."""

LOCAL_VERBS: Mapping[str, Verb[Any]] = {verb.name: verb for verb in log.LOCAL_VERBS}
"""What only the owner of the data folder may ask, over the Unix socket: they show what the vault seals, or hold up
others while they work."""


_TOLD_THE_DOOR = (
    runs.RunArguments,
    runs.DispatchArguments,
    runs.ForkArguments,
    schedules.LoadArguments,
    schedules.SimulateArguments,
    Someone,
)


def is_duplicate(result: object) -> bool:
    """Whether a verb answers that the same was asked for before."""
    if isinstance(result, pointers.PointerResult):
        return not result.stored
    return bool(getattr(result, "duplicate", False))


async def perform(verb: Verb[Any], instance: Readable, value: Json, *, via: str | None = None) -> Any:
    """Do `verb` with arguments as they came from outside. instance: a whole one, unless the verb only reads.

    via: the door they came through, recorded with the run; None: the caller says it (only the owner's socket may).
    Raises Invalid for arguments that are not the verb's, and whatever the verb raises.
    """
    try:
        arguments = shaped(value, verb.takes)
    except BadMessage as error:
        raise Invalid(str(error)) from None
    if isinstance(arguments, _TOLD_THE_DOOR):
        if via is not None:
            arguments = msgspec.structs.replace(arguments, via=via)
        elif arguments.via not in OWNERS_DOORS:
            raise Invalid("via must be cli or python")
    return await verb.do(instance, arguments)
