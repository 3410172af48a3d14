"""What only a real broker can do to us."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import nats
import pytest

from cascadenced.bus import jetstream, jetstream_pull
from cascadenced.bus.base import StreamUnreadable
from cascadenced.bus.embedded import EmbeddedServer
from cascadenced.bus.jetstream import JetStreamBus
from cascadenced.bus.jetstream_link import Address
from cascadenced.bus.jetstream_pull import Place, parse_reply
from cascadenced.bus.jetstream_rpc import semantic_version
from cascadenced.errors import ConfigError, Unavailable
from cascadenced.events.outgoing import Outgoing
from tests import servers
from tests.bus.conftest import TOKEN, RealWorld, connected, real_world
from tests.bus.test_breaks import positioned
from tests.bus.test_contract import acked, outgoing

NEEDLE = b"alice@example.org"


def files_with(folder: Path, needle: bytes) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


async def gone(folder: Path, needle: bytes) -> None:
    async with asyncio.timeout(10):
        while files_with(folder, needle):
            await asyncio.sleep(0.02)


def test_both_forms_of_an_acknowledgement_subject_are_read() -> None:
    short = "$JS.ACK.UME.me_event.2.17.40.1790000000123456789.5"
    long = "$JS.ACK._.h4sh.UME.me_event.2.17.40.1790000000123456789.5"
    for subject in (short, long, f"{long}.r4nd"):
        assert parse_reply(subject) == Place("UME", 17, 1_790_000_000_123_456, 2)


def test_credentials_are_never_shown() -> None:
    address = Address("nats://s3cret@a:1, tls://user:pa%20ss@b:2")
    assert address.shown == "nats://a:1,tls://b:2"
    assert address.clean("cannot reach user:pa%20ss@b with s3cret or pa ss") == "cannot reach ***@b with *** or ***"
    for wrong in ("", "nats://", "nats://s3cret@:x"):
        with pytest.raises(ConfigError) as refusal:
            Address(wrong)
        assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("1.2.3", "1.2.3"), ("0.1", "0.1.0"), ("1.2.3.dev4", "1.2.3-dev4"), ("1.2rc1", "1.2.0-rc1")]
)
def test_versions_become_what_nats_calls_semantic(ours: str, theirs: str) -> None:
    assert semantic_version(ours) == theirs


def test_a_prefix_must_be_one_token() -> None:
    with pytest.raises(ConfigError, match=r"a\.b"):
        JetStreamBus("nats://x", prefix="a.b", instance_id="me", clock=None, limits=None, encrypted_store=False)  # type: ignore[arg-type] # unused


@pytest.mark.slow
class TestOpening:
    async def test_nobody_there_is_said_at_once(self) -> None:
        with pytest.raises(Unavailable, match=r"nats://127\.0\.0\.1:1: ") as refusal:
            await asyncio.wait_for(JetStreamBus.open(url="nats://s3cret@127.0.0.1:1", instance_id="me"), 5)
        assert "s3cret" not in str(refusal.value)

    async def test_wrong_credentials_are_a_matter_of_configuration(self, server: EmbeddedServer) -> None:
        url = f"nats://s3cret@127.0.0.1:{server.port}"
        with pytest.raises(ConfigError, match="refused our credentials") as refusal:
            await asyncio.wait_for(JetStreamBus.open(url=url, instance_id="me"), 5)
        assert "s3cret" not in str(refusal.value)

    async def test_one_of_several_servers_is_enough(self, server: EmbeddedServer) -> None:
        bus = await JetStreamBus.open(url=f"nats://127.0.0.1:1,{server.url}", instance_id="me")
        assert bus.info().connected
        await bus.close()

    async def test_a_server_without_jetstream_is_said_to_be_one(self, server: EmbeddedServer, tmp_path: Path) -> None:
        ports = tmp_path / "plain"
        ports.mkdir()
        options = ("-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(ports))
        plain = await asyncio.create_subprocess_exec(server.path, *options, stderr=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(10):
                while not (files := [p for p in ports.iterdir() if p.read_text()]):
                    await asyncio.sleep(0.01)
            url = files[0].read_text().split('"')[3]
            with pytest.raises(ConfigError, match="JetStream"):
                await JetStreamBus.open(url=url, instance_id="me")
        finally:
            plain.terminate()
            await plain.wait()

    async def test_streams_and_consumers_are_as_promised(self, real: RealWorld) -> None:
        config = (await real.api("STREAM.INFO.UME"))["config"]
        assert "ume.*" in config["subjects"]
        assert "ume.audit.>" in config["subjects"]
        assert (config["retention"], config["discard"], config["storage"]) == ("limits", "old", "file")
        assert (config["max_age"], config["max_bytes"]) == (7 * 86400 * 10**9, 1 << 30)
        assert config["duplicate_window"] == 120 * 10**9
        runs = (await real.api("STREAM.INFO.UME_RUNS"))["config"]
        assert (runs["retention"], runs["discard"], runs["subjects"]) == ("workqueue", "new", ["ume.run.request.>"])
        names = (await real.api("CONSUMER.NAMES.UME"))["consumers"]
        assert sorted(names) == [
            f"cascadence_me_{family}" for family in ("event", "flat", "pointer", "schedule", "task_run")
        ]
        assert (await real.api("CONSUMER.NAMES.UME_RUNS"))["consumers"] == ["cascadence_runs"]
        event = (await real.api("CONSUMER.INFO.UME.cascadence_me_event"))["config"]
        assert (event["max_deliver"], event["max_ack_pending"], event["ack_policy"]) == (-1, 10_000, "explicit")

    async def test_an_existing_stream_is_brought_up_to_date_and_keeps_the_rest(self, server: EmbeddedServer) -> None:
        async with connected(server.url) as client:
            world = RealWorld(None, client)  # type: ignore[arg-type] # no bus yet
            await world.api(
                "STREAM.CREATE.UME", {"name": "UME", "subjects": ["ume.idea"], "max_msg_size": 5000, **FILE}
            )
            bus = await JetStreamBus.open(url=server.url, instance_id="me", max_age_s=60)
            config = (await world.api("STREAM.INFO.UME"))["config"]
            assert (len(config["subjects"]), config["max_age"], config["max_msg_size"]) == (10, 60 * 10**9, 5000)
            await bus.close()

    @pytest.mark.parametrize(
        ("existing", "complaint"),
        [
            ({"name": "UME", "subjects": ["ume.idea"], "storage": "memory", "retention": "limits"}, "storage 'memory'"),
            ({"name": "UME", "subjects": ["ume.idea"], "storage": "file", "retention": "workqueue"}, "'workqueue'"),
            ({"name": "OTHER", "subjects": ["ume.>"], "storage": "file", "retention": "limits"}, "overlap"),
        ],
    )
    async def test_a_stream_that_cannot_be_made_to_fit_is_named(
        self, server: EmbeddedServer, existing: dict[str, Any], complaint: str
    ) -> None:
        async with connected(server.url) as client:
            await RealWorld(None, client).api(f"STREAM.CREATE.{existing['name']}", existing)  # type: ignore[arg-type] # no bus
            with pytest.raises(ConfigError, match=complaint):
                await JetStreamBus.open(url=server.url, instance_id="me")

    async def test_the_epoch_survives_a_restart_and_not_the_loss_of_a_stream(
        self, server: EmbeddedServer, real: RealWorld
    ) -> None:
        before = real.bus.info()
        await server.restart()
        await reconnected(real, before.server_id)
        assert real.bus.info().epoch == before.epoch
        await until_connected(real.client)
        await real.api("STREAM.DELETE.UME")
        async with asyncio.timeout(15):
            while real.bus.info().epoch == before.epoch:
                await asyncio.sleep(0.02)
        await real.send("ume.idea", b"new")
        assert [delivery.data for delivery in await acked(real, 1)] == [b"new"]


FILE = {"storage": "file", "retention": "limits"}


async def stop_for_good(pid: int) -> None:
    """SIGSTOP, and wait until it has come to that: a signal takes its time."""
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(5):
        while Path(f"/proc/{pid}/stat").exists() and " T " not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.01)


async def reconnected(world: RealWorld, server_id: str) -> None:
    """The bus has met another server than `server_id`."""
    async with asyncio.timeout(10):
        while not (world.bus.info().connected and world.bus.info().server_id != server_id):
            await asyncio.sleep(0.01)


async def until_connected(client: Any) -> None:
    async with asyncio.timeout(10):
        while not client.is_connected:
            await asyncio.sleep(0.01)


@pytest.mark.slow
class TestErasing:
    @pytest.mark.parametrize("subject", ["ume.event.x", "ume.idea", "ume.run.request.x"])
    async def test_no_byte_of_an_erased_message_stays_in_the_store(
        self, tmp_path: Path, real: RealWorld, subject: str
    ) -> None:
        for n in range(30):
            await real.send(subject, b'{"user_id":"%s %d"}' % (NEEDLE, n))
        assert files_with(tmp_path, NEEDLE)
        await acked(real, 30, erase=True)
        await gone(tmp_path, NEEDLE)
        assert await real.stored(runs="run.request" in subject) == []

    async def test_other_messages_beside_it_stay(self, tmp_path: Path, real: RealWorld) -> None:
        for n in range(6):
            await real.send("ume.event.x", b"%s %d" % (NEEDLE if n % 2 else b"nobody", n))
        for delivery in await _fetch_all(real, 6):
            delivery.ack(erase=NEEDLE in delivery.data)
        await gone(tmp_path, NEEDLE)
        assert [data for _, data in await real.stored()] == [b"nobody 0", b"nobody 2", b"nobody 4"]

    async def test_closing_finishes_what_is_to_be_erased(self, tmp_path: Path, real: RealWorld) -> None:
        for n in range(100):
            await real.send("ume.event.x", b"%s %d" % (NEEDLE, n))
        await acked(real, 100, erase=True)
        await real.bus.close()
        assert files_with(tmp_path, NEEDLE) == []

    async def test_what_somebody_erased_before_is_just_acknowledged(self, real: RealWorld) -> None:
        await real.send("ume.event.x", NEEDLE)
        [delivery] = await _fetch_all(real, 1)
        assert (await real.api("STREAM.MSG.DELETE.UME", {"seq": delivery.stream_seq}))["success"]
        delivery.ack(erase=True)
        await real.send("ume.event.x", b"next")
        await acked(real, 1)
        async with asyncio.timeout(5):
            while (await real.api("CONSUMER.INFO.UME.cascadence_me_event"))["num_ack_pending"]:
                await asyncio.sleep(0.01)

    async def test_where_it_is_forbidden_the_message_is_acknowledged_in_the_end(
        self, server: EmbeddedServer, real: RealWorld
    ) -> None:
        config = (await real.api("STREAM.INFO.UME"))["config"]
        assert "error" not in await real.api("STREAM.UPDATE.UME", {**config, "deny_delete": True})
        await real.send("ume.event.x", NEEDLE)
        async with asyncio.timeout(20):
            while (await real.api("CONSUMER.INFO.UME.cascadence_me_event"))["ack_floor"]["stream_seq"] == 0:
                for delivery in await _fetch_some(real):
                    delivery.ack(erase=True)


async def _fetch_some(world: RealWorld) -> list[Any]:
    try:
        return list(await asyncio.wait_for(world.bus.fetch(100), 0.2))
    except TimeoutError:
        return []


async def _fetch_all(world: RealWorld, n: int) -> list[Any]:
    got: list[Any] = []
    async with asyncio.timeout(10):
        while len(got) < n:
            got += await world.bus.fetch(n)
    return got


@pytest.mark.slow
class TestFlow:
    async def test_pulling_stops_at_a_bound_when_nobody_fetches(
        self, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A lower one: a slow disk takes longer for 3,000 messages than the first request is good for.
        monkeypatch.setattr(jetstream_pull, "IN_FLIGHT", 100)
        async with real_world(server) as real:
            n = 300
            await asyncio.gather(*(real.send("ume.event.x", b"%d" % i) for i in range(n)))
            delivered = 0
            async with asyncio.timeout(10):
                while delivered < 100:
                    info = await real.api("CONSUMER.INFO.UME.cascadence_me_event")
                    delivered = info["delivered"]["stream_seq"]
            assert delivered == 100
            got = {delivery.stream_seq for delivery in await _fetch_distinct(real, n)}
            assert len(got) == n

    async def test_more_bytes_than_one_request_takes_all_arrive(self, real: RealWorld) -> None:
        for n in range(20):
            await real.send("ume.event.x", b"%07d" % n + bytes(999_000))
        got = await _fetch_distinct(real, 20)
        assert sorted(int(delivery.data[:7]) for delivery in got) == list(range(20))

    async def test_waiting_costs_one_request_for_each_consumer_in_five_seconds(self, real: RealWorld) -> None:
        requests = 0

        async def count(_message: Any) -> None:
            nonlocal requests
            requests += 1

        await real.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>", cb=count)
        waiting = asyncio.create_task(real.bus.fetch(1))
        await asyncio.sleep(6)
        assert 6 <= requests <= 12
        await real.send("ume.note", b"still there")
        [delivery] = await asyncio.wait_for(waiting, 5)
        assert delivery.data == b"still there"

    async def test_fetching_goes_on_after_the_server_was_killed_and_came_back(
        self, server: EmbeddedServer, real: RealWorld
    ) -> None:
        await real.send("ume.event.x", b"before")
        [before] = await acked(real, 1)
        waiting = asyncio.create_task(real.bus.fetch(1))
        os.kill(server.pid, signal.SIGKILL)
        await server.wait()
        await server.restart()
        await until_connected(real.client)
        await real.send("ume.event.x", b"after")
        async with asyncio.timeout(15):
            [delivery] = await waiting
            while delivery.data != b"after":  # the acknowledgement may have been lost with the server
                delivery.ack()
                [delivery] = await real.bus.fetch(1)
        assert delivery.stream_seq == before.stream_seq + 1

    async def test_publishing_fails_while_the_server_is_away_and_works_again_after(
        self, server: EmbeddedServer, real: RealWorld
    ) -> None:
        before = real.bus.info().server_id
        await server.stop()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(real.bus.publish([outgoing("ume.stage.x.run")]), 10)
        await server.restart()
        await reconnected(real, before)
        await asyncio.wait_for(real.bus.publish([outgoing("ume.stage.x.run")]), 10)
        await until_connected(real.client)
        assert [subject for subject, _ in await real.stored()] == ["ume.stage.x.run"]

    async def test_a_hung_server_fails_a_publish_and_does_not_hold_up_closing(
        self, server: EmbeddedServer, real: RealWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cascadenced.bus.jetstream_publish._SILENCE_S", 0.2)
        await stop_for_good(server.pid)
        try:
            with pytest.raises(Unavailable, match="nothing heard"):
                await asyncio.wait_for(real.bus.publish([outgoing("ume.stage.x.run")]), 5)
            await asyncio.wait_for(real.bus.close(), 12)
        finally:
            os.kill(server.pid, signal.SIGCONT)

    async def test_a_consumer_somebody_deleted_is_made_again(self, real: RealWorld) -> None:
        await real.api("CONSUMER.DELETE.UME.cascadence_me_event")
        await real.send("ume.event.x", b"after")
        assert [delivery.data for delivery in await acked(real, 1)] == [b"after"]

    async def test_a_client_the_server_threw_out_is_replaced(self, real: RealWorld) -> None:
        async def echo(body: bytes, headers: Any) -> tuple[bytes, dict[str, str]]:
            return body, {}

        await real.bus.serve({"echo": echo}, version="1.0.0")
        client: Any = real.bus._client
        # Over the bound with its headers: the server ends the connection, and nats-py closes for good.
        body = bytes(real.bus.info().max_payload_bytes - 10)
        await client.publish("ume.stage.x.run", body, headers={"Nats-Msg-Id": "x" * 100})
        async with asyncio.timeout(10):
            while real.bus._client is client or not real.bus.info().connected:
                await asyncio.sleep(0.01)
        await real.send("ume.event.x", b"after")
        assert [delivery.data for delivery in await acked(real, 1)] == [b"after"]
        await real.bus.publish([outgoing("ume.stage.x.run")])
        assert (await real.request("echo", b"again"))[0] == b"again"

    async def test_a_publish_to_a_stream_that_went_missing_is_not_taken_for_done(self, real: RealWorld) -> None:
        await real.api("STREAM.DELETE.UME")
        message = outgoing("ume.stage.x.run")
        async with asyncio.timeout(15):
            while True:
                try:
                    await real.bus.publish([message])
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        assert await real.stored() == [(message.subject, message.body)]

    async def test_a_refusal_by_the_stream_is_unavailable_with_its_reason(self, real: RealWorld) -> None:
        config = (await real.api("STREAM.INFO.UME"))["config"]
        await real.api("STREAM.UPDATE.UME", {**config, "max_msg_size": 100})
        with pytest.raises(Unavailable, match="maximum"):
            await real.bus.publish([Outgoing("ume.stage.x.run", bytes(500))])


async def _fetch_distinct(world: RealWorld, n: int) -> list[Any]:
    got: dict[int, Any] = {}
    async with asyncio.timeout(20):
        while len(got) < n:
            for delivery in await world.bus.fetch(500):
                delivery.ack()
                got[delivery.stream_seq] = delivery
    return list(got.values())


@pytest.mark.slow
async def test_two_instances_each_get_the_events_and_share_the_runs(server: EmbeddedServer) -> None:
    async with connected(server.url) as client:
        one, two = [await JetStreamBus.open(url=server.url, instance_id=name) for name in ("one", "t.w o")]
        await client.request("ume.event.x", b"event", timeout=5)
        await client.request("ume.run.request.x", b"run", timeout=5)
        got: list[tuple[str, bytes]] = []
        async with asyncio.timeout(10):
            while len(got) < 3:
                tasks = {asyncio.create_task(bus.fetch(10)): name for name, bus in (("one", one), ("two", two))}
                done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=0.2)
                for task in pending:
                    task.cancel()
                for task in done:
                    for delivery in task.result():
                        delivery.ack()
                        got.append((tasks[task], delivery.data))
        assert sorted(data for _, data in got) == [b"event", b"event", b"run"]
        assert {name for name, data in got if data == b"event"} == {"one", "two"}
        await one.close()
        await two.close()


@pytest.mark.slow
async def test_the_micro_service_can_be_found(real: RealWorld) -> None:
    async def verb(body: bytes, headers: Any) -> tuple[bytes, dict[str, str]]:
        return b"", {}

    await real.bus.serve({"list": verb, "pointer_add": verb}, version="0.1.0")
    answer = await real.client.request("$SRV.INFO.cascadence", b"", timeout=5)
    assert b'"ume.rpc.pointer_add"' in answer.data
    with pytest.raises(nats.errors.NoRespondersError):
        await real.client.request("ume.rpc.nonsense", b"", timeout=5)


# ── what an operator, or the stream itself, has decided ──────────────────────────────────────────────────────────


async def changed(world: RealWorld, **what: int) -> None:
    """An operator changes the stream of events."""
    config = (await world.api("STREAM.INFO.UME"))["config"]
    assert "error" not in await world.api("STREAM.UPDATE.UME", {**config, **what})


@pytest.mark.slow
async def test_a_stream_that_large_messages_do_not_quite_fill_drops_its_oldest_in_peace(real: RealWorld) -> None:
    await changed(real, max_bytes=4 << 20)
    await real.bus.publish([outgoing("ume.audit.ours.run")])
    for _ in range(10):
        await real.send("ume.audit.theirs.run", bytes(900_000))
        await real.bus.check()
    assert (await real.stored())[0][0] == "ume.audit.theirs.run"
    assert (await real.bus.storage()).full
    await asyncio.sleep(0)
    assert real.told == []


@pytest.mark.slow
async def test_a_stream_that_keeps_the_newest_of_each_subject_may_drop_our_last(real: RealWorld) -> None:
    await changed(real, max_msgs_per_subject=1)
    await real.bus.publish([outgoing("ume.audit.shared.run")])
    await real.bus.check()
    for _ in range(2):
        await real.send("ume.audit.shared.run", b"another instance's")
        await real.bus.check()
    await asyncio.sleep(0)
    assert real.told == []


@pytest.mark.slow
async def test_a_bound_for_messages_that_an_operator_has_set_is_known(real: RealWorld) -> None:
    assert real.bus.info().max_payload_bytes == 1 << 20
    await changed(real, max_msg_size=5000)
    await real.bus.check()
    assert real.bus.info().max_payload_bytes == 5000


@pytest.mark.slow
@pytest.mark.parametrize("name", [None, *servers.NAMES])
async def test_a_scan_passes_over_what_the_server_cannot_read(tmp_path: Path, name: str | None) -> None:
    if name is not None and servers.binary(name) is None:
        pytest.skip(f"nats-server {name} was not fetched")
    server = await EmbeddedServer.start(tmp_path, token=TOKEN, server=str(servers.binary(name)) if name else None)
    try:
        async with real_world(server) as world:
            await world.bus.publish([positioned(position) for position in range(1, 251)])
        await server.stop()
        [block] = tmp_path.glob("nats/jetstream/*/streams/UME/msgs/1.blk")
        data = bytearray(block.read_bytes())
        data[len(data) // 2] ^= 1
        block.write_bytes(data)
        await server.restart()
        async with real_world(server) as world, asyncio.timeout(30):
            for _ in range(2):
                found = [sighting.position async for chunk in world.bus.scan() for sighting in chunk]
                assert found == sorted(found)
                assert len(found) < 250
                readable = [seq for seq in range(1, 251) if await is_readable(world, seq)]
                assert found == readable
    finally:
        await server.stop()


async def is_readable(world: RealWorld, seq: int) -> bool:
    return "message" in await world.api("STREAM.MSG.GET.UME", {"seq": seq})


# ── while it stands still ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
async def test_a_batch_under_way_when_the_bus_stands_still_is_not_sent_again_one_by_one(
    real: RealWorld, server: EmbeddedServer
) -> None:
    bus, pid = real.bus, server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        publishing = asyncio.create_task(bus.publish([positioned(position) for position in range(1, 101)]))
        await asyncio.sleep(0.1)
        bus._publisher.held = "the broker has forgotten something"
        bus._let_go("the broker has forgotten something")
        await asyncio.sleep(0.1)
        assert publishing.done()
    finally:
        os.kill(pid, signal.SIGCONT)
    with pytest.raises(Unavailable):
        await publishing


@pytest.mark.slow
async def test_an_interrupted_forgetting_of_ids_leaves_the_stream_as_it_was(
    real: RealWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure, failing = jetstream.ensure_streams, True

    async def fails_once(*what: Any) -> Any:
        nonlocal failing
        if failing:
            failing = False
            raise Unavailable("no answer")
        return await ensure(*what)

    before = (await real.api("STREAM.INFO.UME"))["config"]["duplicate_window"]
    monkeypatch.setattr(jetstream, "ensure_streams", fails_once)
    with pytest.raises(Unavailable):
        await real.bus.forget_ids()
    async with asyncio.timeout(5):
        while (await real.api("STREAM.INFO.UME"))["config"]["duplicate_window"] != before:
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_an_unreadable_stream_is_one_of_the_server_that_said_so(real: RealWorld, server: EmbeddedServer) -> None:
    real.bus._not_ready(StreamUnreadable("UME", "damaged"))
    assert real.bus.info().unreadable_stream == "UME"
    server.kill()
    async with asyncio.timeout(5):
        while real.bus.info().connected:
            await asyncio.sleep(0.01)
    assert real.bus.info().unreadable_stream == ""
