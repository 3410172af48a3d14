"""Many rows in few statements.

Each step of a statement lets go of the interpreter lock and has to win it back from the loop's thread; `executemany`
does that for every row. Measured with a busy loop: 270 µs a row here, 640 to 940 µs with `executemany`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from cascadenced.eventlog.base import Connection, Row

_SIZES = (1024, 512, 256, 128, 64, 32, 16)
_FEW = 16
"""Rows per statement: one of these sizes, and what is left, less than the last, as it is. So a few dozen statements
are prepared once, and most batches take two or three. While the loop is busy each may wait 5 ms for the lock, so the
largest is almost as large as SQLite takes it (32,766 values; events have 18 each); that one has 4 MB of memory.
"""


def insert_many(connection: Connection, insert: str, rows: Sequence[Sequence[Any]], conflict: str = "") -> None:
    """Insert `rows`, all of one width. insert: everything before the values, `INSERT INTO t (a, b) VALUES`.

    conflict: what stands after them.
    """
    done, n_rows = 0, len(rows)
    while done < n_rows:
        size = _size(n_rows - done)
        some = rows[done : done + size]
        connection.execute(_insertion(insert, conflict, len(some[0]), size), list(chain.from_iterable(some)))
        done += size


def delete_many(connection: Connection, delete: str, values: Sequence[str]) -> None:
    """The rows of `delete`, whose `IN ({})` is filled with `values`, are gone."""
    for some in _portions(values):
        connection.execute(delete.format(_marks(len(some))), some)


def select_many(connection: Connection, select: str, values: Sequence[str]) -> list[Row]:
    """The rows of `select`, whose `IN ({})` is filled with `values`; in no particular order."""
    found: list[Row] = []
    for some in _portions(values):
        found += connection.execute(select.format(_marks(len(some))), some).fetchall()
    return found


def _size(n_left: int) -> int:
    return n_left if n_left < _FEW else next(size for size in _SIZES if size <= n_left)


def _portions(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """All values, in portions of few different lengths: naming a value twice does not find it twice, so that the last
    one fills a portion up."""
    for start in range(0, len(values), _SIZES[0]):
        some = values[start : start + _SIZES[0]]
        size = len(some) if len(some) < _FEW else next(size for size in reversed(_SIZES) if size >= len(some))
        yield [*some, *[some[-1]] * (size - len(some))]


@lru_cache(maxsize=64)
def _marks(n: int) -> str:
    return ", ".join("?" * n)


@lru_cache(maxsize=256)
def _insertion(insert: str, conflict: str, width: int, n_rows: int) -> str:
    row = f"({_marks(width)})"
    return f"{insert} {', '.join([row] * n_rows)} {conflict}"
