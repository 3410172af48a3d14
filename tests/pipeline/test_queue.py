"""Which queued run starts next."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import count
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from cascadenced.ids import run_id_for
from cascadenced.pipeline import queue as queue_module
from cascadenced.pipeline.queue import RunQueue


class Given:
    """A queue, by words: "a1 b1 a2" are runs of the groups a and b, asked for in this order.

    A run is called by its group and a number; its task is `demo` and its priority 0, save where it says so.
    """

    def __init__(self, runs: str = "", **limits: int) -> None:
        self.queue = RunQueue()
        self._orders = count(1)
        for task, max_running in limits.items():
            self.queue.limit(task, max_running)
        self.put(runs)

    def put(self, runs: str, *, task: str = "demo", priority: int = 0, order: int | None = None) -> Given:
        for run_id in runs.split():
            at = next(self._orders) if order is None else order
            assert self.queue.put(run_id, task=task, group=run_id[0], priority=priority, order=at)
        return self

    def takes(self, n: int = 1_000) -> str:
        """The next n runs, or as many as may start."""
        taken = []
        while len(taken) < n and (run_id := self.queue.take()) is not None:
            taken.append(run_id)
        return " ".join(taken)


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_queue_has_nothing_to_start():
    assert RunQueue().take() is None


def test_within_a_group_the_oldest_request_starts_first():
    assert Given("a1 a2 a3").takes() == "a1 a2 a3"


def test_within_a_group_the_oldest_request_starts_first_whatever_its_task():
    queue = Given().put("a1", task="x").put("a2", task="y").put("a3", task="x").put("a4", task="z")
    assert queue.takes() == "a1 a2 a3 a4"


def test_a_higher_priority_starts_first():
    queue = Given().put("a1", priority=-5).put("a2").put("a3", priority=2**31 - 1).put("b1", priority=7)
    assert queue.takes() == "a3 b1 a2 a1"


def test_a_low_priority_does_not_start_while_there_is_something_above_it():
    queue = Given().put("a1", priority=0)
    for n in range(100):
        queue.put(f"b{n}", priority=1)
        assert queue.takes(1) == f"b{n}"
    assert queue.takes() == "a1"


def test_groups_take_turns():
    assert Given("a1 a2 a3 a4 b1 b2 c1").takes() == "a1 b1 c1 a2 b2 a3 a4"


def test_a_group_with_one_run_does_not_wait_for_a_group_with_ten_thousand():
    queue = Given(" ".join(f"a{n}" for n in range(10_000)))
    queue.takes(5_000)
    queue.put("b1")
    assert queue.takes(2) == "a5000 b1"


def test_a_group_has_one_turn_however_many_tasks_it_asks_for():
    queue = Given().put("a1", task="x").put("a2", task="y").put("a3", task="z").put("b1 b2")
    assert queue.takes() == "a1 b1 a2 b2 a3"


def test_a_group_that_comes_back_does_not_have_its_turn_before_those_that_waited():
    queue = Given("a1 b1 b2 c1")
    assert queue.takes(1) == "a1"
    queue.put("a2")
    assert queue.takes() == "b1 c1 a2 b2"


def test_groups_take_turns_within_each_priority_alone():
    queue = Given().put("a1 a2 b1 b2", priority=1).put("b3 b4 a3 a4", priority=0)
    assert queue.takes() == "a1 b1 a2 b2 b3 a3 b4 a4"


def test_runs_without_a_group_are_a_group_of_their_own():
    queue = Given("a1 a2")
    queue.queue.put("none", task="demo", group=None, priority=0, order=9)
    assert queue.takes() == "a1 none a2"


def test_a_run_that_is_put_late_comes_before_those_asked_for_after_it():
    queue = Given().put("a5", order=5).put("a6", order=6).put("a2", order=2).put("a4", order=4).put("a1", order=1)
    assert queue.takes() == "a1 a2 a4 a5 a6"


def test_a_run_that_is_put_late_comes_before_those_of_other_tasks_too():
    queue = Given().put("a5", task="x", order=5).put("a6", task="y", order=6).put("a4", task="y", order=4)
    assert queue.takes() == "a4 a5 a6"


def test_the_same_calls_give_the_same_order():
    def order() -> str:
        queue = Given(twice=2)
        for n in range(500):
            queue.put(f"{'abcdefg'[n * n % 7]}{n}", task=("once", "twice")[n % 2], priority=n % 3)
        return queue.takes()

    assert order() == order()


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_at_its_limit_starts_nothing_more():
    assert Given("a1 a2 a3", demo=2).takes() == "a1 a2"


def test_runs_of_other_tasks_overtake_those_that_must_wait():
    queue = Given(demo=1).put("a1 a2 a3").put("a4", task="other")
    assert queue.takes() == "a1 a4"


def test_runs_that_had_to_wait_start_when_their_task_may_again():
    queue = Given("a1 a2 a3", demo=1)
    queue.takes()
    queue.queue.release("a1")
    assert queue.takes() == "a2"


def test_a_lower_priority_overtakes_a_higher_one_that_must_wait():
    queue = Given(demo=1).put("a1 a2", priority=9).put("a3", task="other")
    assert queue.takes() == "a1 a3"


def test_among_those_that_had_to_wait_the_higher_priority_starts_first():
    queue = Given(demo=1).put("a1").put("a2 b1")
    queue.takes()
    queue.put("c1", priority=1)
    queue.queue.release("a1")
    assert queue.takes() == "c1"


def test_a_group_that_had_to_wait_keeps_its_turn():
    queue = Given(demo=1).put("a1 b1 c1").put("c2 c3", task="other")
    assert queue.takes() == "a1 c2 c3"
    queue.queue.release("a1")
    assert queue.takes() == "b1"


def test_a_group_that_was_served_meanwhile_does_not_come_before_one_that_waited():
    queue = Given(demo=1).put("a1 b1 c1").put("b2", task="other")
    assert queue.takes() == "a1 b2"
    queue.queue.release("a1")
    assert queue.takes() == "c1"


def test_a_raised_limit_lets_more_start():
    queue = Given("a1 a2 a3 a4", demo=1)
    queue.takes()
    queue.queue.limit("demo", 3)
    assert queue.takes() == "a2 a3"


def test_a_limit_that_is_lifted_lets_all_start():
    queue = Given("a1 a2 b1 a3", demo=1)
    queue.takes()
    queue.queue.limit("demo", None)
    assert queue.takes() == "b1 a2 a3"


def test_a_lowered_limit_stops_nothing_and_waits_until_enough_have_ended():
    queue = Given("a1 a2 a3 a4", demo=3)
    queue.takes()
    queue.queue.limit("demo", 1)
    queue.queue.release("a1")
    queue.queue.release("a2")
    assert (queue.queue.n_running("demo"), queue.takes()) == (1, "")
    queue.queue.release("a3")
    assert queue.takes() == "a4"


def test_a_task_with_a_limit_of_none_at_all_starts_nothing():
    assert Given("a1", demo=0).takes() == ""


def test_running_runs_are_counted_by_task():
    queue = Given("a1 a2 a3").queue
    queue.take()
    queue.take()
    assert (queue.n_running("demo"), queue.n_running("other"), len(queue)) == (2, 0, 1)


def test_a_run_that_did_not_count_as_running_is_released_without_effect():
    queue = Given("a1 a2", demo=1).queue
    queue.release("a1")
    queue.take()
    queue.release("nobody")
    assert queue.n_running("demo") == 1


# ── without the queue ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_starts_at_once_when_nobody_waits():
    queue = Given(demo=1).queue
    assert (queue.start("a1", "demo"), queue.n_running("demo")) == (True, 1)


def test_a_run_does_not_start_at_once_while_its_task_is_full():
    queue = Given(demo=1).queue
    queue.start("a1", "demo")
    assert (queue.start("a2", "demo"), queue.n_running("demo")) == (False, 1)


def test_a_run_does_not_start_at_once_before_one_that_may_start_as_well():
    assert not Given("a1").queue.start("b1", "other")


def test_a_run_starts_at_once_beside_those_that_must_wait():
    queue = Given("a1 a2", demo=1)
    queue.takes()
    assert queue.queue.start("b1", "other")


def test_a_run_that_goes_on_counts_whatever_the_limit():
    queue = Given("a1 a2 a3", demo=1)
    queue.takes()
    queue.queue.release("a1")
    queue.takes()
    queue.queue.occupy("a1", "demo")
    queue.queue.occupy("a1", "demo")
    queue.queue.release("a2")
    assert (queue.queue.n_running("demo"), queue.takes()) == (1, "")


# ── leaving ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_discarded_run_does_not_start():
    queue = Given("a1 a2 a3")
    assert queue.queue.discard("a2")
    assert queue.takes() == "a1 a3"


def test_a_run_that_is_not_queued_cannot_be_discarded():
    queue = Given("a1 a2")
    queue.takes(1)
    assert (queue.queue.discard("a1"), queue.queue.discard("nobody"), len(queue.queue)) == (False, False, 1)


def test_the_last_run_of_a_group_can_be_discarded():
    queue = Given("a1 b1")
    queue.queue.discard("a1")
    assert queue.takes() == "b1"


def test_a_discarded_run_can_be_put_again_and_has_its_old_place():
    queue = Given().put("a1 a2 a3")
    queue.queue.discard("a2")
    queue.put("a2", order=2)
    assert (len(queue.queue), queue.takes()) == (3, "a1 a2 a3")


def test_what_is_left_when_most_were_discarded_starts_in_its_order():
    queue = Given(" ".join(f"a{n}" for n in range(1, 301)))
    for n in range(1, 301):
        if n not in (100, 200):
            queue.queue.discard(f"a{n}")
    queue.put("a150", order=150)
    assert queue.takes() == "a100 a150 a200"


def test_a_discarded_run_can_be_put_again_with_another_priority():
    queue = Given("a1 a2 a3")
    queue.queue.discard("a3")
    queue.put("a3", priority=1, order=3)
    assert (len(queue.queue), queue.takes()) == (3, "a3 a1 a2")


def test_a_run_that_started_can_be_put_again():
    queue = Given("a1 a2 a3")
    queue.takes(2)
    queue.queue.release("a1")
    queue.put("a1", order=1)
    assert queue.takes() == "a1 a3"


def test_a_run_that_is_queued_already_stays_where_it_is():
    queue = Given("a1 a2")
    assert not queue.queue.put("a2", task="demo", group="a", priority=9, order=0)
    assert (len(queue.queue), queue.takes()) == (2, "a1 a2")


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_knows_who_is_queued():
    queue = Given("a1 a2 a3").queue
    queue.take()
    queue.discard("a2")
    assert [run_id in queue for run_id in ("a1", "a2", "a3", "a4")] == [False, False, True, False]


def test_it_knows_how_many_start_before_a_run():
    queue = Given("a1 a2 a3 b1").put("c1", priority=1).queue
    assert [queue.ahead(run_id) for run_id in ("c1", "a1", "b1", "a2", "a3")] == [0, 1, 2, 3, 4]


def test_nobody_is_ahead_of_a_run_that_is_not_queued():
    assert Given("a1").queue.ahead("nobody") is None


@pytest.mark.parametrize(
    "run_id",
    [
        "019f00000000a1b2c3d4e5f60718293a",
        "00000000000000000000000000000000",
        "00000000000000000000000000000001",
        "019F00000000A1B2C3D4E5F60718293A",
        "0x9f00000000a1b2c3d4e5f60718293a",
        "1_9f00000000a1b2c3d4e5f60718293a",
        " 19f00000000a1b2c3d4e5f60718293a",
        "-19f00000000a1b2c3d4e5f60718293a",
        "٠19f00000000a1b2c3d4e5f60718293a",
        "1",
        "run-1",
        "",
    ],
)
def test_any_name_comes_out_as_it_went_in(run_id):
    queue = RunQueue()
    queue.put(run_id, task="demo", group="a", priority=0, order=1)
    assert (run_id in queue, queue.take(), run_id in queue) == (True, run_id, False)


def test_names_that_are_the_same_number_are_two_runs():
    queue = RunQueue()
    names = ["0" * 31 + "a", "0" * 31 + "A", "a"]
    assert [queue.put(name, task="demo", group="a", priority=0, order=n) for n, name in enumerate(names)] == [True] * 3
    assert [queue.take() for _ in names] == names


# ── size ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_queued_run_takes_less_than_150_bytes():
    n_runs = 20_000
    tracemalloc.start()
    try:
        queue = RunQueue()
        for n in range(n_runs):
            run_id = run_id_for(str(n), 1_790_000_000_000_000 + n)
            queue.put(run_id, task=f"task-{n % 5}", group=f"{n % 10:064x}", priority=n % 3, order=10**9 + n)
        n_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert n_bytes / n_runs < 150


@pytest.mark.parametrize("max_running", [0, 1, None])
def test_runs_that_come_and_go_leave_nothing_behind(max_running):
    given = Given("a0 b0", demo=max_running)
    queue = given.queue

    def come_and_go(first: int, n: int) -> None:
        for order in range(first, first + n):
            # A group that stays, one that goes, one that is a new one each time; old, new and older than all others.
            for run_id, at in (
                (f"a{order}", order),
                (f"c{order}", order),
                (f"{order}", order),
                ("a", 0),
                ("b", -order),
            ):
                queue.put(run_id, task="demo", group=run_id[:1], priority=0, order=at)
                if order % 2 and (taken := queue.take()) is not None and taken not in ("a0", "b0"):
                    queue.release(taken)
                queue.discard(run_id)

    tracemalloc.start()
    try:
        come_and_go(3, 300)
        before = tracemalloc.get_traced_memory()[0]
        come_and_go(303, 3_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000


# ── the same as a list, looked through from the front each time ──────────────────────────────────────────────────


class Waiting:
    def __init__(self, run_id: str, task: str, group: str, priority: int, order: int) -> None:
        self.run_id, self.task, self.group, self.priority, self.order = run_id, task, group, priority, order


class ByHand:
    """The rule as the docstring tells it: for each priority a line of groups, for each group a list of runs."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.groups: dict[int, list[str]] = {}
        self.running: dict[str, str] = {}
        self.limits: dict[str, int | None] = {}

    def put(self, run: Waiting) -> None:
        self.waiting.append(run)
        groups = self.groups.setdefault(run.priority, [])
        if run.group not in groups:
            groups.append(run.group)

    def may_start(self, task: str) -> bool:
        limit = self.limits.get(task)
        return limit is None or Counter(self.running.values())[task] < limit

    def next(self, *, limited: bool = True) -> Waiting | None:
        ready = [run for run in self.waiting if not limited or self.may_start(run.task)]
        if not ready:
            return None
        top = max(run.priority for run in ready)
        ready = [run for run in ready if run.priority == top]
        group = next(group for group in self.groups[top] if any(run.group == group for run in ready))
        return min((run for run in ready if run.group == group), key=lambda run: run.order)

    def take(self, *, limited: bool = True) -> str | None:
        run = self.next(limited=limited)
        if run is None:
            return None
        self.leave(run)
        groups = self.groups[run.priority]
        if run.group in groups:
            groups.remove(run.group)
            groups.append(run.group)
        self.running[run.run_id] = run.task
        return run.run_id

    def leave(self, run: Waiting) -> None:
        self.waiting.remove(run)
        if not any(other.group == run.group and other.priority == run.priority for other in self.waiting):
            self.groups[run.priority].remove(run.group)

    def drained(self) -> list[str]:
        """All queued runs in the order in which they would start without limits."""
        copy = ByHand()
        copy.waiting = list(self.waiting)
        copy.groups = {priority: list(groups) for priority, groups in self.groups.items()}
        order: list[str] = []
        while (run_id := copy.take(limited=False)) is not None:
            order.append(run_id)
        return order


