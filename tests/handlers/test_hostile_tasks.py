"""Task code that raises what ends processes, wherever it is looked at: the daemon goes on, the run tells of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cascadenced.events.run import RunFailed
from cascadenced.events.stage import StageFailed
from cascadenced.pipeline.model import Run
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.spawn import InlineSpawner, Spawner, ThreadSpawner
from tests.doubles import ALICE, World, ask, idle, run, until


class Quick:
    name = "quick"

    def run(self) -> str:
        return "done"


@pytest.fixture(params=["threads", "inline"])
def spawner(request: pytest.FixtureRequest) -> Iterator[Spawner]:
    spawner = ThreadSpawner(2) if request.param == "threads" else InlineSpawner()
    yield spawner
    spawner.close()


@pytest.fixture
def threads() -> Iterator[ThreadSpawner]:
    spawner = ThreadSpawner(2)
    yield spawner
    spawner.close()


async def end_of(task: object, spawner: Spawner) -> tuple[Run, World]:
    """How a run of `task` ends, after seeing that the next run is served all the same."""
    world = World(task, Quick, spawner=spawner)
    async with asyncio.timeout(20), world.up() as instance:
        ended = await run(instance, instance.tasks.names()[0])
        assert (await run(instance, "quick")).run.result == "done"
        assert (instance.runs.n_running, instance.runs.n_queued) == (0, 0)
    return ended.run, world


# ── places where task code runs ──────────────────────────────────────────────────────────────────────────────


def attribute_set(error: BaseException) -> type:
    class Hostile:
        def __setattr__(self, name: str, value: object) -> None:
            raise error

        def run(self) -> None: ...

    return Hostile


def attribute_read(error: BaseException) -> type:
    class Hostile:
        def __getattribute__(self, name: str) -> Any:
            if name == "run":
                raise error
            return object.__getattribute__(self, name)

        def run(self) -> None: ...

    return Hostile


def attribute_read_of_a_coroutine_function(error: BaseException) -> type:
    class Hostile(attribute_read(error)):  # type: ignore[misc]
        async def run(self) -> None: ...

    return Hostile


def class_asked(error: BaseException) -> type:
    class Hostile:
        @property
        def __class__(self) -> Any:
            raise error

        def run(self) -> None: ...

    return Hostile


def made(error: BaseException) -> type:
    class Hostile:
        def __init__(self) -> None:
            raise error

        def run(self) -> None: ...

    return Hostile


def plan_looked_at(error: BaseException) -> type:
    class Item:
        def __getattr__(self, name: str) -> Any:
            raise error

    class Hostile:
        def plan(self) -> Any:
            return [Item()]

        def run(self) -> None: ...

    return Hostile


def result_asked_whether_it_can_be_awaited(error: BaseException) -> type:
    class Result:
        @property
        def __class__(self) -> Any:
            raise error

    class Hostile:
        def run(self) -> Any:
            return Result()

    return Hostile


def result_compared(error: BaseException) -> type:
    class Text(str):
        def __eq__(self, other: object) -> bool:
            raise error

        __hash__ = str.__hash__

    class Hostile:
        async def run(self) -> Any:
            return [Text("x")]

    return Hostile


def precheck_reason_read(error: BaseException) -> type:
    class Reason(str):
        def __bool__(self) -> bool:
            raise error

        def __len__(self) -> int:
            raise error

    class Hostile:
        async def precheck(self) -> Any:
            return Reason("no")

        def run(self) -> None: ...

    return Hostile


PLACES = [
    attribute_set, attribute_read, attribute_read_of_a_coroutine_function, class_asked, made, plan_looked_at,
    result_asked_whether_it_can_be_awaited, result_compared, precheck_reason_read,
]  # fmt: skip


class Own(BaseException):
    pass


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Own("x")], ids=repr)
async def test_what_would_end_a_process_ends_the_run(spawner: Spawner, place: Any, error: BaseException) -> None:
    ended, world = await end_of(place(error), spawner)
    assert ended.status == "error"
    assert [type(event) for event in world.events(run_id=world.recorded(RunFailed)[0].run_id)][-2:] == [
        StageFailed, RunFailed
    ]  # fmt: skip


# ── exceptions whose own code is hostile ─────────────────────────────────────────────────────────────────────


class NameExits(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(9)

    def __hash__(cls) -> int:
        raise SystemExit(9)

    def __eq__(cls, other: object) -> bool:
        raise SystemExit(9)


class HostileName(Exception, metaclass=NameExits):
    pass


class HostileText(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)


class HostileTextAndName(Exception, metaclass=NameExits):
    def __str__(self) -> str:
        raise SystemExit(9)


class HostileBase(BaseException, metaclass=NameExits):
    def __str__(self) -> str:
        raise SystemExit(9)


class Text(str):
    """A string that is hostile itself."""

    def encode(self, *_: object) -> bytes:
        raise SystemExit(9)

    def __len__(self) -> int:
        raise SystemExit(9)

    def __format__(self, _: str) -> str:
        raise SystemExit(9)


class HostileString(Exception):
    def __str__(self) -> str:
        return Text("x")


class HostilePartial(Exception):
    @property
    def partial(self) -> object:
        raise SystemExit(9)


class HostileClass(Exception):
    @property
    def __class__(self) -> Any:
        raise SystemExit(9)


class HostileTraceback(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise SystemExit(9)


class HostileCause(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise SystemExit(9)


HOSTILE = [
    HostileName, HostileText, HostileTextAndName, HostileBase, HostileString, HostilePartial, HostileClass,
    HostileTraceback, HostileCause,
]  # fmt: skip


@pytest.mark.parametrize("error", HOSTILE, ids=lambda error: type.__dict__["__name__"].__get__(error))
@pytest.mark.parametrize("stage", ["run", "research"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_exception_with_hostile_methods_ends_only_its_run(
    spawner: Spawner, error: type[BaseException], stage: str, is_async: bool
) -> None:
    def raises(self: object) -> None:
        raise error("x")

    async def raises_later(self: object) -> None:
        raise error("x")

    def nothing(self: object) -> None: ...

    hooks = {"run": nothing, stage: raises_later if is_async else raises}
    ended, _ = await end_of(type("Hostile", (), hooks), spawner)
    assert ended.status == "error"
    assert ended.error_type


async def test_an_exception_that_takes_its_time_to_be_read_does_not_hold_up_the_others(threads: ThreadSpawner) -> None:
    let_go = threading.Event()

    class Slow(Exception):
        @property
        def partial(self) -> object:
            return let_go.wait(20)

        def __str__(self) -> str:
            let_go.wait(20)
            return "at last"

    class Fails:
        name = "fails"

        async def run(self) -> None:
            raise Slow()

    async with World(Fails, Quick, spawner=threads).up() as instance:
        slow = (await ask(instance, "fails")).run_id
        async with asyncio.timeout(10):
            assert (await run(instance, "quick")).run.result == "done"
        let_go.set()
        assert (await instance.runs.ended(slow)).run.reason == "at last"


async def test_a_failure_without_code_of_its_own_is_recorded_though_all_threads_hang(threads: ThreadSpawner) -> None:
    let_go, n_hung = threading.Event(), 0

    class Hangs:
        name = "hangs"

        def run(self) -> None:
            nonlocal n_hung
            n_hung += 1
            let_go.wait(20)

    class Fails:
        name = "fails"
        entered = asyncio.Event()
        gate = asyncio.Event()

        async def run(self) -> None:
            self.entered.set()
            await self.gate.wait()
            raise ValueError("no")

    try:
        async with asyncio.timeout(20), World(Hangs, Fails, spawner=threads).up() as instance:
            failing = (await ask(instance, "fails")).run_id
            await Fails.entered.wait()
            for _ in range(2):
                await ask(instance, "hangs")
            while n_hung < 2:
                await asyncio.sleep(0.001)
            Fails.gate.set()
            assert (await instance.runs.ended(failing)).run.reason == "no"
            let_go.set()
    finally:
        let_go.set()


# ── long and telling texts ───────────────────────────────────────────────────────────────────────────────────


async def test_a_name_of_millions_of_characters_is_cut(spawner: Spawner) -> None:
    class Fails:
        def run(self) -> None:
            raise type("E" * 3_000_000, (Exception,), {})("x")

    ended, world = await end_of(Fails, spawner)
    assert ended.error_type is not None
    assert ended.error_type.startswith("EEE")
    assert len(ended.error_type) < 200
    assert len(world.text()) < 100_000


@pytest.mark.parametrize("who", ["user_id", "group_id"])
async def test_a_type_that_is_named_after_somebody_names_nobody(spawner: Spawner, who: str) -> None:
    class Fails:
        def run(self) -> None:
            raise type(f"{getattr(self, who)}_Error", (Exception,), {})("x")

    ended, world = await end_of(Fails, spawner)
    assert ended.error_type is not None
    assert getattr(ALICE, who) not in ended.error_type
    assert f"{getattr(ALICE, who)}_Error" not in world.text()


@pytest.mark.parametrize("n_before", [0, 2_000, 60_000, 65_530, 65_536])
async def test_where_a_long_text_is_cut_no_half_of_an_id_is_left(spawner: Spawner, n_before: int) -> None:
    class Fails:
        user_id: str

        def run(self) -> None:
            raise ValueError("x" * n_before + self.user_id * 3_000)

    ended, _ = await end_of(Fails, spawner)
    assert ended.reason is not None
    assert "ali" not in ended.reason
    assert len(ended.reason) <= 2_048


async def test_a_huge_repr_is_cut(spawner: Spawner) -> None:
    class Huge:
        def __repr__(self) -> str:
            return "y" * 20_000_000

    class Error(Exception):
        partial = Huge()

        def __str__(self) -> str:
            return "z" * 20_000_000

    class Fails:
        async def run(self) -> None:
            raise Error()

    ended, world = await end_of(Fails, spawner)
    [failed] = world.events(StageFailed)
    assert isinstance(failed, StageFailed)
    assert ended.reason is not None
    assert failed.shown is not None
    assert (len(ended.reason), len(failed.shown)) == (2_048, 2_048)


# ── cancellation ─────────────────────────────────────────────────────────────────────────────────────────────


class CancelsItself:
    """Cancels the asyncio task it runs in. how: raising nothing, waiting for it to arrive."""

    name = "cancels"

    async def run(self) -> str:
        this = asyncio.current_task()
        assert this is not None
        this.cancel()
        await asyncio.sleep(0)
        return "never"


class CancelsItselfAndReturns(CancelsItself):
    async def run(self) -> str:
        this = asyncio.current_task()
        assert this is not None
        this.cancel()
        this.cancel()
        return "done all the same"


async def test_code_that_cancels_its_own_asyncio_task_has_failed(spawner: Spawner) -> None:
    ended, _ = await end_of(CancelsItself, spawner)
    assert (ended.status, ended.error_type) == ("error", "CancelledError")


async def test_code_that_cancels_its_own_asyncio_task_too_late_has_done_its_work(spawner: Spawner) -> None:
    ended, _ = await end_of(CancelsItselfAndReturns, spawner)
    assert (ended.status, ended.result) == ("success", "done all the same")


async def test_a_stop_still_interrupts_what_is_under_way(spawner: Spawner) -> None:
    class Waits:
        name = "waits"
        entered = asyncio.Event()

        async def run(self) -> None:
            self.entered.set()
            await asyncio.Event().wait()

    world = World(Waits, spawner=spawner)
    async with world.up() as instance:
        await ask(instance, "waits")
        await Waits.entered.wait()
        assert await instance.runs.stop(0) == 1
    assert world.events(RunFailed) == []


# ── the last resort ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [SystemExit(3), RuntimeError("a fault of ours")], ids=repr)
async def test_whatever_gets_past_all_that_ends_the_run_and_frees_its_slot(error: BaseException) -> None:
    world = World(Quick)
    async with world.up() as instance:

        class Perform:
            async def __call__(self, live: LiveRun) -> Any:
                raise error

            def let_go(self, live: LiveRun) -> None: ...

        journey = instance.runs._journey
        usual, journey._perform = journey._perform, Perform()
        ended = await run(instance, "quick")
        assert (ended.run.status, ended.run.error_type) == ("error", type(error).__name__)
        journey._perform = usual
        assert (await run(instance, "quick")).run.result == "done"
        await until(lambda: instance.runs.n_running == 0)
        await idle()
