"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
from datetime import UTC, datetime

import msgspec

from bench.nats_process import version
from cascadenced import __version__


class Machine(msgspec.Struct, frozen=True):
    """load: of the last minute, before the first measurement; above a few tenths somebody else is working here."""

    date: str
    cascadenced: str
    cpus: int
    load: float
    system: str
    python: str
    sqlite: str
    nats_server: str

    def __str__(self) -> str:
        return (
            f"{self.date}, {self.cpus} CPUs, load {self.load:.2f}, {self.system}, Python {self.python}, "
            f"SQLite {self.sqlite}, nats-server {self.nats_server}, cascadenced {self.cascadenced}"
        )


def this_machine() -> Machine:
    """Facts, no name."""
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cascadenced=__version__,
        cpus=len(os.sched_getaffinity(0)),
        load=os.getloadavg()[0],
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        nats_server=".".join(map(str, version())),
    )
