"""Which of the queued runs starts next.

1. A task that runs as often as it may has to wait; runs of other tasks overtake it.
2. The highest priority first. While there is always something above it, a low priority never starts: that is meant.
3. Within a priority the groups take turns, one run each: who queued ten thousand gets no more than who queued one. A
   group that comes to a priority, or comes back, has its turn after those that wait there. One whose tasks all have to
   wait keeps its turn, so that it is the next one as soon as it may.
4. Within a group the oldest request first, whatever its task.

How many runs there may be altogether, running or queued, is the caller's to say; a run that must not start before an
instant is put here when the instant has come. Nothing here depends on anything but the calls and their order.

Runs of one task, group and priority are a lane: a sorted array. A share is what a group has at one priority: a heap of
its lanes. A lane whose task turns out to be full moves to the task, and back after its next turn; so neither the groups
nor the tasks that have to wait are looked at again and again. One heap of shares, and of tasks with lanes that moved
there, finds the next run. What it costs grows with the logarithm of what is queued, and does not with the number of
groups; with that of tasks it does only as far as these are full and shared by the groups.

A run takes 115 bytes, a lane or a share about 500 more.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, NamedTuple, TypeVar

_Rank = tuple[int, ...]
"""The least starts first: (-priority, turn of the group, order of the run), or the last one alone within a share."""

_Key = int | str
"""A run id of 32 hex digits as a number, which takes half as much memory; any other one as it is."""

_SLACK = 64
"""What is no longer needed may outnumber the rest by so much; then it is thrown away, all at once."""


class Slots(NamedTuple):
    """n_running: those that are taken.  n_of_task: by runs of one task.  ahead: queued runs that start before one, as
    `RunQueue.ahead` counts them; None: it is not queued."""

    n_running: int
    n_of_task: int
    ahead: int | None


class RunQueue:
    """Runs that wait for their start, and how many of each task are under way. See the module's docstring."""

    def __init__(self) -> None:
        self._queued: dict[_Key, _Lane] = {}
        self._running: dict[str, _Task] = {}
        self._tasks: dict[str, _Task] = {}
        self._shares: dict[tuple[int, str | None], _Share] = {}
        self._ready: _Heap[_Share | _Task] = _Heap()
        self._n_turns = 0

    def __len__(self) -> int:
        """How many runs are queued."""
        return len(self._queued)

    def __contains__(self, run_id: str) -> bool:
        """Whether the run is queued."""
        return _packed(run_id) in self._queued

    def put(self, run_id: str, *, task: str, group: str | None, priority: int, order: int) -> bool:
        """Queue the run; False if it is queued already, and stays where it is.

        order: position of its request in the log, which says for ever how old it is: a run that is put again, or late,
        comes before those asked for after it. A late one costs as many moves in memory as its lane has younger runs.
        """
        key = _packed(run_id)
        if key in self._queued:
            return False
        lane = self._lane(task, group, priority)
        self._queued[key] = lane
        lane.share.n += 1
        if lane.add(key, order):
            self._offer(lane)
        return True

    def take(self) -> str | None:
        """The run that starts next, which counts as running from now on; None if none may start."""
        best = self._ready.first()
        if best is None:
            return None
        lane = best.next_lane
        assert lane is not None
        key = lane.pop()
        run_id = _unpacked(key)
        self._running[run_id] = lane.task
        lane.task.n_running += 1
        self._n_turns += 1
        lane.share.turn = self._n_turns
        self._left(lane, key)
        if lane.n and lane.is_with_task and not lane.task.is_full:
            lane.move(is_with_task=False)
            self._offer(lane)
        return run_id

    def discard(self, run_id: str) -> bool:
        """Take the run out of the queue: it will not start. False if it is not queued."""
        key = _packed(run_id)
        lane = self._queued.get(key)
        if lane is None:
            return False
        lane.n -= 1
        self._left(lane, key)
        lane.tidy()
        return True

    def start(self, run_id: str, task: str) -> bool:
        """Count the run as running without queueing it; False if its task is full or a queued run could start first."""
        if self._task(task).is_full or self._ready.first() is not None:
            return False
        self.occupy(run_id, task)
        return True

    def occupy(self, run_id: str, task: str) -> None:
        """Count the run as running, whatever the limits say: it goes on after a while in which it did not count."""
        if run_id not in self._running:
            occupied = self._running[run_id] = self._task(task)
            occupied.n_running += 1

    def release(self, run_id: str) -> None:
        """The run does not count as running any more. Nothing happens if it did not."""
        task = self._running.pop(run_id, None)
        if task is not None:
            task.n_running -= 1
            self._ready.offer(task)

    def limit(self, task: str, max_running: int | None) -> None:
        """How many runs of `task` may be under way at once from now on; None: any number. Those beyond it go on."""
        self._task(task).max_running = max_running
        self._ready.offer(self._task(task))

    def n_running(self, task: str) -> int:
        known = self._tasks.get(task)
        return 0 if known is None else known.n_running

    def ahead(self, run_id: str) -> int | None:
        """How many queued runs start before this one, were there no limits and no later requests; None: not queued.

        For people who ask: it counts through the runs of the group and looks at every group.
        """
        key = _packed(run_id)
        lane = self._queued.get(key)
        if lane is None:
            return None
        own, order = lane.share, lane.order_of(key)
        n_own = sum(task.lanes[own].n_before(order) for task in self._tasks.values() if own in task.lanes)
        n_others = 0
        for share in self._shares.values():
            if share.priority > own.priority:
                n_others += share.n
            elif share.priority == own.priority and share is not own:
                n_others += min(share.n, n_own + (share.turn < own.turn))
        return n_own + n_others

    def _task(self, name: str) -> _Task:
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = _Task()
        return task

    def _lane(self, task_name: str, group: str | None, priority: int) -> _Lane:
        share = self._shares.get((priority, group))
        if share is None:
            self._n_turns += 1
            share = self._shares[priority, group] = _Share(priority, group, self._n_turns)
        task = self._task(task_name)
        lane = task.lanes.get(share)
        if lane is None:
            lane = task.lanes[share] = _Lane(share, task, self._queued)
        return lane

    def _offer(self, lane: _Lane) -> None:
        """The lane has another first run, or another place."""
        home = lane.task if lane.is_with_task else lane.share
        home.heap.offer(lane)
        self._ready.offer(home)

    def _left(self, lane: _Lane, key: _Key) -> None:
        """The run is not queued any more. A lane or a share without any is forgotten, without waiting for the gc."""
        del self._queued[key]
        share = lane.share
        share.n -= 1
        if lane.n == 0:
            del lane.task.lanes[share]
            lane.entry = None
        if share.n == 0:
            del self._shares[share.priority, share.group]
            share.entry = share.next_lane = None
            share.heap = _Heap()


