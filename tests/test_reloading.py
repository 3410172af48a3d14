"""The configuration is read again: what changes at once, what waits, and what is refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient, TestServer

from cascadenced import config, logs, reloading
from cascadenced.config import Config, reread
from cascadenced.errors import CascadenceError, ConfigError, DiskFull
from cascadenced.events.system import ConfigRejected, ConfigReread
from cascadenced.http.app import build_app
from cascadenced.reloading import reload
from tests.doubles import World, ask, until


class Gated:
    name = "gated"
    gate: asyncio.Event

    async def run(self) -> None:
        await self.gate.wait()


@pytest.fixture(autouse=True)
def _level() -> Any:
    yield
    logs.set_level("info")


def read_from(path: Path, text: str) -> Callable[[], Config]:
    path.write_text(text)
    return lambda: config.load(str(path), {"HOME": str(path.parent)})


# ── the rule ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_what_can_change_in_a_running_daemon_changes() -> None:
    running = Config(log_level="info", http_port=8000, max_concurrent_runs=10)
    found = reread(running, Config(log_level="debug", http_port=9000, max_concurrent_runs=20))
    assert found.changed == ("log_level", "max_concurrent_runs")
    assert found.waiting == ("http_port",)
    assert (found.config.log_level, found.config.max_concurrent_runs, found.config.http_port) == ("debug", 20, 8000)


def test_a_setting_that_waits_is_told_again_each_time() -> None:
    running = Config(http_port=8000)
    other = Config(http_port=9000)
    assert reread(reread(running, other).config, other).waiting == ("http_port",)


def test_where_a_value_came_from_goes_with_it() -> None:
    running = Config(log_level="info", http_port=1, sources={"log_level": "a.yml:1", "http_port": "a.yml:2"})
    found = reread(running, Config(log_level="debug", http_port=2, sources={"log_level": "b.yml:7", "http_port": "b"}))
    assert found.config.sources == {"log_level": "b.yml:7", "http_port": "a.yml:2"}


def test_a_daemon_that_listens_to_other_machines_keeps_its_token() -> None:
    running = Config(http_host="0.0.0.0", http_token="secret")
    with pytest.raises(ConfigError, match="needs http_token"):
        reread(running, Config(http_host="127.0.0.1", http_token=None))
    assert reread(running, Config(http_host="127.0.0.1", http_token="new")).config.http_token == "new"


# ── in a running instance ────────────────────────────────────────────────────────────────────────────────────────


async def test_more_slots_start_what_is_queued_and_fewer_stop_nothing(tmp_path: Path) -> None:
    gated = type("Gated", (Gated,), {"gate": asyncio.Event()})
    world = World(gated, max_concurrent_runs=1)
    async with world.up() as instance:
        for _ in range(4):
            await ask(instance, "gated")
        assert (instance.runs.n_running, instance.runs.n_queued) == (1, 3)
        await reload(instance, read_from(tmp_path / "c.yml", "max_concurrent_runs: 3\n"))
        await until(lambda: (instance.runs.n_running, instance.runs.n_queued) == (3, 1))
        await reload(instance, read_from(tmp_path / "c.yml", "max_concurrent_runs: 1\n"))
        assert (instance.runs.n_running, instance.runs.n_queued) == (3, 1)
        gated.gate.set()
        await until(lambda: instance.runs.n_queued == 0 and instance.runs.n_running == 0)


async def test_a_bound_of_the_queue_holds_at_once(tmp_path: Path) -> None:
    gated = type("Gated", (Gated,), {"gate": asyncio.Event()})
    async with World(gated, max_concurrent_runs=1).up() as instance:
        for _ in range(3):
            await ask(instance, "gated")
        await reload(instance, read_from(tmp_path / "c.yml", "max_concurrent_runs: 1\nmax_queued_runs: 2\n"))
        with pytest.raises(CascadenceError, match="2 runs are queued"):
            await ask(instance, "gated")
        await reload(instance, read_from(tmp_path / "c.yml", "max_concurrent_runs: 1\nmax_queued_runs: 3\n"))
        await ask(instance, "gated")
        gated.gate.set()
        await until(lambda: instance.runs.n_running == 0)


async def test_the_change_is_recorded_by_name_and_never_by_value(tmp_path: Path) -> None:
    world = World()
    async with world.up() as instance:
        text = "http_token: hunter2-hunter2\nhash_secret: swordfish-swordfish\n"
        await reload(instance, read_from(tmp_path / "c.yml", text))
    (event,) = world.events(ConfigReread)
    assert event.changed == ("http_token",)
    assert "hash_secret" in event.waiting
    assert "hunter2" not in world.text()
    assert "swordfish" not in world.text()


async def test_a_wrong_configuration_changes_nothing_and_is_recorded_with_the_reason(tmp_path: Path) -> None:
    world = World(max_concurrent_runs=7)
    async with world.up() as instance:
        before = instance.config
        await reload(instance, read_from(tmp_path / "c.yml", "log_level: debug\nmax_concurrent_runs: many\n"))
        assert instance.config is before
        await reload(instance, read_from(tmp_path / "c.yml", "http_token: 'two words of a secret'\n"))
        await reload(instance, lambda: config.load(str(tmp_path / "gone.yml"), {}))
    reasons = [event.reason for event in world.events(ConfigRejected)]
    assert "c.yml:2: max_concurrent_runs" in reasons[0]
    assert "two words" not in reasons[1]
    assert "no such file" in reasons[2]


async def test_a_file_that_cannot_be_read_to_its_end_holds_up_nothing_and_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "READ_WITHIN_S", 0.1)
    path = tmp_path / "c.yml"
    os.mkfifo(path)  # whoever opens it waits for somebody who writes
    world, turns = World(), 0
    async with world.up() as instance:
        reading = asyncio.create_task(reload(instance, lambda: config.load(str(path), {})))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0.01)
        await reading
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    assert turns > 3
    [rejected] = world.events(ConfigRejected)
    assert "could not be read within 0.1 s" in rejected.reason


async def test_a_change_that_cannot_be_recorded_holds_all_the_same(tmp_path: Path) -> None:
    async with World().up() as instance:
        instance.log.fail_next = DiskFull("no space")
        await reload(instance, read_from(tmp_path / "c.yml", "stop_grace_s: 3\n"))
        assert instance.config.stop_grace_s == 3


async def test_a_new_token_is_asked_for_and_the_old_one_refused(tmp_path: Path) -> None:
    async with (
        World(http_token="old").up() as instance,
        TestClient(TestServer(build_app(instance, lambda: True))) as client,
    ):

        async def status(token: str) -> int:
            async with client.get("/status", headers={"Authorization": f"Bearer {token}"}) as response:
                return response.status

        assert (await status("old"), await status("new")) == (200, 401)
        await reload(instance, read_from(tmp_path / "c.yml", "http_token: new\n"))
        assert (await status("old"), await status("new")) == (401, 200)


def test_a_logger_that_was_used_before_heeds_a_new_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    try:
        log = structlog.get_logger("a module's own")
        log.debug("one")
        logs.set_level("debug")
        log.debug("two")
        logs.set_level("error")
        log.warning("three")
        log.error("four")
        err = capsys.readouterr().err
        assert [word for word in ("one", "two", "three", "four") if f'"{word}"' in err] == ["two", "four"]
    finally:
        structlog.reset_defaults()
