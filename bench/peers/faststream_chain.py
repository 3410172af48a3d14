"""FastStream on JetStream: a chain of five stages, each acknowledged when its messages are confirmed by the broker.

`python -m bench.peers.faststream_chain NATS_URL MESSAGES_A_RUN` handles `chain.1` to `chain.5` and prints `ready`. A
stage publishes to the next one, the last to `done`; so many more messages go to `extra` that a run publishes
MESSAGES_A_RUN in all. Each stage works on one message at a time, FastStream's default: with `max_workers` of 10 or 100
it was slower here, and took more CPU time (measured).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from faststream.nats import JStream, NatsBroker, PullSub

STAGES = 5
_EXTRA_BODY = "x" * 400
"""As long as the messages of ours that it stands for."""


async def main(url: str, messages_a_run: int) -> None:
    broker = NatsBroker(url, logger=None)
    stream = JStream(name="CHAIN", subjects=["chain.*", "done", "extra"])
    for stage in range(1, STAGES + 1):
        following = f"chain.{stage + 1}" if stage < STAGES else "done"
        n_extra = (messages_a_run - STAGES) * stage // STAGES - (messages_a_run - STAGES) * (stage - 1) // STAGES
        broker.subscriber(
            f"chain.{stage}",
            stream=stream,
            durable=f"stage-{stage}",
            pull_sub=PullSub(batch_size=100, timeout=5),
        )(_handler(broker, following, n_extra))
    async with broker:
        await broker.start()
        print("ready", flush=True)
        await asyncio.Event().wait()


def _handler(broker: NatsBroker, following: str, n_extra: int) -> Callable[[int], Awaitable[None]]:
    async def handle(n: int) -> None:
        extra = (broker.publish(_EXTRA_BODY, "extra", stream="CHAIN") for _ in range(n_extra))
        await asyncio.gather(*extra, broker.publish(n, following, stream="CHAIN"))

    return handle


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