TASKS = st.sampled_from(["x", "y", "z"])


class LikeByHand(RuleBasedStateMachine):
    """Whatever is done to both, the queue and the list agree; also when it tidies up far more often than it has to."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.by_hand = ByHand()
        self.queue = RunQueue()
        self.patch = pytest.MonkeyPatch()
        self.n_runs = 0

    @initialize(slack=st.sampled_from([0, 1, 64]), limits=st.dictionaries(TASKS, st.integers(0, 3)))
    def begin(self, slack: int, limits: dict[str, int]) -> None:
        self.patch.setattr(queue_module, "_SLACK", slack)
        self.queue = RunQueue()
        for task, limit in limits.items():
            self.limit(task, limit)

    def put(self, run: Waiting) -> None:
        queued = any(other.run_id == run.run_id for other in self.by_hand.waiting)
        if run.run_id in self.by_hand.running:
            return
        added = self.queue.put(run.run_id, task=run.task, group=run.group, priority=run.priority, order=run.order)
        assert added is not queued
        if added:
            self.by_hand.put(run)

    @rule(target=runs, n=st.integers(1, 12), seed=st.integers(0, 1_000_000))
    def new(self, n: int, seed: int) -> object:
        """From a seed, because drawn one by one they are too much alike. Some are older than what is queued."""
        random = Random(seed)
        runs = []
        for _ in range(n):
            self.n_runs += 1
            run_id = run_id_for(str(self.n_runs), 0) if self.n_runs % 2 else f"run-{self.n_runs}"
            order = 1_000 * random.choice([self.n_runs, random.randrange(self.n_runs)]) + self.n_runs  # all different
            runs.append(Waiting(run_id, random.choice("xyz"), random.choice("aab"), random.choice([0, 0, 1]), order))
            self.put(runs[-1])
        return multiple(*runs)

    @rule(target=runs, run=consumes(runs), priority=st.integers(-1, 1))
    def again(self, run: Waiting, priority: int) -> Waiting:
        """Perhaps with another priority, if it was not queued any more."""
        if not any(other is run for other in self.by_hand.waiting):
            run.priority = priority
        self.put(run)
        return run

    @rule(run=runs)
    def discard(self, run: Waiting) -> None:
        queued = next((other for other in self.by_hand.waiting if other.run_id == run.run_id), None)
        assert self.queue.discard(run.run_id) is (queued is not None)
        if queued is not None:
            self.by_hand.leave(queued)

    @rule(seed=st.integers(0, 1_000_000))
    def discard_many(self, seed: int) -> None:
        random = Random(seed)
        for run in list(self.by_hand.waiting):
            if random.random() < 0.7:
                self.discard(run)

    @rule(n=st.integers(1, 6))
    def take(self, n: int) -> None:
        for _ in range(n):
            assert self.queue.take() == self.by_hand.take()

    @rule(run=runs)
    def release(self, run: Waiting) -> None:
        self.queue.release(run.run_id)
        self.by_hand.running.pop(run.run_id, None)

    @rule()
    def release_all(self) -> None:
        for run_id in list(self.by_hand.running):
            self.queue.release(run_id)
        self.by_hand.running.clear()

    @rule(task=TASKS)
    def start(self, task: str) -> None:
        self.n_runs += 1
        may = self.by_hand.may_start(task) and self.by_hand.next() is None
        assert self.queue.start(f"run-{self.n_runs}", task) is may
        if may:
            self.by_hand.running[f"run-{self.n_runs}"] = task

    @rule(task=TASKS)
    def occupy(self, task: str) -> None:
        self.n_runs += 1
        self.queue.occupy(f"run-{self.n_runs}", task)
        self.by_hand.running[f"run-{self.n_runs}"] = task

    @rule(task=TASKS, limit=st.none() | st.integers(0, 3))
    def limit(self, task: str, limit: int | None) -> None:
        self.queue.limit(task, limit)
        self.by_hand.limits[task] = limit

    @rule()
    def ahead(self) -> None:
        order = self.by_hand.drained()
        assert [self.queue.ahead(run_id) for run_id in order] == list(range(len(order)))

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) == len(self.by_hand.waiting)
        assert all(run.run_id in self.queue for run in self.by_hand.waiting)
        running = Counter(self.by_hand.running.values())
        assert all(self.queue.n_running(task) == running[task] for task in "xyz")

    def teardown(self) -> None:
        self.patch.undo()

    @rule()
    def everything_starts(self) -> None:
        self.release_all()
        for task in "xyz":
            self.limit(task, None)
        while self.by_hand.waiting:
            self.take(1)
        assert (len(self.queue), self.queue.take()) == (0, None)


TestLikeByHand = LikeByHand.TestCase
TestLikeByHand.settings = settings(max_examples=60, stateful_step_count=40)
