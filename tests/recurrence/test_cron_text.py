"""What a cron expression may be, and what is said of one that it may not be."""

from __future__ import annotations

import tracemalloc
from heapq import heappush

import pytest
from croniter import croniter
from hypothesis import example, given
from hypothesis import strategies as st

from cascadenced.errors import Invalid
from cascadenced.recurrence.cron import Cron
from cascadenced.recurrence.cron_text import MACROS, MAX_CHARS, parse_cron
from cascadenced.recurrence.due import next_due
from cascadenced.recurrence.zones import zone
from tests.recurrence.expressions import generated


def bits(values: int) -> list[int]:
    return [i for i in range(values.bit_length()) if values >> i & 1]


def refusal(text: object) -> tuple[str, str]:
    with pytest.raises(Invalid) as refused:
        parse_cron(text)
    return refused.value.code, str(refused.value)


def understood(text: str, task: str = "") -> tuple[Cron | None, str]:
    """The expression, or the code it is refused with."""
    try:
        return parse_cron(text, task=task), ""
    except Invalid as refused:
        return None, refused.code


# ── what is understood ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(5))
def test_an_expression_means_the_minutes_hours_and_months_that_croniter_reads_in_it(seed):
    for text in generated(seed, 120):
        fields = parse_cron(text).fields
        theirs, nth = croniter.expand(text)
        for ours, their, full in zip(
            (fields.minutes, fields.hours, fields.months), (theirs[0], theirs[1], theirs[3]), (60, 24, 12), strict=True
        ):
            assert bits(ours) == (list(range(full == 12, full + (full == 12))) if their == ["*"] else their), text
        assert fields.last == ("l" in theirs[2]), text
        assert {day for day in range(7) if fields.nth and fields.nth[day]} == set(nth), text


def test_names_may_be_in_any_case():
    assert parse_cron("0 9 * jan,Feb mon-FRI").fields == parse_cron("0 9 * JAN,FEB 1-5").fields


def test_sunday_is_0_and_7():
    assert bits(parse_cron("0 0 * * 0").fields.weekdays) == bits(parse_cron("0 0 * * 7").fields.weekdays) == [0]
    assert bits(parse_cron("0 0 * * 5-7").fields.weekdays) == [0, 5, 6]
    assert bits(parse_cron("0 0 * * 0-7").fields.weekdays) == list(range(7))


@pytest.mark.parametrize(
    ("weekdays", "meant"), [("FRI-MON", [0, 1, 5, 6]), ("SAT-SUN", [0, 6]), ("5-1", [0, 1, 5, 6]), ("7-2", [0, 1, 2])]
)
def test_a_range_of_weekdays_may_go_past_the_end_of_the_week(weekdays, meant):
    assert bits(parse_cron(f"0 0 * * {weekdays}").fields.weekdays) == meant


def test_a_range_of_hours_or_months_may_go_past_the_end_and_its_steps_go_on():
    assert bits(parse_cron("0 22-2 * * *").fields.hours) == [0, 1, 2, 22, 23]
    assert bits(parse_cron("0 0 1 NOV-FEB *").fields.months) == [1, 2, 11, 12]
    assert bits(parse_cron("0 21-4/2 * * *").fields.hours) == [1, 3, 21, 23]


def test_a_range_of_one_is_one_and_not_everything():
    assert bits(parse_cron("5-5 * * * *").fields.minutes) == [5]


def test_a_start_with_a_step_goes_to_the_end():
    assert bits(parse_cron("50/5 * * * *").fields.minutes) == [50, 55]
    assert bits(parse_cron("59/15 * * * *").fields.minutes) == [59]


def test_a_question_mark_is_a_star_where_days_are_meant():
    assert parse_cron("0 0 ? * ?").fields == parse_cron("0 0 * * *").fields


@pytest.mark.parametrize("macro", MACROS)
def test_a_macro_is_the_expression_it_stands_for_in_any_case(macro):
    assert parse_cron(macro).fields == parse_cron(macro.upper()).fields == parse_cron(MACROS[macro]).fields


def test_blanks_and_tabs_separate_and_are_put_in_order():
    assert parse_cron("  0\t9  * * 1 ").text == "0 9 * * 1"


# ── H ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    ["H * * * *", "H H * * *", "H(10-20) H(0-7) * * *", "H/15 * * * *", "H(30-59)/10 H/6 * H H", "0 0 H(1-28) * *"],
)
@pytest.mark.parametrize("task", ["backup", "mail.send", "ä"])
def test_h_draws_what_croniter_draws_for_that_name(text, task):
    theirs, _ = croniter.expand(text, hash_id=task.encode())
    fields = parse_cron(text, task=task).fields
    ours = (fields.minutes, fields.hours, fields.days, fields.months, fields.weekdays)
    assert [bits(our) for our, their in zip(ours, theirs, strict=True) if their != ["*"]] == [
        their for their in theirs if their != ["*"]
    ]


def test_h_spreads_tasks_over_the_hour():
    assert len({parse_cron("H * * * *", task=f"task-{i}").fields.minutes for i in range(1000)}) == 60


def test_h_as_a_day_of_month_is_a_day_that_every_month_has():
    drawn = {bits(parse_cron("0 0 H * *", task=f"task-{i}").fields.days)[0] for i in range(1000)}
    assert drawn == set(range(1, 29))


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "n"), [("* * * * * *", 6), ("0 0 * *", 4), ("*", 1), ("0 0 0 * * * 2025", 7), ("RANDOM", 1)]
)
def test_another_number_of_fields_is_refused_in_the_old_words(text, n):
    assert refusal(text) == ("expr.fields", f"Wrong number of fields; got {n}, expected 5")


