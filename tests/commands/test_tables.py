"""Tables on terminals of all widths."""

from __future__ import annotations

from cascadenced.commands.tables import fitted

HEADERS = ("RUN", "TASK", "STATUS", "WAITS FOR", "STAGE")
ROWS = [
    ["01a21aa7592b444a95e2813dc4f90606", "report", "success", "-", "run"],
    ["01a21a9fca7f68ae8e4568ae74563712", "load", "error", "-", "plan"],
]
SPARE = ("STAGE", "WAITS FOR")


def shown(width: int) -> list[str]:
    headers, rows = fitted(HEADERS, ROWS, width, SPARE)
    return [" ".join(headers), *(" ".join(row) for row in rows)]


def test_what_fits_is_left_as_it_is():
    assert shown(67) == [" ".join(HEADERS), *(" ".join(row) for row in ROWS)]


def test_ids_are_shortened_before_anything_is_left_out():
    assert shown(66)[:2] == ["RUN TASK STATUS WAITS FOR STAGE", "01a21aa7592b444a report success - run"]
    assert shown(51) == shown(66)


def test_a_column_that_says_nothing_goes_first_and_then_in_the_order_given():
    assert shown(50)[0] == "RUN TASK STATUS STAGE"
    assert shown(40)[0] == "RUN TASK STATUS STAGE"
    assert shown(39)[0] == "RUN TASK STATUS"


def test_what_nobody_can_do_without_stays_however_narrow_it_is():
    assert shown(5)[1:] == ["01a21aa7592b444a report success", "01a21a9fca7f68ae load error"]
