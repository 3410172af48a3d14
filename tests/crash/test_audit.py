"""An audit that never fails is worth nothing: each rule passes a healthy log and finds the defect it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from tests.crash.attempts import Attempt, Attempts
from tests.crash.audit import RULES, Effect, Evidence, Row, audit

KEYS = {"a": "r1", "b": "r2", "c": "r3"}
"""Three runs: `a` is hit by a crash in its plan, `b` fails and is followed up, `c` is refused."""


def acknowledged(attempt: Attempt, run_id: str | None = None) -> None:
    attempt.n_acknowledged += 1
    attempt.run_ids |= {run_id} if run_id else set()


def refused(attempt: Attempt, run_id: str | None = None) -> None:
    attempt.n_refused += 1
    attempt.run_ids |= {run_id} if run_id else set()


def healthy() -> Evidence:
    attempts = Attempts()
    for key in ("a", "b"):
        acknowledged(attempts.uttered(key, "run"), KEYS[key])
    attempts.by_key["a"].results.append({"n": "a"})
    refused(attempts.uttered("c", "run"), KEYS["c"])
    attempts.uttered("unanswered", "run")
    acknowledged(attempts.uttered("p", "pointer"))
    rows = list(numbered(story()))
    effects = [Effect("r1", "plan"), Effect("r1", "plan"), Effect("r1", "run"), Effect("r2", "run")]
    return Evidence(attempts, rows, effects, ids(rows))


def ids(rows: Sequence[Row]) -> frozenset[str]:
    return frozenset(row.id for row in rows)


def story() -> Iterator[tuple[int, str, str, dict[str, Any]]]:
    """(epoch, stream, type, data)."""
    yield 1, "run-r1", "run.requested", {"via": "bus", "args": {"n": "a"}}
    yield 1, "run-r1", "run.started", {"stages": ["plan", "run"]}
    yield 1, "run-r1", "stage.started", {"stage": "plan", "attempt": 1}
    yield 1, "run-r2", "run.requested", {"via": "cli", "args": {"n": "b"}}
    yield 1, "run-r2", "run.started", {"stages": ["run"]}
    yield 1, "pointer-marks", "pointer.added", {"run_id": "p"}
    yield 2, "run-r1", "stage.started", {"stage": "plan", "attempt": 2}
    yield 2, "run-r1", "stage.finished", {"stage": "plan", "attempt": 2}
    yield 2, "run-r1", "stage.started", {"stage": "run", "attempt": 1}
    yield 2, "run-r1", "stage.finished", {"stage": "run", "attempt": 1}
    yield 2, "run-r1", "run.finished", {}
    yield 2, "run-r2", "stage.started", {"stage": "run", "attempt": 1}
    yield 2, "run-r2", "stage.failed", {"stage": "run", "attempt": 1}
    yield 2, "run-r2", "run.failed", {"error_type": "ValueError"}
    yield 2, "run-r2", "followup.requested", {"failed_run_id": "r2", "followup_run_id": "f"}
    yield 2, "run-f", "run.requested", {"via": "followup", "args": {}}
    yield 2, "run-f", "run.started", {"stages": ["run"]}
    yield 2, "run-f", "stage.started", {"stage": "run", "attempt": 1}
    yield 2, "run-f", "stage.finished", {"stage": "run", "attempt": 1}
    yield 2, "run-f", "run.finished", {}
    yield 2, "run-r3", "run.requested", {"via": "cli", "args": {"n": "c"}}
    yield 2, "run-r3", "run.refused", {"code": "disabled"}


def numbered(told: Any) -> Iterator[Row]:
    heads: dict[str, int] = {}
    for position, (epoch, stream, type_, data) in enumerate(told, start=1):
        heads[stream] = heads.get(stream, 0) + 1
        run_id = stream.removeprefix("run-") if stream.startswith("run-") else None
        source = f"source of {stream}" if heads[stream] == 1 else None
        yield Row(
            position=position, id=f"e{position}", stream=stream, version=heads[stream], type=type_, epoch=epoch,
            source=source, run_id=run_id, data=data,
        )  # fmt: skip


def rules_broken(evidence: Evidence) -> set[str]:
    return {fault.partition(":")[0] for fault in audit(evidence)}


def test_a_healthy_log_breaks_no_rule() -> None:
    assert audit(healthy()) == []


# ── doctored logs ────────────────────────────────────────────────────────────────────────────────────────────────


def retold(evidence: Evidence, change: Callable[[list[tuple[int, str, str, dict[str, Any]]]], object]) -> Evidence:
    """The same evidence with another story; positions, versions and ids are right again."""
    told = list(story())
    change(told)
    rows = list(numbered(told))
    return replace(evidence, rows=rows, published=ids(rows))


def without(type_: str, stream: str) -> Callable[[Evidence], Evidence]:
    return lambda evidence: retold(
        evidence, lambda told: told.remove(next(t for t in told if (t[2], t[1]) == (type_, stream)))
    )


def again(n: int, **data: Any) -> Callable[[Evidence], Evidence]:
    """The n-th event of the story happens twice, the second time with other data."""
    return lambda evidence: retold(evidence, lambda told: told.insert(n, (*told[n - 1][:3], told[n - 1][3] | data)))


def row_changed(n: int, **fields: Any) -> Callable[[Evidence], Evidence]:
    def change(evidence: Evidence) -> Evidence:
        rows = list(evidence.rows)
        rows[n - 1] = replace(rows[n - 1], **fields)
        return replace(evidence, rows=rows)

    return change


def later(stream: str, type_: str, **data: Any) -> Callable[[Evidence], Evidence]:
    """One more event at the end."""
    return lambda evidence: retold(evidence, lambda told: told.append((2, stream, type_, data)))


def attempted(key: str, kind: Any, run_id: str | None = None) -> Callable[[Evidence], Evidence]:
    """One more wish was acknowledged."""

    def change(evidence: Evidence) -> Evidence:
        acknowledged(evidence.attempts.uttered(key, kind), run_id)
        return evidence

    return change


def told_result(key: str, result: object) -> Callable[[Evidence], Evidence]:
    def change(evidence: Evidence) -> Evidence:
        evidence.attempts.by_key[key].results.append(result)
        return evidence

    return change


def never_asked(key: str) -> Callable[[Evidence], Evidence]:
    def change(evidence: Evidence) -> Evidence:
        del evidence.attempts.by_key[key]
        return evidence

    return change


def taken_back(key: str) -> Callable[[Evidence], Evidence]:
    """All that was ever answered was no."""

    def change(evidence: Evidence) -> Evidence:
        attempt = evidence.attempts.by_key[key]
        attempt.n_acknowledged, attempt.n_refused = 0, attempt.n_uttered
        return evidence

    return change


def effects(change: Callable[[list[Effect]], object]) -> Callable[[Evidence], Evidence]:
    def doctor(evidence: Evidence) -> Evidence:
        happened = list(evidence.effects)
        change(happened)
        return replace(evidence, effects=happened)

    return doctor


DEFECTS: list[tuple[str, str, Callable[[Evidence], Evidence]]] = [
    ("a run that was acknowledged is gone", "nothing_acknowledged_is_lost", attempted("z", "run")),
    ("a pointer that was acknowledged is gone", "nothing_acknowledged_is_lost", attempted("q", "pointer")),
    ("a run that nobody asked for", "nothing_is_there_that_nobody_asked_for", never_asked("a")),
    ("a pointer that nobody set", "nothing_is_there_that_nobody_asked_for", never_asked("p")),
    ("a follow-up of nothing", "nothing_is_there_that_nobody_asked_for", without("followup.requested", "run-r2")),
    ("a refused run that ran", "nothing_refused_is_done", taken_back("a")),
    ("a refused pointer that was set", "nothing_refused_is_done", taken_back("p")),
    ("a source twice", "nothing_is_there_twice", row_changed(4, source="source of run-r1")),
    ("an event id twice", "nothing_is_there_twice", row_changed(2, id="e1")),
    ("two runs of one key", "nothing_is_there_twice", later("run-r9", "run.requested", via="bus", args={"n": "a"})),
    ("a pointer twice", "nothing_is_there_twice", again(6)),
    ("an answer that names another run", "answers_agree_with_the_log", attempted("a", "run", "r7")),
    ("the result of another run", "answers_agree_with_the_log", told_result("a", {"n": "b"})),
    ("a gap in the positions", "positions_and_versions_have_no_gaps", row_changed(22, position=23)),
    ("a gap in a stream", "positions_and_versions_have_no_gaps", row_changed(22, version=3)),
    ("an epoch that falls", "epochs_only_rise", row_changed(22, epoch=1)),
    ("a stage before its turn", "runs_go_the_lawful_way", row_changed(9, data={"stage": "plan", "attempt": 1})),
    ("a stage left out", "runs_go_the_lawful_way", row_changed(2, data={"stages": ["plan", "run", "verify"]})),
    ("an attempt that is not counted", "runs_go_the_lawful_way", row_changed(7, data={"stage": "plan", "attempt": 1})),
    ("an end of a stage that was not started", "runs_go_the_lawful_way", without("stage.started", "run-r2")),
    ("a stage that ends twice", "runs_go_the_lawful_way", again(8)),
    (
        "a run that goes on after its end",
        "runs_go_the_lawful_way",
        later("run-r1", "stage.started", stage="run", attempt=2),
    ),
    (
        "a run that starts though it is refused",
        "runs_go_the_lawful_way",
        later("run-r3", "run.started", stages=["run"]),
    ),
    (
        "a crash loop after two crashes",
        "runs_go_the_lawful_way",
        row_changed(8, type="run.failed", data={"error_type": "crash_loop"}),
    ),
    (
        "a follow-up of a run that ended well",
        "runs_go_the_lawful_way",
        later("run-r1", "followup.skipped", failed_run_id="r1"),
    ),
    ("a run without an end", "every_run_ends", without("run.finished", "run-r1")),
    ("a run with two ends", "every_run_ends", again(11)),
    ("a stage that starts twice in one life", "only_the_stage_under_way_is_repeated", row_changed(3, epoch=2)),
    ("an effect too many", "only_the_stage_under_way_is_repeated", effects(lambda e: e.append(Effect("r1", "run")))),
    (
        "an effect that was not started",
        "only_the_stage_under_way_is_repeated",
        effects(lambda e: e.append(Effect("r1", "verify"))),
    ),
    (
        "a stage that ended without an effect",
        "only_the_stage_under_way_is_repeated",
        effects(lambda e: e.remove(Effect("r1", "run"))),
    ),
    ("a failure that nobody answered", "every_failure_is_answered_once", without("followup.requested", "run-r2")),
    ("a failure that was answered twice", "every_failure_is_answered_once", again(15)),
    (
        "an end that was not published",
        "every_end_is_published",
        lambda evidence: replace(evidence, published=frozenset()),
    ),
]


@pytest.mark.parametrize(("rule", "doctor"), [d[1:] for d in DEFECTS], ids=[d[0] for d in DEFECTS])
def test_a_doctored_log_is_found_out_by_the_rule_for_it(rule: str, doctor: Callable[[Evidence], Evidence]) -> None:
    assert rule in rules_broken(doctor(healthy()))


def test_every_rule_has_a_defect_that_it_alone_finds() -> None:
    alone = {next(iter(broken)) for _, _, doctor in DEFECTS if len(broken := rules_broken(doctor(healthy()))) == 1}
    assert alone == {rule.__name__ for rule in RULES}


def test_what_was_asked_without_an_answer_may_be_there_or_not() -> None:
    evidence = healthy()
    evidence.attempts.by_key["a"].n_acknowledged = 0
    assert audit(evidence) == []


def test_a_wish_is_refused_only_if_every_utterance_was() -> None:
    attempt = Attempts().uttered("a", "run")
    assert attempt.outcome == "unknown"
    attempt.n_refused = 1
    assert attempt.outcome == "refused"
    attempt.n_uttered = 2
    assert attempt.outcome == "unknown"
    attempt.n_acknowledged = 1
    assert attempt.outcome == "acknowledged"


def test_a_run_may_be_given_up_after_five_crashes_in_a_row() -> None:
    told: list[tuple[int, str, str, dict[str, Any]]] = [
        (1, "run-r1", "run.requested", {"via": "bus", "args": {"n": "a"}}),
        (1, "run-r1", "run.started", {"stages": ["run"]}),
        *((n, "run-r1", "stage.started", {"stage": "run", "attempt": n}) for n in range(1, 6)),
        (6, "run-r1", "run.failed", {"error_type": "crash_loop"}),
        (6, "run-r1", "followup.skipped", {"failed_run_id": "r1"}),
    ]
    attempts = Attempts()
    attempts.uttered("a", "run")
    rows = list(numbered(told))
    assert audit(Evidence(attempts, rows, [], ids(rows))) == []
