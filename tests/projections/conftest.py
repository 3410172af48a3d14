"""A log with every projection, and the questions that may be asked of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cascadenced.calendar_files import CalendarFiles
from cascadenced.clock import FakeClock
from cascadenced.eventlog.base import Change
from cascadenced.events.base import Context, Event
from cascadenced.projections import all_projections
from cascadenced.projections.answers import Answers
from tests.examples import GROUP_HASH, USER_HASH


@pytest_asyncio.fixture
async def log(store: Any) -> Any:
    return await store.open(projections=all_projections())


@pytest.fixture
def answers(log: Any) -> Answers:
    async def states() -> Any:
        return log.projection_states()

    return Answers(log.tables, log.read_stream, states, CalendarFiles(FakeClock(), Path()))


@pytest.fixture
def happened(log: Any) -> Callable[..., Any]:
    """`await happened(event, …, run_id=…)`: these are recorded, in the run's stream or in one of their own."""

    async def record(
        *events: Event,
        run_id: str | None = None,
        user_hash: str | None = USER_HASH,
        group_hash: str | None = GROUP_HASH,
    ) -> Any:
        context = Context(user_hash=user_hash, group_hash=group_hash, run_id=run_id)
        stream = f"run-{run_id}" if run_id else "aside"
        return (await log.append([Change(stream, events, None, context)])).recorded

    return record
