"""What a crash may never do: rules over (what was attempted, the log's rows, the effects that happened).

Each rule is pure and yields what it finds wrong as sentences. None of them uses the product's own rules: the pipeline
and what may follow what are spelled out here once more, on purpose.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from tests.crash.attempts import Attempts

PIPELINE = ("intake", "research", "plan", "precheck", "run", "verify")
DOORS = ("bus", "cli")
"""`via` of the runs that clients ask for; others follow from these."""
ENDS = ("run.finished", "run.failed", "run.refused", "run.cancelled")
LEADING_BACK = ("stage.failed", "run.resolved", "run.resumed", "run.released")
"""What may start the stage under way once more without a restart."""
CRASH_LOOP = 5
"""Starts in a row without an outcome after which a run may be given up."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it lies in the table. data: its JSON, read."""

    position: int
    id: str
    stream: str
    version: int
    type: str
    at_us: int = 0
    epoch: int = 1
    source: str | None = None
    run_id: str | None = None
    data: dict[str, Any] = {}


class Effect(msgspec.Struct, frozen=True):
    """The code of a stage has run."""

    run_id: str
    stage: str


class Evidence(msgspec.Struct, frozen=True):
    """attempts: what clients know.  rows: the log, in order.  effects: in order; none if they are looked at elsewhere.
    published: ids of the events of which the bus has a message."""

    attempts: Attempts
    rows: Sequence[Row]
    effects: Sequence[Effect] = ()
    published: frozenset[str] = frozenset()


Rule = Callable[[Evidence], Iterator[str]]