class _Ranked:
    """Something in a heap. entry: where; None if in none."""

    __slots__ = ("entry",)

    def __init__(self) -> None:
        self.entry: tuple[_Rank, _Ranked] | None = None

    def rank(self) -> _Rank | None:
        """That of its first run; None if it has none that may start."""
        raise NotImplementedError

    def __lt__(self, other: _Ranked) -> bool:
        return False  # asked only about two entries of the same one: either will do


R = TypeVar("R", bound=_Ranked)


class _Heap(Generic[R]):
    """Finds the one with the least rank. Whose rank has fallen must be offered again; that one rose, it finds out."""

    __slots__ = ("_entries", "_n_tidy")

    def __init__(self) -> None:
        self._entries: list[tuple[_Rank, R]] = []
        self._n_tidy = _SLACK

    def offer(self, ranked: R) -> None:
        rank = ranked.rank()
        if rank is None or (ranked.entry is not None and ranked.entry[0] <= rank):
            return
        if len(self._entries) >= self._n_tidy:
            self._tidy()
        ranked.entry = entry = (rank, ranked)
        heappush(self._entries, entry)

    def first(self) -> R | None:
        entries = self._entries
        while entries:
            entry = entries[0]
            bound, ranked = entry
            rank = ranked.rank() if ranked.entry is entry else None
            if rank == bound:
                return ranked
            if rank is not None:
                ranked.entry = entry = (rank, ranked)
                heapreplace(entries, entry)
            else:
                heappop(entries)
                _forget(entry)
        return None

    def _tidy(self) -> None:
        """Without those that were offered again since, or have no rank any more."""
        kept = []
        for entry in self._entries:
            if entry[1].entry is entry and entry[1].rank() is not None:
                kept.append(entry)
            else:
                _forget(entry)
        heapify(kept)
        self._entries = kept
        self._n_tidy = 2 * len(kept) + _SLACK


def _forget(entry: tuple[_Rank, _Ranked]) -> None:
    if entry[1].entry is entry:
        entry[1].entry = None


