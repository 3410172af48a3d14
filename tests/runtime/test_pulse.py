"""Signs of life are given only while there is life."""

from __future__ import annotations

import asyncio

from cascadenced.clock import FakeClock
from cascadenced.errors import CascadenceError, DataFolderGone
from cascadenced.runtime.pulse import pulse
from tests.doubles import idle


class Heart:
    def __init__(self, *checks: object) -> None:
        self.clock = FakeClock()
        self.n_signs = 0
        self.found: list[CascadenceError] = []
        self.writer = asyncio.Event()
        self.writer.set()
        self.failure: DataFolderGone | None = None

    async def probe(self) -> None:
        await self.writer.wait()
        if self.failure is not None:
            raise self.failure

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def beat(self) -> None:
        self.n_signs += 1

    def start(self, *, probe: bool) -> asyncio.Task[None]:
        async def nothing() -> None:
            return

        return asyncio.create_task(
            pulse(
                self.probe if probe else nothing,
                [] if probe else [self.check],
                self.clock,
                every_s=2.0,
                alive=self.beat,
                fatal=self.found.append,
            )
        )


async def test_a_sign_is_given_in_every_interval_while_the_writer_gets_on() -> None:
    heart = Heart()
    task = heart.start(probe=True)
    for n in range(1, 4):
        await idle()
        assert heart.n_signs == n
        await heart.clock.advance(2)
    heart.writer.clear()
    await heart.clock.advance(2)
    before = heart.n_signs
    await heart.clock.advance(60)
    assert heart.n_signs == before
    heart.writer.set()
    await idle()
    assert heart.n_signs == before + 1
    task.cancel()


async def test_a_folder_that_is_gone_ends_the_daemon_and_the_signs() -> None:
    heart = Heart()
    task = heart.start(probe=False)
    await idle()
    heart.failure = DataFolderGone("vault.db is gone")
    await heart.clock.advance(2)
    await task
    assert heart.found == [heart.failure]
    assert heart.n_signs == 1


async def test_what_a_probe_finds_is_left_to_the_log_to_tell() -> None:
    heart = Heart()
    heart.failure = DataFolderGone("log.db is gone")
    await heart.start(probe=True)
    assert (heart.found, heart.n_signs) == ([], 0)
