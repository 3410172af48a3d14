"""Lives of a run as they may happen, by the rules alone, a thousand of them: crashes, stops, pauses, holds, answers.

Whatever happens, what is listed of the run is what its events say, somebody is asked about exactly the effects that
may have happened, and the run ends.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cascadenced.eventlog.base import Change
from cascadenced.eventlog.memory import MemoryEventLog, MemoryFile
from cascadenced.events.base import Context, Event
from cascadenced.events.run import (
    RunDoubted,
    RunHeld,
    RunRequested,
    RunResolved,
    RunStarted,
)
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.ids import SeededIds
from cascadenced.pipeline import control
from cascadenced.pipeline.decide import go_on
from cascadenced.pipeline.doubts import question
from cascadenced.pipeline.explain import Around, explain
from cascadenced.pipeline.model import ENDED, Run, evolve
from cascadenced.pipeline.passes import passes
from cascadenced.pipeline.policy import Policy, Retry
from cascadenced.pipeline.resume import CRASHES_TO_GIVE_UP, code_changed, resume
from cascadenced.projections import all_projections
from cascadenced.projections.run_view import run_view
from cascadenced.projections.runs import list_runs
from cascadenced.runtime.record import outcome_of
from tests.doubles import FakeClock
from tests.examples import AT_US, recorded

N_LIVES = 1_500
N_LISTED = 60
STAGES = ("intake", "run")
STREAM = "run-" + "ab" * 16


class Life:
    """Of one run of a task that works at most once, as `chance` has it.

    events: what is recorded.  is_live: whether code of it is under way.  open: places of effects that have begun and
    have no end, "" for the stage's own.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.on_doubt = self.chance.choice(["ask", "ask", "retry", "fail"])
        retries = {"run": Retry(max_attempts=50)} if self.chance.random() < 0.6 else {}
        self.policy = Policy(delivery="at_most_once", on_doubt=self.on_doubt, on_code_change="stop", retries=retries)
        self.events: list[Event] = []
        self.run, self.is_live, self.now_us = Run(), False, AT_US
        self.open: set[str] = set()
        self.in_steps, self.n_starts, self._doubted, self._n_places = False, 0, "", 0
        requested = RunRequested(task="t", via="http", requires=("cd" * 16,) if seed % 4 == 0 else ())
        self.record([requested, RunStarted(task="t", stages=STAGES, code="c", on_doubt=self.on_doubt)])
        self.record(go_on(self.run, elapsed_s=0))
        self.is_live = True

    def record(self, events: Sequence[Event]) -> None:
        for event in events:
            self.events.append(event)
            self.run = evolve(self.run, event)
            self._follow(event)

    def _follow(self, event: Event) -> None:
        match event:
            case StageStarted() | WaitEnded():
                assert not self.open, "it goes on, and what may have happened was not settled"
                self.open |= set() if self.in_steps else {""}
                self.n_starts += type(event) is StageStarted
                assert self.n_starts <= CRASHES_TO_GIVE_UP, "a crash loop that does not end"
            case StepStarted():
                self.in_steps, self.open = True, (self.open - {""}) | {event.place}
            case StepFinished():
                self.open, self.n_starts = self.open - {event.place}, 0
            case StepFailed():
                self.open.discard(event.place)
            case WaitStarted():
                self.open.discard("")
                self.n_starts = 0
            case StageFailed():
                self.open = self.open - {""} if event.retry_at_us is not None else set()
                self.in_steps = self.in_steps and event.retry_at_us is not None
                self.n_starts = 0
            case StageFinished():
                self.open, self.in_steps, self.n_starts = set(), False, 0
            case StageInterrupted():
                self.n_starts = 0
            case RunDoubted():
                assert event.place in self.open, "a doubt about what has an end, or no beginning"
                self._doubted = event.place
            case RunResolved():
                self.open.discard(self._doubted)
                self.n_starts = self.n_starts if event.by_policy else 0

    # ── what may happen ──────────────────────────────────────────────────────────────────────────────────────────

    def happen(self) -> None:
        if self.run.status in ENDED:
            return
        if self.chance.random() < 0.12:
            turn = control.unpause if self.run.paused else control.pause
            self.record(turn(self.run, by="b0b"))
        elif self.is_live:
            self._work()
        else:
            self._rest()

    def _work(self) -> None:
        chance, stage, attempt = self.chance, self.run.current or "", self.run.attempt
        place = chance.choice([*self.run.open_steps, ""])
        match chance.choices(
            ["begin a step", "end a step", "fail in a step", "crash", "stop", "fail", "wait", "finish"],
            [22, 14, 4, 20, 4, 8, 15, 5],
        )[0]:
            case "begin a step":
                self.record([StepStarted(task="t", stage=stage, place=self._place(), name="s")])
            case "end a step" if place:
                self.record([StepFinished(task="t", stage=stage, place=place, name="s", output=1)])
            case "fail in a step" if place:
                self.record([StepFailed(task="t", stage=stage, place=place, name="s", error_type="E", reason="r")])
            case "crash":
                self.is_live = False
            case "stop":
                self._end(StageInterrupted(task="t", stage=stage, attempt=attempt, reason="the daemon stopped"))
                self.is_live = False
            case "fail" if stage in self.policy.retries:
                again_us = self.now_us + chance.choice([0, 5])
                failed = {"task": "t", "stage": stage, "attempt": attempt, "error_type": "E", "reason": "r"}
                self._end(StageFailed(**failed, fatal=False, retry_at_us=again_us))
            case "wait":
                kind = chance.choice(["sleep", "event"])
                name, until_us = (
                    ("", self.now_us + 5) if kind == "sleep" else ("e", chance.choice([None, self.now_us + 5]))
                )
                self._end(
                    WaitStarted(task="t", stage=stage, place=self._place(), kind=kind, name=name, until_us=until_us)
                )
            case "finish":
                self._end(StageFinished(task="t", stage=stage, attempt=attempt, output=1))

    def _place(self) -> str:
        self._n_places += 1
        return str(self._n_places)

    def _end(self, outcome: Event) -> None:
        is_going_on = self.chance.random() < 0.9  # else it is stopping
        live: Any = SimpleNamespace(
            run=self.run, entry=SimpleNamespace(policy=self.policy), elapsed_s=lambda _clock: 0.0
        )
        step = outcome_of(live, FakeClock(), outcome, go_on=is_going_on)(self.run)
        self.record([] if step is None else step.events)
        self.is_live = is_going_on and self._is_under_way()

    def _is_under_way(self) -> bool:
        return self.run.current is not None and self.run.open_starts > 0 and self.run.status == "running"

    def _rest(self) -> None:
        self.now_us += self.chance.choice([0, 0, 3, 10])
        if self.run.status == "in_doubt" and self.chance.random() < 0.5:
            verdict = self.chance.choice(["retry", "retry", "done", "done", "fail"])
            by = self.chance.choice(["b0b", None])
            self.record(control.decide_resolution(self.run, verdict, by=by, output=None, elapsed_s=0))
        else:
            self.look(missing=self.chance.choice([None, None, None, "task", "code"]))

    def look(self, missing: str | None = None) -> None:
        """It is looked at as after a start, or when it was roused. missing: what it takes to go on."""
        doubted = question(self.run)
        self.record([] if doubted is None else [doubted])
        run = self.run
        if run.status != "in_doubt" and not run.paused and run.status not in ENDED:
            held = None
            if missing == "task":
                held = RunHeld(task="t", code="task_missing", reason="Unknown task: t")
            code = "d" if missing == "code" else run.code
            held = held or code_changed(run, self.policy, code)
            if held is not None:
                self.record([held])
            else:
                self._resume(code)
        if not self.is_live and self.run.status not in ENDED and self.on_doubt == "ask":
            assert (self.run.status == "in_doubt") == bool(self.open), "the list of doubts is not the truth"

    def _resume(self, code: str) -> None:
        run, woken = self.run, None
        wait = run.wait
        if wait is not None and wait.kind == "event" and self.chance.random() < 0.5:
            woken = WaitEnded(
                task="t", stage=run.current or "", place=wait.place, kind="event", name=wait.name, outcome="event"
            )
        self.record(resume(run, self.policy, code=code, elapsed_s=0, now_us=self.now_us, woken=woken))
        self.is_live = self._is_under_way()
        run = self.run
        assert self.is_live or run.status != "running", "nobody performs it"
        due = run.awaits is not None and run.awaits.until_us is not None and run.awaits.until_us <= self.now_us
        assert not due, "what it waits for has come, and it sleeps again"

    def end_well(self) -> None:
        """As if everybody did their best from now on."""
        for _ in range(60):
            if self.run.status in ENDED:
                return
            if self.run.paused:
                self.record(control.unpause(self.run, by=None))
            elif self.is_live:
                stage = self.run.current or ""
                for place, name in list(self.run.open_steps.items()):
                    self.record([StepFinished(task="t", stage=stage, place=place, name=name, output=1)])
                self._end(StageFinished(task="t", stage=stage, attempt=self.run.attempt, output=1))
            elif self.run.status == "in_doubt":
                self.record(control.decide_resolution(self.run, "retry", by=None, output=None, elapsed_s=0))
            else:
                self.now_us += 100
                self.look()
        raise AssertionError("it does not end")


