"""What is done about local times that a zone skips or repeats. The rule in plain words: docs/schedules-dst.md."""

from __future__ import annotations

from typing import Literal

import msgspec

from cascadenced.errors import Invalid

Gap = Literal["shift", "skip"]
Overlap = Literal["first", "last", "both"]

Note = Literal["gap.shifted", "gap.merged", "gap.skipped", "overlap.first", "overlap.second"]
"""What the rule did at an instant.

gap.shifted: the local time did not exist; its instant is the end of the gap.
gap.merged: the local time is the end of a gap, and stands for others that did not exist.
gap.skipped: local times did not exist, and were skipped.
overlap.first, overlap.second: clocks show the local time twice; this is the first, the second one.
"""


class Dst(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """For recurrences of fixed times; those that go by elapsed time need no rule.

    gap: a local time that does not exist fires at the end of the gap (shift), or not at all (skip).
    overlap: one that exists twice fires at the first, the last, or both.
    """

    gap: Gap = "shift"
    overlap: Overlap = "first"


DEFAULT = Dst()


def parse_dst(*, gap: object = "shift", overlap: object = "first") -> Dst:
    """Raises Invalid (dst.gap, dst.overlap) for another word."""
    if gap != "shift" and gap != "skip":
        raise Invalid("'dst.gap' must be shift or skip", code="dst.gap")
    if overlap != "first" and overlap != "last" and overlap != "both":
        raise Invalid("'dst.overlap' must be first, last or both", code="dst.overlap")
    return Dst(gap, overlap)
