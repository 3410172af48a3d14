"""A backup of a daemon at work, and the life that begins with it."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest

from tests.acceptance.conftest import Daemon, request_body

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


async def test_a_daemon_at_work_is_backed_up_and_the_restored_one_goes_on(daemon: Daemon) -> None:
    await daemon.start()
    async with daemon.client() as client:
        await client.jetstream().publish("ume.run.request.slow", request_body(0, args={"seconds": 2}))
        await daemon.until({"type": "stage.started", "stage": "run"})

        async def load() -> None:
            for n in range(1, 10_000):
                await client.jetstream().publish("ume.run.request.traced", request_body(n, user=f"user-{n}"))

        loading = asyncio.create_task(load())
        await daemon.until({"type": "run.finished"}, n=20)
        code, out, err = await daemon.command("log", "backup", str(daemon.folder / "bk"))
        assert code == 0, err
        assert "position" in out
        code, _, err = await daemon.command("log", "restore", str(daemon.folder / "bk"), "--force")
        assert (code, str(daemon.process.pid) in err) == (75, True)  # type: ignore[union-attr]
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
    await daemon.kill()

    daemon.data_dir = daemon.folder / "elsewhere"
    code, out, err = await daemon.command("log", "restore", str(daemon.folder / "bk"))
    assert code == 0, err
    assert (await daemon.command("log", "verify"))[0] == 0
    code, out, _ = await daemon.command("runs", "--status", "success", "--json", "--limit", "1000")
    assert code == 0
    daemon.effects_path.write_text("")
    await daemon.start()
    await daemon.until({"type": "run.finished", "task": "slow"})
    async with asyncio.timeout(20):
        while {run["status"] for run in await daemon.runs()} != {"success"}:
            await asyncio.sleep(0.05)
    finished_in_backup = {run["run_id"] for run in json.loads(out)["items"]}
    assert len(finished_in_backup) >= 20
    # Effects since the restore: only those of runs that had not ended in the backup.
    again = {run_id for run_id, _, _ in daemon.effects()}
    assert again
    assert not again & finished_in_backup


async def test_a_daemon_that_dies_over_a_backup_leaves_nothing_that_looks_like_one(daemon: Daemon) -> None:
    await daemon.start(CASCADENCED_CRASH_AT="backup.half")
    target = daemon.folder / "bk"
    code, _, err = await daemon.command("log", "backup", str(target))
    # The daemon is gone; the command has then made the backup by itself.
    assert await daemon.ended() == -9
    assert code == 0, err
    (half,) = daemon.folder.glob(".bk.*.part")
    code, _, err = await daemon.command("log", "restore", str(half), CASCADENCE_DATA_DIR=str(daemon.folder / "x"))
    assert (code, "not a complete backup" in err) == (1, True)
    code, _, err = await daemon.command("log", "restore", str(target), CASCADENCE_DATA_DIR=str(daemon.folder / "x"))
    assert code == 0, err


async def test_a_restore_that_is_killed_before_it_moves_anything_has_changed_nothing(daemon: Daemon) -> None:
    code, _, err = await daemon.command("run", "traced", "--user-id", "alice", "--group-id", "eng")
    assert code == 0, err
    backup = str(daemon.folder / "bk")
    assert (await daemon.command("log", "backup", backup))[0] == 0
    code, _, err = await daemon.command("run", "telling", "--user-id", "alice", "--group-id", "eng")
    assert code == 0, err
    code, _, _ = await daemon.command("log", "restore", backup, "--force", CASCADENCED_CRASH_AT="restore.copied")
    assert code == -9
    await daemon.start()
    assert [run["task"] for run in await daemon.runs()] == ["telling", "traced"]


async def test_a_restore_that_is_killed_is_done_again_before_a_daemon_starts(daemon: Daemon) -> None:
    code, _, err = await daemon.command("run", "traced", "--user-id", "alice", "--group-id", "eng")
    assert code == 0, err
    backup = str(daemon.folder / "bk")
    assert (await daemon.command("log", "backup", backup))[0] == 0
    code, _, _ = await daemon.command("log", "restore", backup, "--force", CASCADENCED_CRASH_AT="restore.half")
    assert code == -9
    code, _, err = await daemon.command("up")
    assert (code, "was interrupted" in err) == (78, True)
    assert (await daemon.command("log", "restore", backup, "--force"))[0] == 0
    await daemon.start()
    assert [run["task"] for run in await daemon.runs()] == ["traced"]