def read_rows(path: Path) -> list[Row]:
    """All events of the log at `path`."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT position, id, stream, version, type, at_us, epoch, source, run_id, data "
            "FROM events ORDER BY position"
        )
        return [
            Row(
                position=position, id=id_, stream=stream, version=version, type=type_, at_us=at_us, epoch=epoch,
                source=source, run_id=run_id, data=json.loads(data),
            )
            for position, id_, stream, version, type_, at_us, epoch, source, run_id, data in found
        ]  # fmt: skip


# ── wishes and the log ───────────────────────────────────────────────────────────────────────────────────────────


def nothing_acknowledged_is_lost(evidence: Evidence) -> Iterator[str]:
    there = {("run", key) for key in _requests(evidence)} | {("pointer", key) for key in _pointers(evidence)}
    for attempt in evidence.attempts.with_outcome("acknowledged"):
        if (attempt.kind, attempt.key) not in there:
            yield f"the {attempt.kind} {attempt.key} was acknowledged and is not in the log"


def nothing_is_there_that_nobody_asked_for(evidence: Evidence) -> Iterator[str]:
    asked = {(attempt.kind, attempt.key) for attempt in evidence.attempts.by_key.values()}
    asked_for_by_us = {row.data["followup_run_id"] for row in evidence.rows if row.type == "followup.requested"}
    asked_for_by_us |= {row.data["child_run_id"] for row in evidence.rows if row.type == "child.requested"}
    for key, rows in _requests(evidence).items():
        if ("run", key) not in asked:
            yield f"the run {rows[0].run_id} was asked for by nobody (key {key})"
    for key in _pointers(evidence):
        if ("pointer", key) not in asked:
            yield f"the pointer {key} was set by nobody"
    for row in evidence.rows:
        if row.type == "run.requested" and row.data["via"] not in DOORS and row.run_id not in asked_for_by_us:
            yield f"the run {row.run_id} via {row.data['via']} follows from nothing"


def nothing_refused_is_done(evidence: Evidence) -> Iterator[str]:
    requests, pointers, refused = _requests(evidence), _pointers(evidence), _ids(evidence, "run.refused")
    for attempt in evidence.attempts.with_outcome("refused"):
        if attempt.key in pointers or any(row.run_id not in refused for row in requests.get(attempt.key, ())):
            yield f"the {attempt.kind} {attempt.key} was refused and happened nevertheless"


def nothing_is_there_twice(evidence: Evidence) -> Iterator[str]:
    for what, values in (
        ("source", (row.source for row in evidence.rows if row.source is not None)),
        ("event id", (row.id for row in evidence.rows)),
        ("run of the key", (key for key, rows in _requests(evidence).items() for _ in rows)),
        ("pointer", (key for key, rows in _pointers(evidence).items() for _ in rows)),
    ):
        for value, n in Counter(values).items():
            if n > 1:
                yield f"the {what} {value} is there {n} times"


def answers_agree_with_the_log(evidence: Evidence) -> Iterator[str]:
    requests = _requests(evidence)
    for attempt in evidence.attempts.by_key.values():
        there = {row.run_id for row in requests.get(attempt.key, ())}
        if attempt.run_ids - there:
            yield f"{attempt.key} was answered with the run {attempt.run_ids - there}, the log has {there}"
        for result in attempt.results:
            if not isinstance(result, dict) or result.get("n") != attempt.key:
                yield f"{attempt.key} was answered with the result of another run: {result!r}"


def positions_and_versions_have_no_gaps(evidence: Evidence) -> Iterator[str]:
    heads: Counter[str] = Counter()
    for n, row in enumerate(evidence.rows, start=1):
        heads[row.stream] += 1
        if row.position != n:
            yield f"position {row.position} stands where {n} should"
            return
        if row.version != heads[row.stream]:
            yield f"{row.stream} has version {row.version} where {heads[row.stream]} should be"


def epochs_only_rise(evidence: Evidence) -> Iterator[str]:
    for before, after in pairwise(evidence.rows):
        if after.epoch < before.epoch:
            yield f"position {after.position} was recorded in epoch {after.epoch}, after epoch {before.epoch}"


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def runs_go_the_lawful_way(evidence: Evidence) -> Iterator[str]:
    for run_id, rows in _runs(evidence).items():
        fault = _walk(rows)
        if fault is not None:
            yield f"the run {run_id}: {fault}"


def every_run_ends(evidence: Evidence) -> Iterator[str]:
    for run_id, rows in _runs(evidence).items():
        n_ends = sum(row.type in ENDS for row in rows)
        if n_ends != 1:
            yield f"the run {run_id} has {n_ends} ends"


def only_the_stage_under_way_is_repeated(evidence: Evidence) -> Iterator[str]:
    """A stage starts again only in a later life of the daemon, or after something that leads to it; its code runs at
    most once for each start of it and each of its waits.

    Only the tasks that clients ask for leave effects to count.
    """
    effects = Counter((effect.run_id, effect.stage) for effect in evidence.effects)
    for run_id, rows in _runs(evidence).items():
        starts: dict[str, list[int]] = defaultdict(list)
        finished, is_led_to, stage = set(), False, ""
        for row in rows:
            if row.type == "stage.started":
                stage = row.data["stage"]
                before = starts[stage]
                if before and before[-1] >= row.epoch and not is_led_to:
                    yield f"the run {run_id} started {stage} twice in one life of the daemon (epoch {row.epoch})"
                before.append(row.epoch)
                is_led_to = False
            is_led_to = is_led_to or row.type in LEADING_BACK
            if row.type == "wait.ended":
                starts[stage].append(row.epoch)
            if row.type == "stage.finished":
                finished.add(row.data["stage"])
        for stage, epochs in starts.items():
            if effects[run_id, stage] > len(epochs):
                yield f"the run {run_id} did {stage} {effects[run_id, stage]} times for {len(epochs)} starts"
        asked_by_client = rows[0].type == "run.requested" and rows[0].data["via"] in DOORS
        for stage in finished if asked_by_client and evidence.effects else ():
            if not effects[run_id, stage]:
                yield f"the run {run_id} finished {stage}, whose code never ran"
        for (of, stage), n in effects.items():
            if of == run_id and stage not in starts:
                yield f"the run {run_id} did {stage} {n} times and never started it"


def every_failure_is_answered_once(evidence: Evidence) -> Iterator[str]:
    answers = Counter(
        row.data["failed_run_id"] for row in evidence.rows if row.type in ("followup.requested", "followup.skipped")
    )
    for row in evidence.rows:
        if row.type != "run.failed":
            continue
        run_id = row.run_id
        if answers[run_id] != (row.data.get("via") != "plan"):  # a child's failure is its parent's
            yield f"the failed run {run_id} has {answers[run_id]} follow-ups or reasons why not"


def every_end_is_published(evidence: Evidence) -> Iterator[str]:
    for row in evidence.rows:
        if row.type in ("run.finished", "run.failed") and row.id not in evidence.published:
            yield f"the end of the run {row.run_id} (event {row.id}) is not on the bus"


RULES: tuple[Rule, ...] = (
    nothing_acknowledged_is_lost,
    nothing_is_there_that_nobody_asked_for,
    nothing_refused_is_done,
    nothing_is_there_twice,
    answers_agree_with_the_log,
    positions_and_versions_have_no_gaps,
    epochs_only_rise,
    runs_go_the_lawful_way,
    every_run_ends,
    only_the_stage_under_way_is_repeated,
    every_failure_is_answered_once,
    every_end_is_published,
)


def audit(evidence: Evidence, rules: Iterable[Rule] = RULES) -> list[str]:
    """What is wrong, each with the rule that says so; nothing if nothing is."""
    return [f"{rule.__name__}: {fault}" for rule in rules for fault in rule(evidence)]


# ── the way of a run ─────────────────────────────────────────────────────────────────────────────────────────────


def _walk(rows: Sequence[Row]) -> str | None:
    """The first step of a run's stream that may not follow the ones before it."""
    way = _Way()
    for row in rows:
        if not way.goes(row):
            named = f" of {row.data['stage']}, attempt {row.data['attempt']}," if "attempt" in row.data else ""
            return f"{row.type}{named} at version {row.version} after {way}"
    return None


