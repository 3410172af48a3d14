"""All events there are, and the one decoder of the log's own bytes."""

from __future__ import annotations

import msgspec

from cascadenced.events.base import Event
from cascadenced.events.child import ChildEnded, ChildRequested
from cascadenced.events.dead_letter import MessageDeadLettered, MessageRedriven
from cascadenced.events.followup import FollowupRequested, FollowupSkipped
from cascadenced.events.idea import IdeaRecorded, NoteRecorded
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import (
    ForeignRunReported,
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunFinished,
    RunHeld,
    RunPaused,
    RunRefused,
    RunReleased,
    RunRequested,
    RunResolved,
    RunResumed,
    RunStarted,
)
from cascadenced.events.schedule import (
    CalendarRead,
    CalendarUnread,
    ScheduleFileRejected,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TickBackfilled,
    TickFired,
    TickQueued,
    TicksPassed,
)
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageLate, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.system import (
    BusLost,
    BusRestored,
    ConfigRejected,
    ConfigReread,
    DaemonStarted,
    DaemonStopped,
    EpochBroken,
    EpochRepaired,
    LoopBlocked,
    RequestsRefused,
)
from cascadenced.events.task import (
    TaskDisabled,
    TaskEnabled,
    TaskPaused,
    TaskRegistered,
    TaskRejected,
    TaskResumed,
)
from cascadenced.events.upcast import to_current
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.events.workflow import EventDispatched

AnyEvent = (
    RunRequested
    | RunRefused
    | RunStarted
    | RunFinished
    | RunFailed
    | RunCancelled
    | RunPaused
    | RunResumed
    | RunHeld
    | RunReleased
    | RunDoubted
    | RunResolved
    | ForeignRunReported
    | StageStarted
    | StageFinished
    | StageFailed
    | StageInterrupted
    | StageLate
    | StepStarted
    | StepFinished
    | StepFailed
    | WaitStarted
    | WaitEnded
    | ChildRequested
    | ChildEnded
    | ContextAttached
    | ContextConsumed
    | TaskRegistered
    | TaskRejected
    | TaskEnabled
    | TaskDisabled
    | TaskPaused
    | TaskResumed
    | PointerAdded
    | ScheduleSet
    | SchedulePaused
    | ScheduleResumed
    | ScheduleRemoved
    | TickFired
    | TickBackfilled
    | TicksPassed
    | TickQueued
    | CalendarRead
    | CalendarUnread
    | ScheduleFileRejected
    | FollowupRequested
    | FollowupSkipped
    | IdeaRecorded
    | NoteRecorded
    | EventDispatched
    | MessageDeadLettered
    | MessageRedriven
    | DaemonStarted
    | DaemonStopped
    | LoopBlocked
    | RequestsRefused
    | ConfigReread
    | ConfigRejected
    | BusLost
    | BusRestored
    | EpochBroken
    | EpochRepaired
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
