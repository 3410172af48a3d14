"""Who may ask over TCP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from cascadenced.http.app import build_app
from tests.http.conftest import World, a_world, client_of

Client = TestClient[Any, Any]


async def _status(client: Client, method: str = "GET", path: str = "/status", **headers: str) -> int:
    async with client.request(method, path, headers=headers) as response:
        await response.json()  # refusals are JSON, too
        return response.status


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "localhost.:1", "127.0.0.1:8000", "127.1.2.3", "[::1]:9", "[::1]"]
)
async def test_names_of_this_machine_are_answered(public: Client, host: str):
    assert await _status(public, Host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.10:8000",
        "localhost@evil.example",
        "evil.example#localhost",
        "localhost:8000/../x",
        "localhost:port",
        "[::1",
        "",
    ],
)
async def test_foreign_names_are_refused(public: Client, host: str):
    assert await _status(public, Host=host) == 421


async def test_the_configured_host_is_one_of_our_names(tmp_path: Path):
    async with (
        a_world(tmp_path, http_host="Tower.lan", http_token="t") as world,
        client_of(build_app(world.instance, world.is_ready)) as client,
    ):
        assert await _status(client, Host="tower.lan:8000", Authorization="Bearer t") == 200
        assert await _status(client, Host="other.lan:8000", Authorization="Bearer t") == 421


async def test_on_a_wildcard_address_any_host_is_answered_to_who_has_the_token(tmp_path: Path):
    async with (
        a_world(tmp_path, http_host="0.0.0.0", http_token="t") as world,
        client_of(build_app(world.instance, world.is_ready)) as client,
    ):
        assert await _status(client, Host="tower.lan", Authorization="Bearer t") == 200
        assert await _status(client, Host="tower.lan") == 401


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
async def test_other_sites_pages_change_nothing(public: Client, origin: str):
    assert await _status(public, "POST", Origin=origin) == 403


async def test_other_sites_are_known_without_origin_too(public: Client):
    assert await _status(public, "POST", **{"Sec-Fetch-Site": "cross-site"}) == 403


async def test_our_own_page_and_programs_get_as_far_as_the_route(public: Client):
    own = f"http://127.0.0.1:{public.port}"
    assert await _status(public, "POST", Origin=own) == 405
    assert await _status(public, "POST") == 405


async def test_with_a_token_everything_but_healthz_wants_it(tmp_path: Path):
    async with (
        a_world(tmp_path, http_token="s3cret") as world,
        client_of(build_app(world.instance, world.is_ready)) as client,
    ):
        assert await _status(client) == 401
        assert await _status(client, path="/nowhere") == 401
        assert await _status(client, Authorization="Bearer wrong") == 401
        assert await _status(client, Authorization="Bearer s3cre\u00e9") == 401
        assert await _status(client, Authorization="s3cret") == 401
        assert await _status(client, Authorization="Bearer s3cret") == 200
        assert await _status(client, Authorization="bearer s3cret") == 200
        assert await _status(client, path="/healthz") == 200
        assert await _status(client, path="/readyz") == 401
        async with client.get("/status") as response:
            assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_refusals_are_counted(world: World, public: Client):
    await _status(public, Host="evil.example")
    await _status(public, "POST", Origin="null")
    assert world.instance.refusals.total == {"bad_host": 1, "bad_origin": 1}