class _Share(_Ranked):
    """What a group has queued with one priority. turn: groups with lower ones come first.  n: runs, wherever they are.

    heap: its lanes, but for those that are with their tasks.  next_lane: the first one, when `rank` was asked.
    """

    __slots__ = ("group", "heap", "n", "next_lane", "priority", "turn")

    def __init__(self, priority: int, group: str | None, turn: int) -> None:
        super().__init__()
        self.priority, self.group, self.turn = priority, group, turn
        self.n = 0
        self.heap: _Heap[_Lane] = _Heap()
        self.next_lane: _Lane | None = None

    def rank(self) -> _Rank | None:
        while (lane := self.heap.first()) is not None:
            if not lane.task.is_full:
                self.next_lane = lane
                return -self.priority, self.turn, lane.order
            lane.move(is_with_task=True)
            lane.task.heap.offer(lane)
        return None


class _Task(_Ranked):
    """A task: its limit, how many of its runs are under way, and all its lanes.

    heap: those that came while it was full.  next_lane: as in a share.
    """

    __slots__ = ("heap", "lanes", "max_running", "n_running", "next_lane")

    def __init__(self) -> None:
        super().__init__()
        self.max_running: int | None = None
        self.n_running = 0
        self.lanes: dict[_Share, _Lane] = {}
        self.heap: _Heap[_Lane] = _Heap()
        self.next_lane: _Lane | None = None

    @property
    def is_full(self) -> bool:
        return self.max_running is not None and self.n_running >= self.max_running

    def rank(self) -> _Rank | None:
        self.next_lane = lane = None if self.is_full else self.heap.first()
        return None if lane is None else lane.rank()


class _Lane(_Ranked):
    """The queued runs of one task, group and priority, oldest first. n: how many.  order: of the first one.

    Those that are queued here no longer keep their places until they come to the front, or are too many. One that is
    queued here again meanwhile has two, and leaves from the first: they are alike, since a run's order never changes.
    """

    __slots__ = ("_front", "_keys", "_orders", "_queued", "is_with_task", "n", "order", "share", "task")

    def __init__(self, share: _Share, task: _Task, queued: dict[_Key, _Lane]) -> None:
        super().__init__()
        self.share, self.task = share, task
        self.is_with_task = False
        self.n = self.order = 0
        self._queued = queued
        self._keys: list[_Key] = []
        self._orders = array("q")
        self._front = 0

    def add(self, key: _Key, order: int) -> bool:
        """Whether the run is the first one now."""
        keys, orders = self._keys, self._orders
        self.n += 1
        if not orders or orders[-1] <= order:
            keys.append(key)
            orders.append(order)
            return self.n == 1
        at = bisect_right(orders, order, self._front)
        keys.insert(at, key)
        orders.insert(at, order)
        return at == self._front

    def rank(self) -> _Rank | None:
        if self.n == 0:
            return None
        keys, queued, front = self._keys, self._queued, self._front
        while queued.get(keys[front]) is not self:
            front += 1
        self._front = front
        self.order = order = self._orders[front]
        return (-self.share.priority, self.share.turn, order) if self.is_with_task else (order,)

    def move(self, *, is_with_task: bool) -> None:
        """To its task or to its share; the caller offers it there."""
        self.is_with_task = is_with_task
        self.entry = None

    def pop(self) -> _Key:
        """The first run; `rank` was asked just before."""
        key = self._keys[self._front]
        self._front += 1
        self.n -= 1
        if self._front > _SLACK and 2 * self._front > len(self._keys):
            del self._keys[: self._front]
            del self._orders[: self._front]
            self._front = 0
        return key

    def tidy(self) -> None:
        if len(self._keys) - self._front <= 2 * self.n + _SLACK:
            return
        orders: dict[_Key, int] = {}
        for key, order in self._waiting():
            orders.setdefault(key, order)
        self._keys, self._orders, self._front = list(orders), array("q", orders.values()), 0

    def order_of(self, key: _Key) -> int:
        return self._orders[self._keys.index(key, self._front)]

    def n_before(self, order: int) -> int:
        return len({key for key, at in self._waiting() if at < order})

    def _waiting(self) -> Iterator[tuple[_Key, int]]:
        """The runs with their orders; some may be named twice."""
        for at in range(self._front, len(self._keys)):
            if self._queued.get(self._keys[at]) is self:
                yield self._keys[at], self._orders[at]


def _packed(run_id: str) -> _Key:
    try:
        number = int(run_id, 16)
    except ValueError:
        return run_id
    return number if _unpacked(number) == run_id else run_id


def _unpacked(key: _Key) -> str:
    return key if isinstance(key, str) else f"{key:032x}"
