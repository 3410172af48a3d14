"""What /status answers: every task's row, folded on the loop before a commit's callers are resumed.

So whoever was told that a run ended sees it ended, and a status GET costs no database read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.projections import task_status
from cascadenced.projections.task_status import StoredTask, TaskRow, task_row

_encode = msgspec.json.Encoder().encode


class Board:
    """Rows by name, and their JSON while nothing has changed.

    next_fire_us: asked when a task's schedule fires next, µs since 1970; what it answers may change only with `stale`.
    """

    def __init__(self, rows: dict[str, StoredTask]) -> None:
        self._rows = rows
        self._json: bytes | None = None
        self.next_fire_us: Callable[[str], int | None] = lambda name: None

    @classmethod
    async def open(cls, log: EventLog) -> Board:
        """Start from the rows on disk, and from the log itself for what a frozen projection has missed."""
        state = next(state for state in log.projection_states() if state.name == task_status.TaskStatus.name)
        board = cls(await task_status.load(log.tables))
        position = state.position
        while missed := await log.read(position, 1_000):
            board.grew(missed)
            position = missed[-1].position
        log.observe(board.grew)
        return board

    def grew(self, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            if task_status.fold(self._rows, recorded) is not None:
                self._json = None

    def rows(self) -> list[TaskRow]:
        """In order of registration."""
        return [task_row(state, self.next_fire_us(state.name)) for state in self._rows.values()]

    def row(self, name: str) -> TaskRow | None:
        state = self._rows.get(name)
        return None if state is None else task_row(state, self.next_fire_us(name))

    def stale(self) -> None:
        """Something else than the log says has changed."""
        self._json = None

    def kind(self, name: str) -> str | None:
        state = self._rows.get(name)
        return None if state is None else state.kind

    def json(self) -> bytes:
        """The rows as a JSON array, encoded once per change."""
        if self._json is None:
            self._json = _encode(self.rows())
        return self._json
