"""All events there are, and the one decoder of the log's own bytes."""

from __future__ import annotations

import msgspec

from cascadenced.events.base import Event
from cascadenced.events.dead_letter import MessageDeadLettered, MessageRedriven
from cascadenced.events.followup import FollowupRequested, FollowupSkipped
from cascadenced.events.idea import IdeaRecorded, NoteRecorded
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import (
    ForeignRunReported,
    RunFailed,
    RunFinished,
    RunHeld,
    RunRefused,
    RunRequested,
    RunResumed,
    RunStarted,
)
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted
from cascadenced.events.system import ConfigRejected, ConfigReread, DaemonStarted, DaemonStopped, RequestsRefused
from cascadenced.events.task import (
    TaskDisabled,
    TaskEnabled,
    TaskPaused,
    TaskRegistered,
    TaskRejected,
    TaskResumed,
)
from cascadenced.events.upcast import to_current
from cascadenced.events.workflow import EventDispatched

AnyEvent = (
    RunRequested
    | RunRefused
    | RunStarted
    | RunFinished
    | RunFailed
    | RunHeld
    | RunResumed
    | ForeignRunReported
    | StageStarted
    | StageFinished
    | StageFailed
    | StageInterrupted
    | TaskRegistered
    | TaskRejected
    | TaskEnabled
    | TaskDisabled
    | TaskPaused
    | TaskResumed
    | PointerAdded
    | ScheduleSet
    | ScheduleRemoved
    | FollowupRequested
    | FollowupSkipped
    | IdeaRecorded
    | NoteRecorded
    | EventDispatched
    | MessageDeadLettered
    | MessageRedriven
    | DaemonStarted
    | DaemonStopped
    | RequestsRefused
    | ConfigReread
    | ConfigRejected
)

TYPES: dict[str, type[Event]] = {str(t.__struct_config__.tag): t for t in AnyEvent.__args__}
"""Type name as stored → struct."""

TYPE_NAMES: dict[type[Event], str] = {struct: name for name, struct in TYPES.items()}

SCHEMA = 1
"""The version that today's structs are written with; raised when a stored shape changes (`upcast.py`)."""

_decode = msgspec.json.Decoder(AnyEvent).decode
encode = msgspec.json.Encoder().encode


def decode(data: bytes, schema: int = SCHEMA) -> Event:
    """The event in the log's own bytes; `schema` is what they were written with."""
    event: Event = _decode(data if schema == SCHEMA else to_current(data, schema))
    return event
