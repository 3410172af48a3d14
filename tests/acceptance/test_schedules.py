"""Schedules in a real daemon: fired by its clock, kept over kill -9, edited by hand while it is up."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from tests.acceptance.conftest import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SECOND = 1_000_000
WHO = ("--user-id", "alice", "--group-id", "eng")


async def ticks(daemon: Daemon, task: str) -> list[dict[str, Any]]:
    """Its ledger, oldest first; none as long as there is no such schedule."""
    page: dict[str, Any] = await daemon.get(f"/schedules/{task}/ticks?limit=1000")
    return page.get("items", [])[::-1]


async def until_fired(daemon: Daemon, task: str, n: int) -> list[dict[str, Any]]:
    while len(fired := [t for t in await ticks(daemon, task) if t["verdict"] == "fired"]) < n:
        await asyncio.sleep(0.05)
    return fired


async def test_every_second_is_settled_once_though_the_daemon_is_killed_again_and_again(daemon: Daemon) -> None:
    await daemon.start()
    code, _, err = await daemon.command("schedule", "traced", "--every", "1", "--misfire", "all", *WHO)
    assert code == 0, err
    n = 0
    for _ in range(4):
        n += 2
        await until_fired(daemon, "traced", n)
        await daemon.kill()
        await daemon.start()
    await until_fired(daemon, "traced", n + 1)
    assert (await daemon.command("unschedule", "traced", *WHO))[0] == 0
    while (await daemon.get("/status"))["n_running"] or (await daemon.get("/status"))["n_queued"]:
        await asyncio.sleep(0.05)
    records = await ticks(daemon, "traced")
    settled = [row for row in records if row["verdict"] != "queued"]
    assert sum(row["n"] for row in settled) == len({row["at"] for row in settled}) + sum(
        row["n"] - 1 for row in settled
    )
    runs = Counter(row["run_id"] for row in settled if row["verdict"] == "fired")
    assert set(runs.values()) == {1}
    shown = {run["run_id"] for run in await daemon.runs(task="traced")}
    assert set(runs) == shown
    instants = [row["at"] for row in settled]
    assert instants == sorted(instants)
    stages = Counter((run_id, stage) for run_id, stage, _ in daemon.effects() if stage == "verify")
    assert {run_id for run_id, _ in stages} == shown
    assert (await daemon.command("log", "verify"))[0] == 0


async def test_what_is_written_into_the_file_takes_effect_and_a_broken_file_changes_nothing(daemon: Daemon) -> None:
    path = daemon.data_dir / "schedules.yml"
    await daemon.start()
    path.write_text("traced:\n  every_s: 1  # quick\n  user_id: alice\n  group_id: eng\n")
    await until_fired(daemon, "traced", 2)
    while "alice" in path.read_text():
        await asyncio.sleep(0.05)
    text = path.read_text()
    assert "# quick" in text
    assert "user_hash: " in text

    path.write_text(text.replace("every_s: 1", "every_s: 0"))
    await daemon.until({"type": "schedules.file_rejected"})
    n = len(await ticks(daemon, "traced"))
    await until_fired(daemon, "traced", n + 1)

    path.write_text(text.replace("traced:", "telling:"))
    await until_fired(daemon, "telling", 1)
    assert [row["task"] for row in (await daemon.get("/schedules"))["items"]] == ["telling"]
    assert "alice" not in "\n".join(daemon.output)


async def test_a_message_sets_a_schedule_and_another_one_removes_it(daemon: Daemon) -> None:
    await daemon.start()
    async with daemon.client() as client:
        await client.jetstream().publish("ume.schedule.traced", b'{"every_s": 1, "user_id": "alice"}')
        await until_fired(daemon, "traced", 1)
        await client.jetstream().publish("ume.schedule.traced", b'{"expr": null}')
        await daemon.until({"type": "schedule.removed"})
    assert (await daemon.get("/schedules"))["items"] == []
    rows = (await daemon.get("/status"))["tasks"]
    assert next(row for row in rows if row["name"] == "traced")["next_fire_at"] is None


async def test_instants_are_a_second_apart_and_fire_when_they_are_due(daemon: Daemon) -> None:
    await daemon.start()
    await daemon.command("schedule", "traced", "--every", "1", *WHO)
    fired = await until_fired(daemon, "traced", 4)
    from cascadenced.clock import parse_iso

    due = [parse_iso(row["at"].replace("Z", "+00:00")) for row in fired]
    assert all((later - sooner) % SECOND == 0 for sooner, later in pairwise(due))