@pytest.mark.parametrize("text", ["", "  ", None, 5, ["0 0 * * *"]])
def test_nothing_is_not_an_expression(text):
    assert refusal(text)[0] == "expr.empty"


@pytest.mark.parametrize(
    "text", ["*/5 * * * *\n", "* * *\n* *", "* * * * *\0", "* * * *\u00a0*", "\u0661 * * * *", "* * * * ＊"]
)
def test_newlines_control_characters_and_lookalikes_are_refused(text):
    assert refusal(text)[0] == "expr.characters"


def test_an_expression_that_is_too_long_is_refused():
    assert refusal("0," * MAX_CHARS + "0 * * * *")[0] == "expr.length"


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        ("60 * * * *", "expr.range", "minute"),
        ("* 24 * * *", "expr.range", "hour"),
        ("* * 0 * *", "expr.range", "day of month"),
        ("* * 32 * *", "expr.range", "day of month"),
        ("* * * 13 *", "expr.range", "month"),
        ("* * * * 8", "expr.range", "day of week"),
        ("99999999999999999999 * * * *", "expr.range", "minute"),
        ("*/0 * * * *", "expr.step", "minute"),
        ("* 1-5/0 * * *", "expr.step", "hour"),
        ("*/99999999999 * * * *", "expr.step", "minute"),
        ("-1 * * * *", "expr.value", "minute"),
        ("1,,2 * * * *", "expr.value", "minute"),
        ("1- * * * *", "expr.value", "minute"),
        ("* * * FOO *", "expr.value", "month"),
        ("* JAN * * *", "expr.value", "hour"),
        ("* * 15W * *", "expr.value", "day of month"),
        ("* * L-3 * *", "expr.value", "day of month"),
        ("L * * * *", "expr.value", "minute"),
        ("* * * * FRI#6", "expr.value", "day of week"),
        ("* * * * FRI#0", "expr.value", "day of week"),
        ("* * * * L9", "expr.range", "day of week"),
        ("? * * * *", "expr.value", "minute"),
        ("H(5-70) * * * *", "expr.range", "minute"),
        ("H(7-5) * * * *", "expr.range", "minute"),
        ("H/0 * * * *", "expr.step", "minute"),
        ("H,5 * * * *", "expr.value", "minute"),
        ("R * * * *", "expr.random", "minute"),
        ("* R(1-5) * * *", "expr.random", "hour"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed_there(text, code, field):
    got, sentence = refusal(text)
    assert got == code
    assert sentence.startswith(f"'expr': the {field} ")
    assert sentence.count(": ") == 2


@pytest.mark.parametrize("text", ["@reboot", "@every 5m", "@"])
def test_a_macro_that_there_is_not_is_refused_with_those_that_there_are(text):
    code, sentence = refusal(text)
    assert code == "expr.macro"
    assert "@daily" in sentence


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 */30 * MON#2", "0 0 31 2 *"])
def test_what_never_comes_is_refused(text):
    assert refusal(text)[0] == "expr.never"


@pytest.mark.parametrize("text", ["0 0 29 2 *", "0 0 * 2 MON#5", "0 0 31 2 MON", "0 0 L 2 *", "0 0 */28 2 MON#5"])
def test_what_comes_rarely_is_not_refused(text):
    assert parse_cron(text).at_or_after(0) is not None


def test_a_refusal_repeats_nothing_that_could_name_somebody():
    assert "mustermann" not in refusal("* * * * mustermann")[1].lower()


@given(st.text(max_size=300) | st.text(alphabet="0123456789*/,-#LHRSUNMOJ?W@() \t\n", max_size=300))
@example("H H H H H")
@example("*/1-5 * * * *")
def test_any_text_is_either_understood_or_invalid(text):
    read, code = understood(text)
    assert read is not None or code.startswith("expr.")
    assert read is None or read.at_or_after(0) is not None


_ITEMS = st.sampled_from(
    [
        *("*", "?", "0", "1", "5", "7", "12", "31", "59", "5,6", "1-3,9"),
        *("*/2", "*/13", "3/4", "2-9/3", "1-5", "22-23"),
        *("JAN", "SUN", "sat", "MON-FRI", "feb-apr", "L", "L5", "FRI#2", "1#5", "H", "H/7", "H(1-3)"),
    ]
)


@given(st.tuples(_ITEMS, _ITEMS, _ITEMS, _ITEMS, _ITEMS).map(" ".join))
def test_what_we_understand_croniter_understands_too_and_the_other_way_round(text):
    read, code = understood(text, task="demo")
    ours = read is not None or code == "expr.never"
    assert ours == croniter.is_valid(text, hash_id=b"demo")


def test_a_hundred_thousand_hourly_tasks_with_their_places_in_a_heap_fit_into_60_mib():
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    heap: list[tuple[int, int, Cron]] = []
    for i in range(5_000):
        read = parse_cron("H * * * *", task=f"task-{i}")
        due = next_due(read, zone("UTC"), after_us=1_750_000_000_000_000 + i)
        assert due is not None
        heappush(heap, (due.at_us, i, read))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / len(heap) < 60 * 2**20 / 100_000
