"""What the log has under which name, at any moment: a view of the surviving file that grows with it."""

from __future__ import annotations

from cascadenced.eventlog.memory import MemoryFile
from cascadenced.events.base import Recorded
from cascadenced.events.dead_letter import MessageDeadLettered
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunRequested
from cascadenced.events.workflow import EventDispatched


class Ledger:
    """Keys of wishes, and run ids."""

    def __init__(self, file: MemoryFile) -> None:
        self._file, self._n_read = file, 0
        self._names: set[str] = set()
        self._keys: dict[str, str] = {}

    def has(self, name: str) -> bool:
        self._read()
        return name in self._names

    def key_of(self, run_id: str) -> str:
        """Of the wish that the run was asked for by, or the one that planned it; else empty."""
        self._read()
        return self._keys.get(run_id, "")

    def _read(self) -> None:
        new = self._file.events[self._n_read :]
        self._n_read += len(new)
        for recorded in new:
            self._names.update(_names(recorded))
            event = recorded.event
            if isinstance(event, RunRequested):
                above = self._keys.get(event.parent_run_id or "", "")
                self._keys[recorded.run_id or ""] = above or str(event.args.get("n"))


def _names(recorded: Recorded) -> tuple[str, ...]:
    match recorded.event:
        case RunRequested(args=args):
            return str(args.get("n")), recorded.run_id or ""
        case EventDispatched(payload=payload):
            return (str(payload.get("n")),)
        case PointerAdded(run_id=run_id):
            return (run_id,)
        case MessageDeadLettered():
            return ((recorded.source or "").rpartition(":")[2],)
    return ()