def lived(seed: int) -> Life:
    life = Life(seed)
    for _ in range(life.chance.randrange(3, 60)):
        life.happen()
    return life


@pytest.mark.parametrize("part", range(3))
def test_a_run_whatever_happens_asks_about_what_may_have_happened_and_ends(part: int) -> None:
    n = N_LIVES // 3
    for seed in range(part * n, (part + 1) * n):
        try:
            life = lived(seed)
            life.end_well()
        except AssertionError as error:
            raise AssertionError(f"{error} (life {seed})") from error
        rows = [recorded(event, position=n + 1, version=n + 1) for n, event in enumerate(life.events)]
        assert passes(rows)[0] == life.run
        assert explain(rows, Around(now_us=life.now_us)).reasons


async def test_what_is_listed_of_a_run_is_what_its_events_say_after_each_of_them() -> None:
    for seed in range(N_LISTED):
        log = await MemoryEventLog.open(
            MemoryFile(), clock=FakeClock(), ids=SeededIds(seed), instance_id="i", projections=all_projections()
        )
        context = Context(user_hash="u", group_hash="g", run_id=STREAM.removeprefix("run-"))
        for version, event in enumerate(lived(seed).events):
            await log.append([Change(STREAM, [event], version, context)])
            [row] = (await list_runs(log.tables)).items
            view = run_view(await log.read_stream(STREAM))
            assert (row.status, row.waits_for) == (view.status, view.waits_for), f"after event {version} of life {seed}"
            listed = (await list_runs(log.tables, status="in_doubt")).items
            assert bool(listed) == (view.waits_for is not None and view.waits_for.kind == "decision")
        await log.close()
