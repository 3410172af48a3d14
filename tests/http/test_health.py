"""How the instance says that it is."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from tests.http.conftest import World

Client = TestClient[Any, Any]


async def _health(client: Client, path: str) -> tuple[int, str, list[str]]:
    async with client.get(path) as response:
        body = await response.json()
        return response.status, body["status"], body["reasons"]


async def test_all_is_well(public: Client):
    assert await _health(public, "/healthz") == (200, "ok", [])
    assert await _health(public, "/readyz") == (200, "ok", [])


async def test_without_nats_the_process_is_fine_but_takes_no_work(world: World, public: Client):
    world.bus.connected = False
    assert await _health(public, "/healthz") == (200, "degraded", ["NATS is not connected"])
    assert await _health(public, "/readyz") == (503, "failing", ["NATS is not connected"])


async def test_a_nats_that_does_not_do_its_work_is_as_good_as_none(world: World, public: Client):
    world.bus.well = False
    assert await _health(public, "/healthz") == (200, "degraded", ["NATS does not do its work"])
    assert await _health(public, "/readyz") == (503, "failing", ["NATS does not do its work"])


async def test_while_the_broker_is_repaired_work_is_taken(world: World, public: Client):
    world.bus.n_to_repair = 2
    reasons = ["what NATS has forgotten is being published again"]
    assert await _health(public, "/healthz") == (200, "degraded", reasons)
    assert await _health(public, "/readyz") == (200, "degraded", reasons)


async def test_a_frozen_projection_is_no_reason_to_restart(world: World, public: Client):
    world.runs.broken = True
    await world.run()
    reasons = ["the projection runs has stopped"]
    assert await _health(public, "/healthz") == (200, "degraded", reasons)
    assert await _health(public, "/readyz") == (200, "degraded", reasons)


async def test_a_log_that_cannot_be_written_is(world: World, public: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(world.instance.log), "read_only", property(lambda _: "/secret/path: no space left"))
    world.bus.connected = False
    assert await _health(public, "/healthz") == (503, "failing", ["the log cannot be written", "NATS is not connected"])
    assert (await _health(public, "/readyz"))[0] == 503


async def test_while_starting_and_stopping_it_takes_no_work(world: World, public: Client):
    world.ready = False
    assert await _health(public, "/healthz") == (200, "ok", [])
    assert await _health(public, "/readyz") == (503, "failing", ["the daemon is starting or stopping"])
