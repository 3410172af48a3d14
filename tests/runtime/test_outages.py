"""An outage has a begin and an end in the log, and a flapping line no more than that in a minute."""

from __future__ import annotations

from cascadenced.events.base import Event
from cascadenced.events.system import BusLost, BusRestored
from cascadenced.runtime.outages import QUIET_S, Outages

SERVER = {"server_id": "S", "server_version": "2.15.1"}


class Line:
    """Outages, and what they had recorded, with the time."""

    def __init__(self) -> None:
        self.outages = Outages()
        self.recorded: list[tuple[float, Event]] = []

    def down(self, at: float, reason: str = "disconnected") -> None:
        self._note(at, self.outages.lost(at, reason))

    def up(self, at: float) -> None:
        self._note(at, self.outages.restored(at, **SERVER))

    def late(self, at: float) -> None:
        self._note(at, self.outages.late(at, **SERVER))

    def _note(self, at: float, event: Event | None) -> None:
        if event is not None:
            self.recorded.append((at, event))


def test_an_outage_is_recorded_when_it_begins_and_when_it_ends() -> None:
    line = Line()
    line.down(10)
    line.up(13.5)
    assert line.recorded == [
        (10, BusLost(reason="disconnected")),
        (13.5, BusRestored(away_s=3.5, n_breaks=1, **SERVER)),
    ]
    assert line.outages.due is None


def test_what_is_told_twice_is_recorded_once() -> None:
    line = Line()
    line.up(1)
    line.down(10, "no_answer")
    line.down(11, "disconnected")
    line.up(12)
    line.up(13)
    assert line.recorded == [(10, BusLost(reason="no_answer")), (12, BusRestored(away_s=2.0, n_breaks=1, **SERVER))]


def test_a_flapping_line_is_summed_up_when_the_minute_is_over() -> None:
    line = Line()
    for second in range(40):
        line.down(second)
        line.up(second + 0.5)
    assert [event for _, event in line.recorded] == [
        BusLost(reason="disconnected"),
        BusRestored(away_s=0.5, n_breaks=1, **SERVER),
    ]
    assert line.outages.due == QUIET_S
    line.late(QUIET_S - 1)
    line.late(QUIET_S)
    assert line.recorded[2:] == [(QUIET_S, BusRestored(away_s=19.5, n_breaks=39, **SERVER))]
    assert line.outages.due is None


def test_a_line_that_is_still_down_when_the_minute_is_over_is_said_to_be() -> None:
    line = Line()
    line.down(0)
    line.up(1)
    line.down(2)
    line.late(QUIET_S)
    line.up(QUIET_S + 10)
    assert line.recorded[2:] == [
        (QUIET_S, BusLost(reason="disconnected")),
        (QUIET_S + 10, BusRestored(away_s=QUIET_S + 8, n_breaks=1, **SERVER)),
    ]


def test_however_it_flaps_there_are_few_events_a_minute_and_every_break_is_counted() -> None:
    line = Line()
    for tenth in range(36_000):
        now = tenth / 10
        if line.outages.due is not None and now >= line.outages.due:
            line.late(now)
        (line.down if tenth % 2 else line.up)(now)
    line.up(3_600)
    line.late(3_700)
    assert len(line.recorded) <= 3 * 61
    counted = sum(event.n_breaks for _, event in line.recorded if isinstance(event, BusRestored))
    assert counted == 18_000
