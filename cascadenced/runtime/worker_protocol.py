"""What the daemon and a worker process say to each other: JSON with its length before it, over a pair of sockets.

The daemon opens a worker once, then has it perform one stage after the other. While it performs one, the worker may
ask; each question has an `id`, and its answer the same one. Both sides read strictly: what does not fit ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from cascadenced.events.base import Json
from cascadenced.events.place import Place
from cascadenced.pipeline.policy import Limits

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Arguments, an output and what is attached to a run are bounded far below; this is for what goes wrong."""
_LENGTH_BYTES = 4

EXIT_CHANNEL_LOST = 71
"""How a worker ends that cannot reach the daemon any more."""


class TaskSource(msgspec.Struct, frozen=True):
    """Where a task's class, or an object to copy for each run, is imported from."""

    module: str
    qualname: str


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    pass


# ── the daemon to the worker ─────────────────────────────────────────────────────────────────────────────────────


class Open(_Message, tag="open", frozen=True, kw_only=True):
    """The first message. path: of imports, as the daemon has it.  pythonpath: the daemon's own PYTHONPATH."""

    source: TaskSource
    limits: Limits
    path: tuple[str, ...]
    pythonpath: str | None


class StageCall(_Message, tag="perform", frozen=True, kw_only=True):
    """Do a stage. argument: what its hook is handed; UNSET: nothing.

    attributes: set on the task before its hook is called; the first call of a worker makes the task, and brings all.
    """

    stage: str
    argument: Json | msgspec.UnsetType = msgspec.UNSET
    attributes: dict[str, Json] = {}


class Attached(_Message, tag="attached", frozen=True, kw_only=True):
    """One more item for the task's `context`, also while a stage is under way."""

    item: Json


class Close(_Message, tag="close", frozen=True, kw_only=True):
    """Nothing more is to be done."""


class Recorded(msgspec.Struct, frozen=True, tag_field="type", tag="recorded"):
    """An answer: it is done, by now or in an earlier life of the run, and this is its value."""

    value: Json = None


class Go(msgspec.Struct, frozen=True, tag_field="type", tag="go"):
    """An answer: it is not done yet; do it."""


class Suspend(msgspec.Struct, frozen=True, tag_field="type", tag="suspend"):
    """An answer: not now; leave the hook. The stage is performed again, in another worker, when it can go on."""


class Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """An answer: no. kind: the name of the error in `errors.py` that the task is to see."""

    kind: str
    code: str
    text: str


Answer = Recorded | Go | Suspend | Refusal


class Answered(_Message, tag="answer", frozen=True, kw_only=True):
    id: int
    answer: Answer


ToWorker = Open | StageCall | Attached | Close | Answered


# ── the worker to the daemon: questions ──────────────────────────────────────────────────────────────────────────


class StepWanted(_Message, tag="step", frozen=True, kw_only=True):
    """May the step be done? Answer: Recorded, Go, Suspend or Refusal. place: `lanes.py`."""

    id: int
    place: Place
    name: str


class StepDone(_Message, tag="step_done", frozen=True, kw_only=True):
    """The step returned `value`, which is content. Answer, when it is recorded: Recorded."""

    id: int
    place: Place
    name: str
    value: Json = None
    took_s: float = 0.0


class StepRaised(_Message, tag="step_raised", frozen=True, kw_only=True):
    """The step raised, and its error goes on to the hook. Answer: Recorded, whether or not anything is."""

    id: int
    place: Place
    name: str
    error_type: str
    text: str
    took_s: float = 0.0


class SleepWanted(_Message, tag="sleep", frozen=True, kw_only=True):
    """Answer: Recorded when the time has passed, else Suspend."""

    id: int
    place: Place
    seconds: float


class EventWanted(_Message, tag="wait_for", frozen=True, kw_only=True):
    """Answer: Recorded with the event's payload, or None when the time is over; else Suspend.

    where: what the payload must hold, key by key.  timeout_s: None: as long as it takes.
    """

    id: int
    place: Place
    name: str
    where: dict[str, Json] = {}
    timeout_s: float | None = None


class Wish(_Message, tag="wish", frozen=True, kw_only=True):
    """Anything else that a task may ask of the daemon: a method of its host, by name. Answer: Recorded or Refusal."""

    id: int
    verb: str
    arguments: tuple[Json, ...]


Ask = StepWanted | StepDone | StepRaised | SleepWanted | EventWanted | Wish


# ── the worker to the daemon: how the stage went ─────────────────────────────────────────────────────────────────


class Returned(_Message, tag="returned", frozen=True, kw_only=True):
    """value: content. Of `precheck`: True, a reason why not, or False."""

    value: Json = None


class Raised(_Message, tag="raised", frozen=True, kw_only=True):
    """error_type: the name of its class, or a code of ours (`result.unserialisable`).  text: `str` of it, not redacted.

    partial: what it carried as `.partial`, if that is content.  partial_text: `repr` of that.  where: the traceback.
    lineage: `module:qualname` of its class and the classes above that.
    """

    error_type: str
    text: str
    partial: Json = None
    partial_text: str | None = None
    where: str = ""
    lineage: tuple[str, ...] = ()


class OutOfMemory(_Message, tag="out_of_memory", frozen=True, kw_only=True):
    """The hook needed more than `Limits.memory_bytes`. where: the traceback, if there was room to tell."""

    where: str = ""


class Suspended(_Message, tag="suspended", frozen=True, kw_only=True):
    """The hook was left where it was answered Suspend."""


Outcome = Returned | Raised | OutOfMemory | Suspended
FromWorker = Ask | Outcome


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────

_encode = msgspec.json.Encoder().encode


def framed(message: ToWorker | FromWorker) -> bytes:
    """`message` as it is sent. Raises ValueError if it is too long for that."""
    data = _encode(message)
    if len(data) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(data)} bytes; {MAX_FRAME_BYTES} are allowed")
    return len(data).to_bytes(_LENGTH_BYTES) + data


class Unframer:
    """Bytes as they arrive → messages. of: ToWorker or FromWorker."""

    def __init__(self, of: Any) -> None:
        self._decode = msgspec.json.Decoder(of).decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are complete now. Raises ValueError for what is none; nothing can be read after it."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES])
            if end > _LENGTH_BYTES + MAX_FRAME_BYTES:
                raise ValueError(f"a message of {end - _LENGTH_BYTES} bytes; {MAX_FRAME_BYTES} are allowed")
            if len(buffer) < end:
                return
            frame = bytes(buffer[_LENGTH_BYTES:end])
            del buffer[:end]
            try:
                message = self._decode(frame)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise ValueError(f"not a message: {error}") from None
            yield message
