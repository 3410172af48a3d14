"""Now and then: is the writer still getting on, and does the data folder still lie where it was opened?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, DiskError

EVERY_S = 2.0


async def pulse(
    probe: Callable[[], Awaitable[None]],
    checks: Sequence[Callable[[], None]],
    clock: Clock,
    *,
    every_s: float = EVERY_S,
    alive: Callable[[], None],
    fatal: Callable[[CascadenceError], None],
) -> None:
    """Until something is found that ends the daemon.

    probe: returns when the writer has had its turn. While it does not, and while the loop does not come here, nobody is
    told that we are alive.  checks: raise DiskError.  fatal: told of it; a failed probe is the log's to tell.
    """
    while True:
        try:
            await probe()
        except DiskError:
            return
        try:
            for check in checks:
                check()
        except DiskError as error:
            fatal(error)
            return
        alive()
        await clock.sleep(every_s)
