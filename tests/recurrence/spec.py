"""Words for the tests: instants and local times as text."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice

from cascadenced.recurrence.cron_text import parse_cron
from cascadenced.recurrence.dst import Dst, Gap, Overlap
from cascadenced.recurrence.due import Due, Recurrence, following
from cascadenced.recurrence.zones import zone

NEW_YORK, LORD_HOWE, APIA = "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"


def us(text: str) -> int:
    """Of an ISO 8601 instant; UTC if it has no offset."""
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()) * 1_000_000


def utc(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S").removesuffix(":00")


def instants(dues: Iterable[Due]) -> list[str]:
    return [utc(due.at_us) for due in dues if due.fires]


def first(
    recurrence: Recurrence | str,
    n: int,
    *,
    after: str,
    in_zone: str = "UTC",
    gap: Gap = "shift",
    overlap: Overlap = "first",
) -> list[Due]:
    """The first n, those skipped among them. recurrence: as text a cron expression."""
    read = parse_cron(recurrence) if isinstance(recurrence, str) else recurrence
    return list(islice(following(read, zone(in_zone), Dst(gap, overlap), after_us=us(after)), n))
