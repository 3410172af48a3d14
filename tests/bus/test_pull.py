"""Counting what a consumer still owes us, and noticing that nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from cascadenced.bus.jetstream_link import Occasionally, Sender, end
from cascadenced.bus.jetstream_pull import IN_FLIGHT, Pulls
from cascadenced.bus.jetstream_setup import Consumer
from cascadenced.clock import FakeClock


class Broker:
    """Both what `Pulls` sends to and the connection it listens on."""

    max_payload = 1024 * 1024

    def __init__(self) -> None:
        self.requests: list[tuple[int, str]] = []  # (messages asked for, where the answer goes)
        self.handlers: list[Any] = []  # of each consumer

    def new_inbox(self) -> str:
        return "_INBOX.me"

    async def listen(self, _subject: str, handler: Any) -> None:
        self.handlers.append(handler)

    def send(self, subject: str, body: bytes, reply: str = "") -> None:
        if subject.startswith("$JS.API.CONSUMER.MSG.NEXT"):
            self.requests.append((msgspec.json.decode(body)["batch"], reply))

    async def deliver(self, n: int, subject: str = "ume.idea", *, consumer: int = 0) -> None:
        for _ in range(n):
            reply = f"$JS.ACK.UME.c.1.{n}.1.1790000000000000000.0"
            self.handlers[consumer](Message(subject, reply, b"", None))

    async def end(self, reply: str, status: str, why: str, still_owed: int | None = None) -> None:
        headers = {"Status": status, "Description": why}
        if still_owed is not None:
            headers["Nats-Pending-Messages"] = str(still_owed)
        self.handlers[0](Message(reply, "", b"", headers))


class Message(msgspec.Struct):
    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str] | None


class NoEraser:
    busy = False

    def erase(self, *_what: Any) -> None: ...

    def erasing(self, *_what: Any) -> bool:
        return False


class Case:
    def __init__(self, *consumers: Consumer) -> None:
        self.clock, self.broker, self.n_broken = FakeClock(), Broker(), 0
        sender: Any = self.broker
        self.pulls = Pulls(
            consumers or [Consumer("UME", "c", "ume.*", False)],
            own_origin="me",
            clock=self.clock,
            sender=sender,
            eraser=NoEraser(),
            complaints=Occasionally(self.clock),
            broken=self.broken,
        )

    def broken(self) -> None:
        self.n_broken += 1

    @property
    def asked(self) -> list[int]:
        return [n for n, _ in self.broker.requests]


@pytest_asyncio.fixture
async def case() -> AsyncIterator[Case]:
    case = Case()
    broker: Any = case.broker
    await case.pulls.attach(broker)
    case.pulls.start()
    watching = asyncio.create_task(case.pulls.watch())
    await asyncio.sleep(0)
    yield case
    watching.cancel()


async def test_half_is_asked_for_again_once_half_was_fetched(case: Case) -> None:
    half = IN_FLIGHT // 2
    await case.broker.deliver(IN_FLIGHT)
    assert case.asked == [IN_FLIGHT]
    await case.pulls.fetch(half - 1)
    assert case.asked == [IN_FLIGHT]
    await case.pulls.fetch(1)
    assert case.asked == [IN_FLIGHT, half]


async def test_a_flood_from_one_consumer_keeps_nothing_else_waiting() -> None:
    case = Case(Consumer("RUNS", "r", "ume.run.request.>", True), Consumer("UME", "p", "ume.pointer.>", False))
    broker: Any = case.broker
    await case.pulls.attach(broker)
    await case.broker.deliver(IN_FLIGHT, "run")
    await case.broker.deliver(8, "pointer", consumer=1)
    one_by_one = [delivery.subject for _ in range(4) for delivery in await case.pulls.fetch(1)]
    assert one_by_one == ["run", "pointer", "run", "pointer"]
    assert [delivery.subject for delivery in await case.pulls.fetch(4)] == ["run", "run", "pointer", "pointer"]
    subjects = [delivery.subject for delivery in await case.pulls.fetch(100)]
    assert (subjects.count("run"), subjects.count("pointer")) == (50, 4)
    assert len(await case.pulls.fetch(100)) == 100


async def test_an_expired_request_is_made_again_for_what_it_still_owed(case: Case) -> None:
    await case.broker.deliver(20)
    await case.broker.end(case.broker.requests[0][1], "408", "Request Timeout", IN_FLIGHT - 20)
    assert case.asked == [IN_FLIGHT, IN_FLIGHT - 20]


async def test_one_that_says_nothing_of_what_it_owed_owes_nothing(case: Case) -> None:
    await case.broker.end(case.broker.requests[0][1], "408", "Request Timeout")
    assert case.asked == [IN_FLIGHT, IN_FLIGHT]


async def test_a_full_request_is_an_ordinary_end(case: Case) -> None:
    await case.broker.end(case.broker.requests[0][1], "409", "Message Size Exceeds MaxBytes", IN_FLIGHT)
    assert case.asked == [IN_FLIGHT, IN_FLIGHT]
    assert case.n_broken == 0


async def test_what_brought_as_many_bytes_as_it_could_is_fetched_before_there_is_more(case: Case) -> None:
    await case.broker.deliver(3)
    await case.broker.end(case.broker.requests[0][1], "409", "Message Size Exceeds MaxBytes", IN_FLIGHT - 3)
    await case.pulls.fetch(2)
    assert case.asked == [IN_FLIGHT]
    await case.pulls.fetch(1)
    assert case.asked == [IN_FLIGHT, IN_FLIGHT]
    await case.broker.deliver(1)
    await case.broker.end(case.broker.requests[1][1], "408", "Request Timeout", IN_FLIGHT - 1)
    assert case.asked == [IN_FLIGHT, IN_FLIGHT, IN_FLIGHT - 1]


@pytest.mark.parametrize(("status", "why"), [("409", "Consumer Deleted"), ("503", ""), ("404", "No Messages")])
async def test_a_refusal_is_reported_and_not_asked_again(case: Case, status: str, why: str) -> None:
    await case.broker.end(case.broker.requests[0][1], status, why, IN_FLIGHT)
    assert (case.asked, case.n_broken) == ([IN_FLIGHT], 1)
    case.pulls.start()
    assert case.asked == [IN_FLIGHT, IN_FLIGHT]


async def test_the_end_of_a_request_from_before_is_nothing_to_us(case: Case) -> None:
    case.pulls.start()
    await case.broker.end(case.broker.requests[0][1], "409", "Consumer Deleted", IN_FLIGHT)
    assert (case.asked, case.n_broken) == ([IN_FLIGHT, IN_FLIGHT], 0)


async def test_silence_is_reported_once_and_not_asked_again(case: Case) -> None:
    await case.clock.advance(5.9)
    assert case.n_broken == 0
    await case.clock.advance(30)
    assert (case.asked, case.n_broken) == ([IN_FLIGHT], 1)
    case.pulls.start()
    await case.clock.advance(12)
    assert (case.asked, case.n_broken) == ([IN_FLIGHT, IN_FLIGHT], 2)


async def test_a_loop_that_swallows_a_cancellation_is_ended_all_the_same() -> None:
    async def stubborn() -> None:
        for _ in range(3):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(end([task]), 5)
    assert task.done()


async def test_what_is_sent_while_disconnected_is_dropped() -> None:
    sender = Sender(Occasionally(FakeClock()))
    running = asyncio.create_task(sender.run())
    for _ in range(1000):
        sender.send("x", b"")
    await asyncio.wait_for(sender.drained(), 5)
    running.cancel()
