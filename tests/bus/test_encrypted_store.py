"""The store of our own server is ciphertext, so that what names people never lies on the disk in clear."""

from __future__ import annotations

from pathlib import Path

import nats
import pytest

from cascadenced.bus.embedded import EmbeddedServer
from cascadenced.bus.jetstream import JetStreamBus
from tests.bus.conftest import SERVER, TOKEN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

KEY = "5e" * 32
NEEDLE = b"needle-4711-in-the-haystack"


def _files_with_needle(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and NEEDLE in path.read_bytes()]


async def test_a_message_is_nowhere_in_clear_neither_before_nor_after_it_is_erased(tmp_path: Path) -> None:
    server = await EmbeddedServer.start(tmp_path, token=TOKEN, key=KEY, server=SERVER)
    try:
        bus = await JetStreamBus.open(url=server.url, instance_id="me", encrypted_store=True)
        client = await nats.connect(server.url)
        for subject in ("ume.event.x", "ume.run.request.x"):
            await client.jetstream().publish(subject, NEEDLE)
        assert _files_with_needle(tmp_path) == []
        taken = []
        while len(taken) < 2:
            taken += await bus.fetch(10)
        for delivery in taken:
            assert delivery.data == NEEDLE
            delivery.ack(erase=True)
        await bus.close()
        assert (await client.jetstream().stream_info("UME")).state.messages == 0
        assert (await client.jetstream().stream_info("UME_RUNS")).state.messages == 0
        await client.close()
    finally:
        await server.stop()
    assert _files_with_needle(tmp_path) == []


async def test_the_same_key_reads_the_store_again_after_a_restart(tmp_path: Path) -> None:
    server = await EmbeddedServer.start(tmp_path, token=TOKEN, key=KEY, server=SERVER)
    bus = await JetStreamBus.open(url=server.url, instance_id="me", encrypted_store=True)
    client = await nats.connect(server.url)
    await client.jetstream().publish("ume.event.x", NEEDLE)
    await client.close()
    await bus.close()
    await server.stop()

    server = await EmbeddedServer.start(tmp_path, token=TOKEN, key=KEY, server=SERVER)
    try:
        bus = await JetStreamBus.open(url=server.url, instance_id="me", encrypted_store=True)
        (delivery,) = await bus.fetch(1)
        assert delivery.data == NEEDLE
        await bus.close()
    finally:
        await server.stop()
