"""A timetable remembers its last answer, and nobody can tell."""

from __future__ import annotations

from cascadenced.events.schedule import ScheduleSet
from cascadenced.schedules.timetable import timetable

MINUTE = 60_000_000
HOUR = 60 * MINUTE


def due(after_us: int, until_us: int, at_most: int = 10) -> list[int]:
    found = timetable(ScheduleSet(task="report", expr="*/20 * * * *"))
    assert found is not None
    return [each.at_us // MINUTE for each in found.due(after_us, until_us, at_most)]


def test_the_same_question_has_the_same_answer() -> None:
    assert due(0, 20 * MINUTE) == due(0, 20 * MINUTE) == [20]
    assert due(0, 39 * MINUTE) == [20]


def test_a_question_about_another_time_is_answered_afresh() -> None:
    assert due(0, 20 * MINUTE) == [20]
    assert due(0, 19 * MINUTE) == []
    assert due(0, 40 * MINUTE) == [20, 40]
    assert due(20 * MINUTE, 40 * MINUTE) == [40]
    assert due(1, 20 * MINUTE) == [20]


def test_an_answer_that_was_cut_short_is_not_remembered_as_a_whole() -> None:
    assert due(0, HOUR, at_most=1) == [20]
    assert due(0, HOUR) == [20, 40, 60]


def test_what_comes_next_is_known_with_it() -> None:
    found = timetable(ScheduleSet(task="report", expr="*/20 * * * *"))
    assert found is not None
    found.due(0, 20 * MINUTE, 10)
    assert [(found.next_us(at) or 0) // MINUTE for at in (0, 20 * MINUTE, 40 * MINUTE)] == [20, 40, 60]
