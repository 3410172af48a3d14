"""Who did what stays inside: unique raw ids through every door, then a scan of every byte that was left anywhere."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.acceptance.conftest import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

USER = "zyxwv-user-4711"
GROUP = "qponm-group-0815"


async def test_no_raw_id_is_left_outside_the_vault(daemon: Daemon) -> None:
    await daemon.start()
    who = {"user_id": USER, "group_id": GROUP}
    async with daemon.client() as client:
        stream = client.jetstream()
        for subject, body in {
            "ume.run.request.telling": {**who},
            "ume.run.request.failing": {**who},
            "ume.run.request.nowhere": {**who},
            "ume.event.demo.greeting": {**who, "payload": {"name": "Ada"}},
            "ume.event.nobody.listens": {**who, "payload": {}},
            "ume.pointer.bookmarks": {**who, "run_id": "r1"},
            "ume.schedule.example": {**who, "expr": "0 9 * * 1"},
            "ume.idea": {**who, "text": "an idea"},
            "ume.note": {**who, "note": "a note"},
            "ume.task_run.elsewhere": {**who, "run_id": "f1", "status": "error"},
            "ume.unknown": {**who},
        }.items():
            await stream.publish(subject, json.dumps(body).encode())
        await stream.publish("ume.idea", f'{{"text": "broken", "user_id": "{USER}"'.encode())
        for verb, body in {"run": {"task": "telling", **who}, "run ": {}}.items():
            if verb == "run":
                await client.request(f"ume.rpc.{verb}", json.dumps(body).encode(), timeout=10)
    await daemon.until({"type": "run.failed"})
    await daemon.until({"type": "followup.requested"})
    for command in (
        ("run", "failing", "--user-id", USER, "--group-id", GROUP),
        ("pointer-add", "bookmarks", USER, "r2", "--group-id", GROUP),
        ("disable", "telling", "--group-id", GROUP),
        ("run", "telling", "--user-id", USER, "--group-id", GROUP),
    ):
        await daemon.command(*command)
    shown = [
        json.dumps(await daemon.get(path))
        for path in ("/status", "/runs", "/pointers", "/followups", "/dead-letters", "/schedules", "/status/telling")
    ]
    (failed, *_) = await daemon.runs(task="failing")
    shown += [json.dumps(await daemon.run_of(failed["run_id"]))]
    shown += [json.dumps(await daemon.get(f"/runs/{failed['run_id']}/events"))]
    assert "no luck for " in shown[-1]
    # Erasing on the broker follows the commit; the stop flushes what is still on its way.
    await asyncio.sleep(0.5)
    assert await daemon.stop() == 0

    for text in shown + daemon.output:
        assert USER not in text
        assert GROUP not in text
    secret = {"vault.db", "vault.db-wal"}  # sealed there: the clear text is in no file at all
    scanned = 0
    for path in daemon.data_dir.rglob("*"):
        if path.is_file():
            scanned += 1
            data = path.read_bytes()
            assert USER.encode() not in data, path
            assert GROUP.encode() not in data, path
    assert scanned > 5
    assert any((daemon.data_dir / name).exists() for name in secret)


async def test_a_resumed_run_still_knows_for_whom_it_runs(daemon: Daemon) -> None:
    await daemon.start()
    async with daemon.client() as client:
        body = {"user_id": USER, "group_id": GROUP, "args": {"seconds": 30}}
        await client.jetstream().publish("ume.run.request.slow", json.dumps(body).encode())
        await daemon.until({"type": "stage.started", "stage": "run"})
    await daemon.kill()
    await daemon.start()
    await daemon.until({"type": "stage.started", "stage": "run", "attempt": 2})
    (run,) = await daemon.runs(task="slow")
    assert run["status"] == "running"
    assert len(run["user_hash"]) == 64
