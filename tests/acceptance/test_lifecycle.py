"""Up means ready, down means drained; and one daemon per folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import pytest

from tests.acceptance.conftest import Daemon, request_body

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


async def test_ready_means_that_every_door_is_open(daemon: Daemon) -> None:
    await daemon.start()
    found = daemon.found
    assert found["pid"] == daemon.process.pid  # type: ignore[union-attr]
    assert (daemon.data_dir / "daemon.json").stat().st_mode & 0o777 == 0o600
    status = await daemon.get("/status")
    assert status["bus"]["connected"] is True
    assert status["durability"] == "fsync"
    assert (await daemon.get("/readyz"))["status"] == "ok"
    async with daemon.client() as client:
        reply = await client.request("ume.rpc.list", b"", timeout=5)
        assert {"name": "example", "disabled": False} in json.loads(reply.data)
        info = await client.request("$SRV.INFO.cascadence", b"", timeout=5)
        assert json.loads(info.data)["name"] == "cascadence"
    code, out, _ = await daemon.command("list")
    assert (code, "example\tenabled" in out) == (0, True)


async def test_a_message_of_a_plain_client_becomes_a_run_and_its_stages_are_told_on_the_bus(daemon: Daemon) -> None:
    await daemon.start()
    async with daemon.client() as client:
        told: list[str] = []
        ended = asyncio.Event()

        async def heard(message) -> None:  # type: ignore[no-untyped-def]
            told.append(message.subject)
            if message.subject.startswith("ume.task_run."):
                ended.set()

        for family in ("stage", "audit", "task_run"):
            await client.subscribe(f"ume.{family}.>", cb=heard)
        await client.flush()
        await client.jetstream().publish("ume.run.request.traced", request_body(1))
        await asyncio.wait_for(ended.wait(), 10)
    stages = [subject.rsplit(".", 1)[1] for subject in told if subject.startswith("ume.stage.")]
    assert stages == ["intake", "plan", "precheck", "run", "verify"]
    audits = [subject.rsplit(".", 1)[1] for subject in told if subject.startswith("ume.audit.")]
    assert audits == ["intake"] * 2 + ["plan"] * 2 + ["execute", "precheck", "precheck", "execute"] + ["verify"] * 2
    assert told.count("ume.task_run.traced") == 1


async def test_sigterm_lets_a_stage_end_does_not_start_the_next_and_exits_0(daemon: Daemon) -> None:
    await daemon.start()
    async with daemon.client() as client:
        await client.jetstream().publish("ume.run.request.slow", request_body(1, args={"seconds": 1}))
        await daemon.until({"type": "stage.started", "stage": "run"})
    assert await daemon.stop() == 0
    assert not (daemon.data_dir / "daemon.json").exists()
    assert [stage for _, stage, _ in daemon.effects()] == ["plan", "run"]
    await daemon.start()
    await daemon.until({"type": "run.finished"})
    (run,) = await daemon.runs(task="slow")
    shown = await daemon.run_of(run["run_id"])
    assert shown["result"] == "slept"
    assert {stage["stage"]: stage["attempt"] for stage in shown["stages"]}["run"] == 1


async def test_a_hung_thread_does_not_hold_up_the_stop_and_its_stage_starts_again_later(daemon: Daemon) -> None:
    await daemon.start(CASCADENCE_STOP_GRACE_S="0.5")
    async with daemon.client() as client:
        await client.jetstream().publish("ume.run.request.hung", request_body(1))
        await daemon.until({"type": "stage.started", "stage": "run"})
    began = time.monotonic()
    assert await daemon.stop() == 0
    assert time.monotonic() - began < 20
    await daemon.start(CASCADENCE_STOP_GRACE_S="0.5")
    await daemon.until({"type": "stage.started", "attempt": 2})
    (run,) = await daemon.runs(task="hung")
    events = (await daemon.get(f"/runs/{run['run_id']}/events"))["items"]
    assert "stage.interrupted" in [event["type"] for event in events]


async def test_a_second_signal_does_not_wait_for_the_grace_period(daemon: Daemon) -> None:
    await daemon.start(CASCADENCE_STOP_GRACE_S="60")
    async with daemon.client() as client:
        await client.jetstream().publish("ume.run.request.slow", request_body(1, args={"seconds": 50}))
        await daemon.until({"type": "stage.started", "stage": "run"})
    assert daemon.process is not None
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    while not any("stopping" in line for line in daemon.output):
        await asyncio.sleep(0.01)
    daemon.process.send_signal(signal.SIGTERM)
    assert await daemon.ended() == 0
    assert time.monotonic() - began < 30
    assert (await daemon.command("log", "verify"))[0] == 0


async def test_sigterm_during_the_start_is_obeyed(daemon: Daemon) -> None:
    await daemon.launch(NATS_URL="nats://127.0.0.1:9")  # nobody is there: it waits, and is not ready
    while not any("waiting_for_nats" in line for line in daemon.output):
        assert daemon.process is not None
        assert daemon.process.returncode is None, "\n".join(daemon.output)
        await asyncio.sleep(0.01)
    assert await daemon.stop() == 0


async def test_a_second_daemon_on_the_folder_exits_75_and_names_the_first(daemon: Daemon) -> None:
    await daemon.start()
    code, _, err = await daemon.command("up", CASCADENCE_LOCK_WAIT_S="0.3")
    assert code == 75
    assert str(daemon.process.pid) in err  # type: ignore[union-attr]
    assert (await daemon.get("/healthz"))["status"] == "ok"


async def test_after_kill_9_no_nats_server_is_left_and_the_next_daemon_starts(daemon: Daemon) -> None:
    await daemon.start()
    server_pids = _nats_servers(str(daemon.data_dir))
    assert server_pids
    await daemon.kill()
    await daemon.start()
    assert not server_pids & _nats_servers(str(daemon.data_dir))


async def test_a_nats_server_that_dies_is_started_again_and_work_goes_on(daemon: Daemon) -> None:
    await daemon.start()
    (server,) = _nats_servers(str(daemon.data_dir))
    os.kill(server, signal.SIGKILL)
    code, _out, err = await daemon.command("run", "traced", "--user-id", "alice", "--group-id", "eng")
    assert code == 0, err
    while not (await daemon.get("/status"))["bus"]["connected"] or _nats_servers(str(daemon.data_dir)) == {server}:
        await asyncio.sleep(0.05)
    async with daemon.client() as client:
        for _ in range(20):
            try:
                await client.jetstream().publish("ume.run.request.traced", request_body(2), timeout=2)
                break
            except Exception:
                await asyncio.sleep(0.1)
    await daemon.until({"type": "run.finished"}, n=2)


async def test_what_a_command_recorded_without_a_daemon_is_published_by_the_next_one(daemon: Daemon) -> None:
    code, out, err = await daemon.command("run", "traced", "--user-id", "alice", "--group-id", "eng")
    assert code == 0, err
    run_id = out.strip().split("\t")[1]
    await daemon.start()
    async with daemon.client() as client:
        subscription = await client.jetstream().subscribe("ume.task_run.>", stream="UME", ordered_consumer=True)
        message = await subscription.next_msg(timeout=10)
        assert json.loads(message.data)["run_id"] == run_id


async def test_the_demo_ends_well(daemon: Daemon) -> None:
    code, out, err = await daemon.command("demo", within_s=60)
    assert code == 0, out + err
    assert "kill -9" in out
    assert "status success" in out
    assert "started twice" in out


def _nats_servers(data_dir: str) -> set[int]:
    """Pids of nats-servers whose command line names the folder (Linux)."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    command = file.read().decode(errors="replace")
            except OSError:
                continue
            if "nats-server" in command and data_dir in command:
                found.add(int(entry))
    return found
