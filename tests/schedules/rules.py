"""Schedules as people write them, drawn at random: of all kinds, in zones whose clocks change, under every policy."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from cascadenced.events.schedule import ScheduleSet
from cascadenced.recurrence.jitter import jitter_us

_EXPRESSIONS = (
    "0 9 * * 1-5",
    "30 2 * * *",
    "30 1 * * *",
    "15 */6 * * *",
    "H H * * *",
    "H 2 * * *",
    "*/20 2 * * 0,6",
    "0 0 1,15 * *",
    "5 4 * * 1",
    "0 */3 * * *",
)
_RRULES = (
    "FREQ=DAILY;BYHOUR=8,20;BYMINUTE=0;BYSECOND=0",
    "FREQ=WEEKLY;BYDAY=MO,TH,SU",
    "FREQ=HOURLY;INTERVAL=7;COUNT=40",
)
_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Europe/London")
_STARTS = ("2026-10-12", "2027-03-02", "2027-03-20", "2026-06-10")
"""The first three are followed by changes of clocks."""
_SECONDS = (0.0, 40.0, 3_000.0, 40_000.0)


def start_us(chance: random.Random) -> int:
    """When a month begins."""
    day = datetime.fromisoformat(chance.choice(_STARTS)).replace(tzinfo=UTC)
    return int(day.timestamp()) * 1_000_000 + chance.randrange(86_400) * 1_000_000


def drawn(chance: random.Random, now_us: int) -> dict[str, Any]:
    """What could be set at that time. It may be refused: an instant that is over, say."""
    entry = _when(chance, now_us) | {
        "timezone": chance.choice(_ZONES),
        "misfire": {
            "policy": chance.choice(("skip", "latest", "all")),
            "within_s": chance.choice((0, 600, 3_600, 3 * 86_400)),
            "max": chance.choice((1, 3, 100)),
        },
        "overlap": chance.choice(("skip", "queue", "queue", "allow", "cancel_previous")),
        "args": {"does": chance.choice(("ends", "ends", "takes", "takes", "fails", "never_ends"))},
    }
    entry["args"]["seconds"] = chance.choice(_SECONDS)
    if chance.random() < 0.2:
        entry["jitter_s"] = chance.choice((30, 3_600, 40_000))
    if chance.random() < 0.3:
        today = datetime.fromtimestamp(now_us / 1e6, UTC).date()
        entry["exclude"] = [(today + timedelta(chance.randrange(20))).isoformat() for _ in range(4)]
    if chance.random() < 0.2:
        entry["dst"] = {"gap": chance.choice(("shift", "skip")), "overlap": chance.choice(("first", "last", "both"))}
    if chance.random() < 0.15:
        entry["event"] = chance.choice(("tea.time", "nobody.listens"))
    return entry


def _when(chance: random.Random, now_us: int) -> dict[str, Any]:
    kind = chance.random()
    if kind < 0.5:
        return {"expr": chance.choice(_EXPRESSIONS)}
    if kind < 0.65:
        return {"rrule": chance.choice(_RRULES)}
    if kind < 0.85:
        return {"every_s": chance.choice((7_000, 21_600, 86_400, 100_000))}
    soon = datetime.fromtimestamp(now_us / 1e6, UTC) + timedelta(hours=chance.uniform(-5, 200))
    return {"at": soon.replace(second=0, microsecond=0, tzinfo=None).isoformat()}


def jitter_of(rule: ScheduleSet, at_us: int) -> int:
    """By how much later than due it is to fire, µs."""
    return jitter_us(rule.task, at_us, rule.jitter_s) if rule.jitter_s else 0
