"""What becomes of a stage in a process of its own, from the outcome to the run's events: nobody is named in either."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cascadenced.events.content import MAX_SHOWN_CHARS
from cascadenced.events.stage import StageFailed
from cascadenced.handlers.worker_outcome import printed_for_people, told
from cascadenced.identity import Redactor
from cascadenced.instance import Instance
from cascadenced.pipeline.policy import Limits
from cascadenced.runtime.worker import Died
from cascadenced.runtime.worker_output import Printed
from cascadenced.runtime.worker_protocol import (
    OutOfMemory,
    Raised,
)
from tests.doubles import ALICE, PSEUDONYMS, World, run
from tests.runtime import hostile_tasks, worker_tasks

REDACT = Redactor(ALICE, PSEUDONYMS)
ALICES = PSEUDONYMS.user("alice")


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_raised_names_nobody() -> None:
    raised = Raised(
        error_type="alice_Error",
        text="no room for alice",
        partial={"for": "alice"},
        partial_text="{'for': 'alice'}",
        where="in alice",
    )
    said = told(raised, REDACT, Limits())
    assert (said.error_type, said.reason) == (f"{ALICES}_Error", f"no room for {ALICES}")
    assert (said.partial, said.shown) == ({"for": "alice"}, f"{{'for': '{ALICES}'}}")
    assert said.where == f"in {ALICES}"


def test_a_long_text_is_cut() -> None:
    said = told(Raised(error_type="E" * 5_000, text="alice" * 13_107, where="x" * 9_000), REDACT, Limits())
    assert (len(said.error_type), len(said.reason), len(said.where)) == (120, MAX_SHOWN_CHARS, MAX_SHOWN_CHARS)
    assert "ali" not in said.reason


def test_too_much_memory_says_how_much_was_allowed() -> None:
    said = told(OutOfMemory(where="there"), REDACT, Limits(memory_bytes=1 << 30))
    assert said.error_type == "worker.out_of_memory"
    assert said.reason == "the stage needed more memory than the 1073741824 bytes that its process may have"


def test_a_death_has_its_code() -> None:
    said = told(Died("worker.exit", "it left", exit_code=3), REDACT, Limits())
    assert (said.error_type, said.reason, said.where) == ("worker.exit", "it left", "")


def test_what_was_printed_names_nobody_and_says_how_much_more_it_was() -> None:
    assert printed_for_people(Printed(), REDACT) is None
    assert printed_for_people(Printed("for alice\n"), REDACT) == f"for {ALICES}\n"
    assert printed_for_people(Printed("for alice\n", 7), REDACT) == f"for {ALICES}\n... and 7 bytes more\n"
    assert "ali" not in str(printed_for_people(Printed("alicealicealic", 2), REDACT))
    long = printed_for_people(Printed("x\n" * 9_000, 7), REDACT)
    assert long is not None
    assert len(long) == MAX_SHOWN_CHARS
    assert long.endswith("...... and 7 bytes more\n")


# ── from end to end ──────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def up(monkeypatch: pytest.MonkeyPatch, *tasks: type) -> AsyncIterator[tuple[World, Instance]]:
    """Tasks that ask for processes of their own."""
    for task in tasks:
        monkeypatch.setattr(task, "isolation", "process", raising=False)
    world = World(*tasks)
    async with asyncio.timeout(40), world.up() as instance:
        try:
            yield world, instance
        finally:
            await instance.stages.close()


async def test_a_run_passes_its_stages_in_one_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with up(monkeypatch, worker_tasks.Stages) as (_, instance):
        first, second = await asyncio.gather(run(instance, "Stages"), run(instance, "Stages"))
    assert first.run.status == second.run.status == "success"
    assert first.run.result["same"]
    assert first.run.result["n_stages"] == 3
    assert len({first.run.result["pid"], second.run.result["pid"], os.getpid()}) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "args", "error_type"),
    [
        (hostile_tasks.Aborts, {}, "worker.signal"),
        (hostile_tasks.Segfaults, {}, "worker.signal"),
        (hostile_tasks.Exits, {"code": 0}, "worker.exit"),
        (hostile_tasks.ClosesEverything, {}, "worker.channel"),
        (worker_tasks.Returns, {"what": "object"}, "result.unserialisable"),
        (worker_tasks.Raises, {"what": "odd"}, "Odd"),
    ],
)
async def test_a_run_that_would_end_the_daemon_ends_itself_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, task: type, args: dict[str, Any], error_type: str
) -> None:
    async with up(monkeypatch, task, worker_tasks.Plain) as (world, instance):
        ended = await run(instance, task.__name__, args=args)
        assert (ended.run.status, ended.run.error_type) == ("error", error_type)
        assert (await run(instance, "Plain")).run.status == "success"
    [failed] = world.events(StageFailed)
    assert isinstance(failed, StageFailed)
    assert failed.reason == ended.run.reason
