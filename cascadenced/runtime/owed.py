"""Which messages of which events are still to be found: five bytes for each position, however many there are.

A message is struck out by the position in its header, its place among those of its event, and the end of its event's
id: after a restore from a backup, or in another instance's log, another event may have the same position.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from cascadenced.events.outbound import place

_BITS = 12
_SIZE = 1 << _BITS
_IN_CHUNK = _SIZE - 1
_ID_CHARS = 32


class _Chunk:
    """4,096 positions. ids: the last 32 bits of each event's id.  places: a bit for each message that is owed."""

    __slots__ = ("ids", "places")

    def __init__(self) -> None:
        self.ids = array("I", bytes(4 * _SIZE))
        self.places = bytearray(_SIZE)


class Owed:
    """Messages by position. Grows where it is told to, shrinks nowhere; a chunk that is paid off costs its bytes."""

    def __init__(self) -> None:
        self._chunks: dict[int, _Chunk] = {}
        self.n = 0
        """Messages that are owed now."""

    def add(self, position: int, message_id: str) -> None:
        chunk = self._chunks.get(position >> _BITS)
        if chunk is None:
            chunk = self._chunks[position >> _BITS] = _Chunk()
        at, bit = position & _IN_CHUNK, 1 << place(message_id)
        chunk.ids[at] = int(message_id[_ID_CHARS - 8 : _ID_CHARS], 16)
        self.n += not chunk.places[at] & bit
        chunk.places[at] |= bit

    def strike(self, position: int, message_id: str) -> bool:
        """This message is there. Whether it is one of ours, owed or struck out before."""
        chunk = self._chunks.get(position >> _BITS)
        if chunk is None:
            return False
        at = position & _IN_CHUNK
        try:
            ours = chunk.ids[at] == int(message_id[_ID_CHARS - 8 : _ID_CHARS], 16)
        except ValueError:
            return False
        if not ours:
            return False
        places, bit = chunk.places[at], 1 << place(message_id)
        if places & bit:
            chunk.places[at] = places ^ bit
            self.n -= 1
        return True

    def holds(self, position: int, message_id: str) -> bool:
        """Whether this message is owed."""
        chunk = self._chunks.get(position >> _BITS)
        return chunk is not None and bool(chunk.places[position & _IN_CHUNK] & 1 << place(message_id))

    def forgive(self, below: int) -> None:
        """Nothing is owed for positions under `below`."""
        for first, places in self._by_chunk():
            n = max(0, min(below - first, _SIZE))
            self.n -= int.from_bytes(places[:n]).bit_count()
            places[:n] = bytes(n)

    def positions(self) -> Iterator[int]:
        """Those for which something is owed, ascending."""
        for first, places in self._by_chunk():
            if any(places):
                yield from (first + at for at, left in enumerate(places) if left)

    def _by_chunk(self) -> Iterator[tuple[int, bytearray]]:
        for number in sorted(self._chunks):
            yield number << _BITS, self._chunks[number].places
