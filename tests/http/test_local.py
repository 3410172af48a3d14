"""What the owner's socket offers beside the public routes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from cascadenced.events.strict import MAX_BYTES
from cascadenced.http.face import FACE
from cascadenced.http.routes import READ
from cascadenced.verbs import LOCAL_VERBS, VERBS
from tests.http.conftest import ALICE, World

Client = TestClient[Any, Any]


async def _rpc(client: Client, verb: str, **arguments: Any) -> tuple[int, Any]:
    async with client.post(f"/rpc/{verb}", json=arguments) as response:
        return response.status, await response.json()


async def test_a_verb_is_performed(owner: Client):
    status, result = await _rpc(owner, "run", task="example", **ALICE)
    assert status == 200
    assert result["status"] == "success"
    assert result["result"] == "example ran"


async def test_an_empty_body_is_no_arguments(owner: Client):
    async with owner.post("/rpc/list") as response:
        assert (await response.json())[0] == {"name": "example", "disabled": False}


@pytest.mark.parametrize("path", [route.path for route in READ if "{" not in route.path and route.head])
async def test_all_public_routes_are_there(owner: Client, path: str):
    async with owner.get(path) as response:
        assert response.status == 200


async def test_what_the_vault_seals_is_offered_here_only(owner: Client):
    assert (await _rpc(owner, "dead_letter", position=1))[0] == 404
    assert "dead_letter" in LOCAL_VERBS
    assert "dead_letter" not in VERBS


async def test_an_unknown_verb_is_answered_with_those_there_are(owner: Client):
    status, body = await _rpc(owner, "destroy")
    assert status == 404
    assert all(verb in body["detail"] for verb in ("run", "redrive", "status"))


@pytest.mark.parametrize("body", [b"[", b"[]", b"{}", b'{"task": 1}', b'{"task": "example", "task": "x"}', b"\xff"])
async def test_bad_arguments_are_refused(owner: Client, body: bytes):
    async with owner.post("/rpc/run", data=body) as response:
        assert response.status == 400
        assert (await response.json())["detail"]


async def test_too_large_a_body_is_refused(owner: Client):
    async with owner.post("/rpc/run", data=b"x" * (MAX_BYTES + 1)) as response:
        assert response.status == 413
        assert (await response.json())["error"] == "too_large"


async def test_a_failed_run_is_told_with_its_reason_and_id(world: World, owner: Client):
    status, body = await _rpc(owner, "run", task="failing", **ALICE)
    assert status == 400
    assert body["error"] == "run_failed"
    assert "alice-the-user" not in body["detail"]
    assert body["run_id"]


async def test_stop_asks_the_daemon_and_answers_at_once(world: World, owner: Client):
    async with owner.post("/stop") as response:
        assert response.status == 202
        assert await response.json() == {"status": "stopping"}
    assert world.n_stops == 1
    async with owner.get("/stop") as response:
        assert response.status == 405


async def test_a_caller_that_waits_is_told_when_the_daemon_stops(world: World, owner: Client):
    waiting = asyncio.create_task(_rpc(owner, "run", task="endless", **ALICE))
    await asyncio.sleep(0.05)
    owner.app[FACE].stopping.set()
    status, body = await waiting
    assert status == 503
    assert body["error"] == "stopping"


async def test_a_caller_that_goes_away_stops_nothing(world: World, owner: Client):
    waiting = asyncio.create_task(_rpc(owner, "run", task="endless", **ALICE))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.sleep(0.05)
    assert world.instance.runs.n_running == 1
    assert len(owner.app[FACE].work) == 1
