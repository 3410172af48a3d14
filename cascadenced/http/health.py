"""How the instance is, in one word and the reasons for it."""

from __future__ import annotations

from typing import Literal

import msgspec

from cascadenced.instance import Instance


class Health(msgspec.Struct):
    """status: `ok`; `degraded`: it works, but not all of it; `failing`: it cannot do its work.

    reasons: sentences; empty when ok. They carry no details, because everyone may read them.
    """

    status: Literal["ok", "degraded", "failing"]
    reasons: list[str]


def alive(instance: Instance) -> Health:
    """Whether this process is of use: failing when nothing can be recorded. NATS may come back without us."""
    failing = ["the log cannot be written"] if instance.log.read_only is not None else []
    return _health(failing, [*_bus(instance), *_projections(instance)])


def ready(instance: Instance, started: bool) -> Health:
    """Whether work may be sent here: failing before everything is up, while the bus is away, and when stopping."""
    failing = [] if started else ["the daemon is starting or stopping"]
    if instance.log.read_only is not None:
        failing.append("the log cannot be written")
    return _health([*failing, *_bus(instance)], _projections(instance))


def _health(failing: list[str], degraded: list[str]) -> Health:
    return Health("failing" if failing else "degraded" if degraded else "ok", [*failing, *degraded])


def _bus(instance: Instance) -> list[str]:
    bus = instance.bus_status() if instance.bus_status else None
    return ["NATS is not connected"] if bus is not None and not bus.connected else []


def _projections(instance: Instance) -> list[str]:
    return [f"the projection {name} has stopped" for name in instance.log.frozen()]
