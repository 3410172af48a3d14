"""Bad input, everywhere: a clear refusal, an event, nothing lost, the next one served."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from tests.acceptance.conftest import Daemon, request_body

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


async def test_malformed_messages_become_dead_letters_while_good_ones_are_served(daemon: Daemon) -> None:
    await daemon.start()
    seed = random.Random(1)
    bad = [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"user_id": 1}',
        b'{"user_id": "a", "user_id": "b", "group_id": "c"}',
        b'{"user_id": "\\ud800", "group_id": "c"}',
        b'{"user_id": "a", "group_id": "c", "args": {"n": NaN}}',
        b'{"user_id": "a", "group_id": "c", "args": {"n": 123456789012345678901234567890}}',
        b"[" * 100_000,
        b'{"user_id": "", "group_id": "c"}',
        b'{"user_id": "a\\u0000", "group_id": "c"}',
        b"\xff\xfe" * 50,
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b" " * (600 * 1024),
        *(seed.randbytes(seed.randrange(1, 400)) for _ in range(100)),
    ]
    async with daemon.client() as client:
        stream = client.jetstream()
        for n, body in enumerate(bad):
            await stream.publish("ume.run.request.traced", body)
            if n % 20 == 0:
                await stream.publish("ume.run.request.traced", request_body(n))
    await daemon.until({"type": "message.dead_lettered"}, n=len(bad))
    n_good = len(range(0, len(bad), 20))
    await daemon.until({"type": "run.finished"}, n=n_good)
    letters = (await daemon.get("/dead-letters?limit=1000"))["items"]
    assert len(letters) == len(bad)
    assert {letter["reason"] for letter in letters} >= {"undecodable", "invalid", "too_large", "too_deep"}
    code, _out, _ = await daemon.command("dead-letters", "show", str(letters[-1]["position"]))
    assert code == 0


async def test_configuration_errors_are_all_listed_with_file_and_line(daemon: Daemon) -> None:
    (daemon.folder / "cascadence.yml").write_text(
        "http_prt: 8000\nmax_concurrent_runs: many\n\nbackend: nonsense\nplugin_paths:\n  - no_colon\n"
    )
    code, _, err = await daemon.command("up", CASCADENCE_PLUGIN_PATHS="")
    assert code == 78
    for expected in ("cascadence.yml:1", "http_port", "cascadence.yml:2", "cascadence.yml:4", "cron"):
        assert expected in err, err


async def test_a_broken_plugin_is_reported_and_the_others_load(daemon: Daemon) -> None:
    (daemon.folder / "broken.py").write_text("import nothing_like_this\n")
    paths = daemon.env["CASCADENCE_PLUGIN_PATHS"] + ",broken:Task,accept_tasks:Missing"
    await daemon.start(CASCADENCE_PLUGIN_PATHS=paths)
    await daemon.until({"type": "task.rejected", "plugin": "broken:Task"})
    await daemon.until({"type": "task.rejected", "plugin": "accept_tasks:Missing"})
    names = [task["name"] for task in (await daemon.get("/status"))["tasks"]]
    assert "traced" in names


async def test_a_taken_port_is_named(daemon: Daemon) -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    code, _, err = await daemon.command("up", CASCADENCE_HTTP_PORT=str(port))
    server.close()
    assert code == 78
    assert str(port) in err
    assert "http_port" in err


async def test_requests_over_rpc_that_are_wrong_are_refused_in_words(daemon: Daemon) -> None:
    await daemon.start()
    async with daemon.client() as client:
        for body, code in {
            b"{": "400",
            b'{"task": "example"}': "400",
            b'{"task": "nowhere", "user_id": "a", "group_id": "b"}': "404",
            b'{"task": "example", "user_id": "", "group_id": "b"}': "400",
            b'{"task": "example", "user_id": "a", "group_id": "b", "surprise": 1}': "400",
        }.items():
            reply = await client.request("ume.rpc.run", body, timeout=10)
            assert (reply.headers or {}).get("Nats-Service-Error-Code") == code, body
            assert json.loads(reply.data)["detail"]