class _Way:
    """How far a run has come.

    state: new, asked, between (stages), under way, interrupted, waiting, failing (to be tried again), in doubt,
    settled, fallen, failed, finished, refused, cancelled.
    """

    def __init__(self) -> None:
        self.state = "new"
        self.paused = False
        self.stages: list[str] = []
        self.rest: list[str] = []
        self.stage, self.attempt, self.open_starts = "", 0, 0
        self.wait: tuple[str, str] | None = None
        self.marks: set[str] = set()
        self.open_steps: set[str] = set()
        self.doubted, self.crashes = "", 0
        self.verdict = ""

    def __str__(self) -> str:
        return f"{self.state} {self.stage}".rstrip() + (", paused" if self.paused else "")

    def goes(self, row: Row) -> bool:
        """Whether this may come now."""
        if row.type in ("stage.late", "context.attached", "context.consumed"):
            return self.state != "new"
        if row.type in ("followup.requested", "followup.skipped"):
            return self.state == "failed"
        if self.state in ("failed", "finished", "refused", "cancelled"):
            return False
        step = getattr(self, "_" + row.type.replace(".", "_"), None)
        return step is not None and bool(step(row.data))

    def _moved(self, allowed: bool, state: str) -> bool:
        self.state = state if allowed else self.state
        return allowed

    def _run_requested(self, _: Any) -> bool:
        return self._moved(self.state == "new", "asked")

    def _run_refused(self, _: Any) -> bool:
        return self._moved(self.state == "asked", "refused")

    def _run_started(self, data: Any) -> bool:
        self.stages = [name for name in PIPELINE if name in data["stages"]]
        self.rest = list(self.stages)
        return self._moved(self.state == "asked" and not self.paused, "between")

    def _run_held(self, _: Any) -> bool:
        return self.state not in ("new", "fallen")

    def _run_released(self, _: Any) -> bool:
        return self.state != "new"

    def _run_paused(self, _: Any) -> bool:
        allowed, self.paused = self.state != "new" and not self.paused, True
        return allowed

    def _run_resumed(self, _: Any) -> bool:
        allowed, self.paused = self.paused, False
        return allowed

    def _run_cancelled(self, _: Any) -> bool:
        return self._moved(self.state not in ("new", "fallen"), "cancelled")

    def _run_finished(self, _: Any) -> bool:
        return self._moved(self.state == "between" and not self.rest and bool(self.stages), "finished")

    def _run_failed(self, data: Any) -> bool:
        crash_loop = data["error_type"] == "crash_loop" and self.state == "under way" and self.open_starts >= CRASH_LOOP
        in_doubt = data["error_type"] == "in_doubt" and (self.state, self.verdict) == ("settled", "fail")
        return self._moved(self.state == "fallen" or crash_loop or in_doubt, "failed")

    def _run_in_doubt(self, data: Any) -> bool:
        self.doubted, self.crashes = data.get("place", ""), data.get("crashes", 0)
        known = self.doubted in self.open_steps if self.open_steps else not self.doubted
        next_one = self.state == "settled" and self.verdict != "fail" and bool(self.open_steps)
        allowed = next_one or self.state in ("under way", "interrupted", "failing")
        counted = self.crashes in (0, self.open_starts) or next_one
        return self._moved(known and allowed and counted and self._is_of_this_attempt(data), "in doubt")

    def _run_resolved(self, data: Any) -> bool:
        self.verdict = data["verdict"]
        self.open_starts = self.crashes
        self.open_steps.discard(self.doubted)
        return self._moved(self.state == "in doubt", "settled")

    def _stage_started(self, data: Any) -> bool:
        first = self.state == "between" and bool(self.rest) and (data["stage"], data["attempt"]) == (self.rest[0], 1)
        again = (data["stage"], data["attempt"]) == (self.stage, self.attempt + 1) and (
            self.state in ("under way", "interrupted", "failing")
            or (self.state == "settled" and self.verdict != "fail")
        )
        if first:
            self.marks, self.open_steps, self.open_starts = set(), set(), 0
        self.stage, self.attempt = data["stage"], data["attempt"]
        self.open_starts += 1
        return self._moved((first or again) and not self.paused, "under way")

    def _stage_interrupted(self, data: Any) -> bool:
        self.open_starts = 0
        return self._moved(self.state == "under way" and self._is_of_this_attempt(data), "interrupted")

    def _stage_finished(self, data: Any) -> bool:
        done = self.state == "settled" and self.verdict == "done"
        allowed = (self.state == "under way" or done) and not self.open_steps and self._is_of_this_attempt(data)
        self.rest = self.rest[1:]
        if data.get("children") is not None and "run" not in self.rest:
            self.rest = sorted([*self.rest, "run"], key=PIPELINE.index)
        return self._moved(allowed, "between")

    def _stage_failed(self, data: Any) -> bool:
        allowed = self.state == "under way" and self._is_of_this_attempt(data)
        self.open_starts = 0
        if data.get("retry_at_us") is not None:
            return self._moved(allowed, "failing")
        self.rest = self.rest[1:]
        return self._moved(allowed, "fallen" if data.get("fatal", True) else "between")

    def _step_started(self, data: Any) -> bool:
        allowed = self._is_here(data) and data["place"] not in self.marks | self.open_steps
        self.open_steps.add(data["place"])
        return allowed

    def _step_finished(self, data: Any) -> bool:
        settled = self.state == "settled" and self.verdict == "done" and data["stage"] == self.stage
        allowed = (self._is_here(data) or settled) and data["place"] not in self.marks
        self.marks.add(data["place"])
        self.open_steps.discard(data["place"])
        self.open_starts = 0 if settled else 1
        return allowed

    def _step_failed(self, data: Any) -> bool:
        allowed = self._is_here(data) and data["place"] not in self.marks
        self.open_steps.discard(data["place"])
        return allowed

    def _wait_started(self, data: Any) -> bool:
        allowed = self._is_here(data) and not self.open_steps and data["place"] not in self.marks
        self.wait, self.open_starts = (data["kind"], data["place"]), 0
        return self._moved(allowed, "waiting")

    def _wait_ended(self, data: Any) -> bool:
        allowed = self.state == "waiting" and not self.paused and self.wait == (data["kind"], data["place"])
        if data["kind"] != "children":
            self.marks.add(data["place"])
        self.open_starts = 1
        return self._moved(allowed, "under way")

    def _child_requested(self, _: Any) -> bool:
        children = self.state == "waiting" and self.wait == ("children", "")
        return (children or (self.state == "under way" and self.stage == "run")) and not self.paused

    def _child_ended(self, _: Any) -> bool:
        return self.state == "waiting" and self.wait == ("children", "") and not self.paused

    def _is_here(self, data: Any) -> bool:
        return self.state == "under way" and bool(data["stage"] == self.stage)

    def _is_of_this_attempt(self, data: Any) -> bool:
        return (data["stage"], data["attempt"]) == (self.stage, self.attempt)


# ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _runs(evidence: Evidence) -> dict[str, list[Row]]:
    """Run id → the rows of its stream."""
    runs: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.rows:
        if row.stream.startswith("run-"):
            runs[row.stream.removeprefix("run-")].append(row)
    return runs


def _requests(evidence: Evidence) -> dict[str, list[Row]]:
    """Key → the runs that clients asked for under it."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.rows:
        if row.type == "run.requested" and row.data["via"] in DOORS:
            found[str(row.data.get("args", {}).get("n"))].append(row)
    return found


def _pointers(evidence: Evidence) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.rows:
        if row.type == "pointer.added":
            found[row.data["run_id"]].append(row)
    return found


def _ids(evidence: Evidence, type_: str) -> set[str | None]:
    return {row.run_id for row in evidence.rows if row.type == type_}
