"""kill -9 at the boundaries of the write path, and at moments of our choice: nothing accepted is lost or done twice."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from cascadenced.crashpoint import CRASHPOINTS
from tests.acceptance.conftest import Daemon, request_body

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

N_RUNS = 20


@pytest.mark.parametrize(
    "where",
    [
        "append.before_commit:6",  # as many as a run has, however many runs share them
        "append.after_commit:6",
        "ingest.before_append:7",
        "ingest.after_append:7",
        "stage.before_effect:15",
        "stage.after_effect:15",
        "outbox.before_publish:3",
        "outbox.after_publish:3",
        "vault.after_write:1",
    ],
)
async def test_a_kill_at_a_named_crash_point_loses_nothing_and_repeats_only_the_stage_under_way(
    daemon: Daemon, where: str
) -> None:
    assert where.partition(":")[0] in CRASHPOINTS
    await daemon.start()
    await daemon.stop()  # so that the crash point is not reached by the first start's own events
    await daemon.start(CASCADENCED_CRASH_AT=where)
    async with daemon.client() as client:
        stream = client.jetstream()
        accepted = []
        for n in range(N_RUNS):
            try:
                await stream.publish(
                    "ume.run.request.traced", request_body(n), headers={"Nats-Msg-Id": f"m-{n}"}, timeout=2
                )
            except Exception:
                break  # the server went down with its parent; what was not acknowledged may or may not have arrived
            accepted.append(n)
        assert await daemon.ended() == -9
    assert accepted

    await daemon.start()
    async with daemon.client() as client:
        stream = client.jetstream()
        for n in range(N_RUNS):  # the client sends again what it does not know to be accepted, and all the rest
            await stream.publish("ume.run.request.traced", request_body(n), headers={"Nats-Msg-Id": f"m-{n}"})
    await daemon.until({"type": "run.finished"}, n=N_RUNS)

    runs = await daemon.runs(task="traced")
    assert len(runs) == N_RUNS
    assert {run["status"] for run in runs} == {"success"}
    shown = [await daemon.run_of(run["run_id"]) for run in runs]
    assert sorted(run["result"]["n"] for run in shown) == list(range(N_RUNS))
    counts = Counter((run_id, stage) for run_id, stage, _ in daemon.effects())
    for run in shown:
        for stage in run["stages"]:
            if stage["status"] != "skipped":
                assert 1 <= counts[run["run_id"], stage["stage"]] <= stage["attempt"]
    repeated = [key for key, n in counts.items() if n > 1]
    assert all(n <= 2 for n in counts.values())
    under_way = {(run["run_id"], s["stage"]) for run in shown for s in run["stages"] if s["attempt"] > 1}
    assert set(repeated) <= under_way
    assert await daemon.stop() == 0
    assert (await daemon.command("log", "verify"))[0] == 0


async def test_what_the_bus_was_told_after_a_kill_is_each_event_at_least_once_under_one_message_id(
    daemon: Daemon,
) -> None:
    await daemon.start()
    await daemon.stop()
    await daemon.start(CASCADENCED_CRASH_AT="outbox.after_publish:2")
    async with daemon.client() as client:
        for n in range(5):
            try:
                await client.jetstream().publish("ume.run.request.traced", request_body(n), timeout=2)
            except Exception:
                break
        await daemon.ended()
    await daemon.start()
    async with daemon.client() as client:
        n_runs = len(await daemon.runs(task="traced"))
        seen: Counter[str] = Counter()
        finished: set[str] = set()
        subscription = await client.jetstream().subscribe("ume.>", stream="UME", ordered_consumer=True)
        async with asyncio.timeout(20):
            while len(finished) < n_runs:
                message = await subscription.next_msg(timeout=20)
                headers = message.headers or {}
                if headers.get("Cascadence-Origin"):
                    seen[headers["Nats-Msg-Id"]] += 1
                if message.subject == "ume.task_run.traced":
                    finished.add(headers["Nats-Msg-Id"])
        assert len(finished) == n_runs
        assert set(seen.values()) == {1}  # the broker's own window swallows what was sent again


async def test_a_task_that_kills_the_daemon_is_given_up_after_five_times_and_others_go_on(daemon: Daemon) -> None:
    await daemon.start()
    async with daemon.client() as client:
        await client.jetstream().publish("ume.run.request.killer", request_body(1))
        await daemon.ended()
    for _ in range(2):
        await daemon.launch()
        assert await daemon.ended() == -9
    for _ in range(2):  # a suspect now: resumed alone, after a while; the daemon is ready before it dies again
        await daemon.start()
        assert await daemon.ended() == -9
    await daemon.start()
    await daemon.until({"type": "run.failed", "error_type": "crash_loop"})
    (run,) = await daemon.runs(task="killer")
    shown = await daemon.run_of(run["run_id"])
    assert shown["status"] == "error"
    assert shown["error"]["type"] == "crash_loop"
    assert len(daemon.effects()) == 5
    code, out, _ = await daemon.command("run", "example", "--user-id", "alice", "--group-id", "eng")
    assert code == 0, out


async def test_plain_functions_in_threads_survive_a_kill_as_well(daemon: Daemon) -> None:
    await daemon.start(CASCADENCED_CRASH_AT="stage.after_effect:8")
    async with daemon.client() as client:
        for n in range(6):
            try:
                await client.jetstream().publish(
                    "ume.run.request.plain", request_body(n), headers={"Nats-Msg-Id": f"p-{n}"}, timeout=2
                )
            except Exception:
                break
        assert await daemon.ended() == -9
    await daemon.start()
    async with daemon.client() as client:
        for n in range(6):
            await client.jetstream().publish(
                "ume.run.request.plain", request_body(n), headers={"Nats-Msg-Id": f"p-{n}"}
            )
    await daemon.until({"type": "run.finished"}, n=6)
    assert len(await daemon.runs(task="plain", status="success")) == 6
