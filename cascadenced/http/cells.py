"""What the pages are put together of: tables, links, and each kind of value as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from cascadenced.clock import parse_iso
from cascadenced.events.base import Json
from cascadenced.http.html import Child, Html, tag

MAX_LINE_CHARS = 60
"""A shorter value is shown on one line."""
MAX_SHOWN_CHARS = 4_000
"""Of a value on a page; all of it is in the run's events."""

NOTHING = tag("span", "—", class_="none")
_MARKS = {
    "success": "✓", "enabled": "✓", "ok": "✓", "connected": "✓",
    "error": "✕", "failing": "✕", "disconnected": "✕", "failed": "✕",
    "running": "▶", "started": "▶",
    "queued": "○", "pending": "○", "planned": "○", "timeout": "◔", "skipped": "–", "foreign": "–",
    "waiting": "◔", "paused": "‖", "degraded": "!", "in_doubt": "?", "cancelled": "■", "disabled": "⊘", "refused": "⊘",
}  # fmt: skip
"""A sign for each status, so that colour is never all that tells them apart."""


def facts(*named: tuple[str, Child]) -> Html:
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in named], class_="facts")


def table(heads: Sequence[str], rows: Sequence[Sequence[Child]]) -> Html:
    """Cells carry the name of their column: on a narrow screen each row is shown as a list."""
    return tag(
        "table",
        tag("thead", tag("tr", [tag("th", head, scope="col", data_label=head) for head in heads])),
        tag(
            "tbody",
            [
                tag("tr", [tag("td", cell, data_label=head) for head, cell in zip(heads, row, strict=True)])
                for row in rows
            ],
        ),
    )


def state_of(status: str | None) -> Html:
    if status is None:
        return NOTHING
    # A foreign run's status is whatever its sender calls it; only words of ours become a class.
    known = status if status in _MARKS else "other"
    mark = tag("span", _MARKS.get(status, "·"), aria_hidden="true", class_="mark")
    return tag("span", mark, status.replace("_", " "), class_=f"status {known}")


def number(n: int) -> Html:
    return tag("span", f"{n:,}", class_="number" if n else "number none")


def task_link(name: str) -> Html:
    return tag("a", name, href=f"/status/{quote(name, safe='')}")


def run_link(run_id: str | None) -> Html:
    if run_id is None:
        return NOTHING
    return tag("a", tag("code", _abridged(run_id)), href=f"/runs/{quote(run_id, safe='')}", title=run_id)


def _abridged(run_id: str) -> str:
    # The beginning of an id is its time, the same for runs of one minute; its end tells them apart.
    return run_id if len(run_id) <= 14 else f"{run_id[:8]}…{run_id[-4:]}"


def pseudonym(full: str | None) -> Child:
    return NOTHING if full is None else tag("code", f"{full[:12]}…", title=full)


def moment(at: str | None) -> Html:
    """An instant in UTC; the script shows how long ago it is."""
    if at is None:
        return NOTHING
    return tag("time", f"{at[:10]} {at[11:19]} UTC", datetime=at)


def took(started_at: str | None, finished_at: str | None) -> Child:
    if started_at is None or finished_at is None:
        return NOTHING
    return duration((parse_iso(finished_at) - parse_iso(started_at)) / 1_000_000)


def duration(seconds: float) -> str:
    if seconds < 0.0005:
        return "< 1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours == 0:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{hours} h {minutes % 60} min" if days == 0 else f"{days} d {hours % 24} h"


def failure(kind: str, message: str) -> Html:
    return tag("p", tag("strong", kind), " ", tag("span", message, class_="message"), class_="alarm")


def value_of(value: Json) -> Html:
    encoded = msgspec.json.encode(value)
    text = msgspec.json.format(encoded, indent=0 if len(encoded) <= MAX_LINE_CHARS else 2).decode()
    cut = len(text) > MAX_SHOWN_CHARS
    return verbatim(text[:MAX_SHOWN_CHARS] + ("\n… (cut; all of it is in the events)" if cut else ""))


def verbatim(text: str) -> Html:
    return tag("pre", tag("code", text))


def stopped_at(since: str | None) -> Html | None:
    return tag("p", f"This list stopped at {since}.", class_="alarm") if since else None
