"""Projections inside the log's transaction: folded with every append, frozen when they raise, rebuilt from the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import structlog

from cascadenced.clock import Clock
from cascadenced.eventlog.base import Projection, ProjectionState
from cascadenced.eventlog.script import statements
from cascadenced.events.base import Recorded

_log = structlog.get_logger(__name__)


class Folding:
    """All projections of one log, on its writing connection. Never commits: the log does."""

    def __init__(self, connection: sqlite3.Connection, projections: Sequence[Projection], clock: Clock) -> None:
        self._connection = connection
        self._projections = projections
        self._clock = clock
        self.frozen: Mapping[str, ProjectionState] = {}
        """Replaced, never changed: the log puts the old one back when it rolls back."""

    def prepare(self) -> list[Projection]:
        """Read who is frozen, and forget the projections we do not have; returns those that must be rebuilt."""
        known = {
            name: (version, position, reason, at)
            for name, version, position, reason, at in self._connection.execute(
                "SELECT name, version, position, reason, frozen_at_us FROM projections"
            )
        }
        stale, frozen = [], {}
        for name in known.keys() - {projection.name for projection in self._projections}:
            # Nobody folds it from here on; when its code comes back, it must not pass for one that kept up.
            self._connection.execute("DELETE FROM projections WHERE name = ?", (name,))
        for projection in self._projections:
            version, position, reason, at = known.get(projection.name, (None, None, None, None))
            if version != projection.version:
                stale.append(projection)
            elif position is not None:
                frozen[projection.name] = ProjectionState(projection.name, position, reason, at)
        self.frozen = frozen
        return stale

    def fold(self, batch: Sequence[Recorded]) -> None:
        """Apply a batch to every live projection. One that raises is frozen, and has changed nothing.

        Raises sqlite3.OperationalError when the database itself fails (a savepoint is no refuge then).
        """
        self._fold(self._projections, batch)

    def rebuild(self, projections: Sequence[Projection], batches: Iterable[Sequence[Recorded]]) -> None:
        """Fold these projections again from empty tables, in one pass. Each is live afterwards, unless it raises again.

        batches: the whole log.
        """
        if not projections:
            return
        indexes = [index for projection in projections for index in self._emptied(projection)]
        for batch in batches:
            self._fold(projections, batch)
        for index in indexes:
            self._connection.execute(index)

    def _fold(self, projections: Sequence[Projection], batch: Sequence[Recorded]) -> None:
        present = {recorded.type for recorded in batch}
        concerned = [p for p in projections if p.name not in self.frozen and not p.types.isdisjoint(present)]
        if not concerned:
            return
        # Raising is rare: one savepoint for all of them, and only when that fails one for each.
        if self._applied(concerned, batch) is not None:
            for projection in concerned:
                error = self._applied([projection], batch)
                if error is not None:
                    self._freeze(projection, batch[0].position - 1, error)

    def _applied(self, projections: Sequence[Projection], batch: Sequence[Recorded]) -> BaseException | None:
        """None when all of them have taken the batch; else what one raised, and none has."""
        self._connection.execute("SAVEPOINT fold")
        failure = None
        try:
            for projection in projections:
                projection.apply(self._connection, batch)
        except BaseException as error:
            if is_database_failure(error):
                raise
            self._connection.execute("ROLLBACK TO fold")
            failure = error
        self._connection.execute("RELEASE fold")
        return failure

    def _emptied(self, projection: Projection) -> list[str]:
        """Make its tables anew; returns what makes its indexes, which is done sooner when the rows are there."""
        for table in projection.tables:
            self._connection.execute(f"DROP TABLE IF EXISTS {table}")
        indexes = []
        for statement in statements(projection.ddl):
            if statement.lstrip().upper().startswith("CREATE INDEX"):
                indexes.append(statement)
            else:
                self._connection.execute(statement)
        self.frozen = {name: state for name, state in self.frozen.items() if name != projection.name}
        self._connection.execute(
            "INSERT INTO projections (name, version) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET "
            "version = excluded.version, position = NULL, reason = NULL, frozen_at_us = NULL",
            (projection.name, projection.version),
        )
        return indexes

    def states(self, head: int) -> list[ProjectionState]:
        return [
            self.frozen.get(projection.name, ProjectionState(projection.name, head, None, None))
            for projection in self._projections
        ]

    def _freeze(self, projection: Projection, position: int, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"[:500]
        state = ProjectionState(projection.name, position, reason, self._clock.now_us())
        self.frozen = {**self.frozen, projection.name: state}
        self._connection.execute(
            "UPDATE projections SET position = ?, reason = ?, frozen_at_us = ? WHERE name = ?",
            (position, reason, state.stale_since_us, projection.name),
        )
        _log.error("projection_frozen", projection=projection.name, position=position, reason=reason)


def is_database_failure(error: BaseException) -> bool:
    """Whether the database, not the statement, is at fault: full, broken, locked, damaged. A typo in SQL is not."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    return isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR
