"""`dispatch` for scripts, on a data folder that no daemon holds; and the workflow that comes with us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cascadenced.commands import offline
from cascadenced.config import load
from cascadenced.errors import Conflict, Invalid, RunFailedError
from cascadenced.eventlog.reader import Reader
from cascadenced.workflows import dispatch, subscribe
from tests.doubles import World, run

WHO = {"user_id": "alice", "group_id": "eng"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configured data folder."""
    monkeypatch.setenv("CASCADENCE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("CASCADENCE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def in_a_script(*arguments: Any, **options: Any) -> Any:
    return dispatch(*arguments, **options)


def in_a_loop(*arguments: Any, **options: Any) -> Any:
    async def main() -> Any:
        return await dispatch(*arguments, **options)

    return asyncio.run(main())


@pytest.fixture(params=[in_a_script, in_a_loop], ids=["script", "loop"])
def dispatched(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param


def types_in(folder: Path) -> list[str]:
    async def read() -> list[str]:
        reader = await Reader.open(folder / "log.db")
        try:
            return [recorded.type for recorded in await reader.read(0, 1_000)]
        finally:
            await reader.close()

    return asyncio.run(read())


def test_what_the_workflow_returns_is_the_answer(dispatched: Any, folder: Path) -> None:
    assert dispatched("demo.greeting", {"name": "Ada"}, **WHO) == {"greeting": "Hello, Ada!"}
    types = types_in(folder)
    assert types.count("event.dispatched") == 2  # the one that was asked for, and the one the workflow emitted
    assert types[-1] == "run.finished"


def test_an_event_nobody_listens_to_is_no_error(dispatched: Any, folder: Path) -> None:
    assert dispatched("nobody.listens", **WHO) is None
    assert types_in(folder)[-1] == "event.dispatched"


def test_without_a_group_the_user_is_their_own(dispatched: Any) -> None:
    assert dispatched("demo.greeting", user_id="alice") == {"greeting": "Hello, world!"}


def test_a_workflow_that_fails_is_told_with_its_reason(dispatched: Any) -> None:
    with pytest.raises(RunFailedError, match="name must be a string"):
        dispatched("demo.greeting", {"name": 7}, **WHO)


def test_a_disabled_workflow_is_told(dispatched: Any) -> None:
    asyncio.run(offline.write(load(None, {}, {"data_dir": "data"}), "disable", {"task": "workflow.demo.greeting"}))
    with pytest.raises(Conflict, match="Task 'workflow.demo.greeting' is disabled"):
        dispatched("demo.greeting", **WHO)


@pytest.mark.parametrize(
    ("event", "payload", "user_id"), [("two words", {}, "a"), ("demo.greeting", {}, ""), ("demo.greeting", [1], "a")]
)
def test_what_cannot_be_dispatched_is_invalid(dispatched: Any, event: str, payload: Any, user_id: str) -> None:
    with pytest.raises(Invalid):
        dispatched(event, payload, user_id=user_id, group_id="g")


def test_subscribe_only_marks() -> None:
    @subscribe("order.placed")
    def place() -> str:
        return "placed"

    assert place() == "placed"


async def test_the_greeting_is_told_to_the_bus() -> None:
    from cascadenced.events.workflow import EventDispatched
    from cascadenced.workflows.demo import greet

    world = World(greet)
    async with world.up() as instance:
        ended = await run(instance, "workflow.demo.greeting", args={"name": "Ada"})
    assert ended.run.result == {"greeting": "Hello, Ada!"}
    assert world.events(EventDispatched) == [
        EventDispatched(name="demo.greeted", via="workflow", payload={"greeting": "Hello, Ada!"})
    ]
