"""What the engine knows of a zone's clocks, against the files of the IANA data themselves."""

from __future__ import annotations

import struct
from importlib import resources
from itertools import pairwise
from pathlib import Path
from zoneinfo import TZPATH, available_timezones

import pytest

from cascadenced.errors import Invalid
from cascadenced.recurrence.walls import DAY_S
from cascadenced.recurrence.zones import zone
from tests.recurrence.spec import NEW_YORK, us

_HEADER = struct.Struct(">4s c 15x 6l")


def written(name: str) -> list[tuple[int, int, int]]:
    """(second, offset before, offset after) of each change of a zone's offset, as its file lists them (RFC 8536)."""
    found = next((Path(root, name) for root in TZPATH if Path(root, name).is_file()), None)
    data = found.read_bytes() if found else (resources.files("tzdata") / "zoneinfo" / name).read_bytes()
    _, _, n_ut, n_std, n_leap, n_times, n_types, n_chars = _HEADER.unpack_from(data)
    # The first part has 32-bit seconds; the second one, with 64, is the one to read.
    at = _HEADER.size + n_times * 5 + n_types * 6 + n_chars + n_leap * 8 + n_std + n_ut
    _, _, _, _, _, n_times, n_types, _ = _HEADER.unpack_from(data, at)
    at += _HEADER.size
    seconds = struct.unpack_from(f">{n_times}q", data, at)
    kinds = data[at + n_times * 8 : at + n_times * 9]
    offsets = [struct.unpack_from(">l", data, at + n_times * 9 + 6 * i)[0] for i in range(n_types)]
    steps = pairwise([offsets[0], *(offsets[kind] for kind in kinds)])
    return [(second, old, new) for second, (old, new) in zip(seconds, steps, strict=True) if old != new]


def test_no_zone_changes_its_clocks_twice_within_three_days():
    for name in sorted(available_timezones()):
        for (first, *_), (second, *_) in pairwise(written(name)):
            assert second - first > 3 * DAY_S, name


def test_no_zone_changes_its_clocks_by_more_than_a_day():
    assert all(abs(new - old) <= DAY_S for name in available_timezones() for _, old, new in written(name))


@pytest.mark.parametrize("name", [NEW_YORK, "Africa/Freetown", "Europe/Dublin", "Pacific/Apia", "Asia/Manila"])
def test_the_changes_found_by_probing_are_those_that_are_written(name):
    for second, old, new in written(name):
        before, after = zone(name).stretch(second - 1), zone(name).stretch(second)
        assert (before.offset_s, before.end_s, before.after_s) == (old, second, new)
        assert (after.offset_s, after.start_s, after.before_s) == (new, second, old)


def test_a_change_is_known_on_both_sides_of_where_blocks_meet():
    stretches = [zone(NEW_YORK).stretch(at_s) for at_s in range(0, 60 * 365 * DAY_S, 7 * DAY_S)]
    assert all(stretch.start_s < stretch.end_s for stretch in stretches)


def test_local_times_are_shown_once_twice_or_in_a_gap():
    ny = zone(NEW_YORK)
    assert len(ny.instants(us("2025-06-01T12:00") // 1_000_000)) == 1
    assert len(ny.instants(us("2025-11-02T01:30") // 1_000_000)) == 2
    assert ny.instants(us("2025-03-09T02:30") // 1_000_000) == []
    assert ny.gap(us("2025-03-09T02:30") // 1_000_000).start_s == us("2025-03-09T07:00") // 1_000_000
    assert ny.gap(us("2025-03-09T03:00") // 1_000_000) is None


def test_leafing_through_centuries_keeps_little_of_them():
    berlin = zone("Europe/Berlin")
    for year in range(-60, 3_000):
        berlin.stretch(year * 365 * DAY_S)
    assert len(berlin._blocks) <= 64


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Olympus",
        "/etc/passwd",
        "../etc/passwd",
        "right/UTC",
        "posixrules",
        "Europe",
        "UTC\0",
        "europe/berlin\n",
    ],
)
def test_a_zone_that_there_is_not_is_refused(name):
    with pytest.raises(Invalid, match="is not an IANA time zone, such as Europe/Berlin") as refused:
        zone(name)
    assert refused.value.code == "timezone.unknown"
