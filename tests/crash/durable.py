"""What a crash may never do to the effects of runs: rules over (rows of the log, lines that effects left, what was
asked of runs and answered). As in `audit.py` they are pure, and spell out once more what the product's own rules say.

The log's instants and those of lines come from one clock: an effect is done before its end is recorded, and after its
start is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from tests.crash.audit import ENDS, Row
from tests.crash.durable_tasks import AT_MOST_ONCE, BEGUN, IN_THREADS, OWN, Line

Verb = Literal["cancel", "pause_run", "resume_run", "resolve"]

A_BREATH_US = 100_000
"""How long what has looked whether it may go on, or was killed, may take to do what it was about to do."""
PLANNING = ("parent", "crowd", "careful_parent", "household", "plan")
"""Tasks whose plan() is called again after a restart, for the tasks it makes: its code may run at any time."""


class Order(msgspec.Struct):
    """Something asked of a run. answered_at_us: when it was granted; None: it was not, or nobody knows."""

    run_id: str
    verb: Verb
    answered_at_us: int | None = None


class Life(msgspec.Struct):
    """Of the daemon. ended_at_us: when its process was gone."""

    number: int
    ended_at_us: int


class Witnessed(msgspec.Struct, frozen=True):
    """rows: the log, in order.  lines: of effects, in order.  in_doubt: ids that were listed as such, when everything
    had come to rest, at `rest_position`."""

    rows: Sequence[Row]
    lines: Sequence[Line]
    orders: Sequence[Order] = ()
    lives: Sequence[Life] = ()
    in_doubt: frozenset[str] = frozenset()
    rest_position: int = 0


Key = tuple[str, str, str]
"""(run id, stage, step); OWN for the stage's own effect."""


# ── effects ──────────────────────────────────────────────────────────────────────────────────────────────────────


def what_has_ended_is_not_done_again(seen: Witnessed) -> Iterator[str]:
    ends = _ends(seen.rows)
    for line in seen.lines:
        key = (line.run_id, line.stage, line.step)
        if line.step != BEGUN and key in ends and line.at_us > ends[key]:
            yield f"{_spelled(key)} was done again {line.at_us - ends[key]} µs after its end was recorded"
        whole = (line.run_id, line.stage, OWN)
        if line.task not in PLANNING and whole in ends and line.at_us > ends[whole] + A_BREATH_US:
            yield f"{_spelled(key)} was done {line.at_us - ends[whole]} µs after its stage had ended"


def nothing_is_done_that_was_not_started(seen: Witnessed) -> Iterator[str]:
    starts: dict[tuple[str, str], int] = {}
    steps: dict[Key, int] = {}
    for row in _of_runs(seen.rows):
        if row.type == "stage.started":
            starts.setdefault((_run(row), row.data["stage"]), row.at_us)
        if row.type == "step.started":
            steps.setdefault((_run(row), row.data["stage"], row.data["name"]), row.at_us)
    for line in seen.lines:
        key = (line.run_id, line.stage, line.step)
        if starts.get((line.run_id, line.stage), line.at_us + 1) > line.at_us:
            yield f"{_spelled(key)} was done and its stage had not been started"
        is_step = line.step not in (OWN, BEGUN)
        if line.task in AT_MOST_ONCE and is_step and steps.get(key, line.at_us + 1) > line.at_us:
            yield f"{_spelled(key)} was done and had not been started, though it must not happen twice"


def an_effect_happens_once_for_each_attempt(seen: Witnessed) -> Iterator[str]:
    """An attempt that waits begins its code once more after the wait, with the steps it has behind it."""
    n_begun: Counter[tuple[str, str]] = Counter()
    for row in _of_runs(seen.rows):
        if row.type in ("stage.started", "wait.ended"):
            n_begun[_run(row), row.data["stage"]] += 1
    for key, n in _counts(seen.lines).items():
        if n > n_begun[key[0], key[1]]:
            yield f"{_spelled(key)} was done {n} times for {n_begun[key[0], key[1]]} beginnings"


def at_most_once_is_never_twice(seen: Witnessed) -> Iterator[str]:
    allowed: Counter[Key] = Counter()
    asked_again: dict[str, Key] = {}
    for row in _of_runs(seen.rows):
        if row.type == "run.in_doubt":
            asked_again[_run(row)] = (_run(row), row.data["stage"], row.data.get("step") or OWN)
        elif row.type == "run.resolved" and row.data["verdict"] == "retry":
            allowed[asked_again[_run(row)]] += 1
        elif row.type == "step.failed":
            allowed[_run(row), row.data["stage"], row.data["name"]] += 1
        elif row.type == "stage.failed" and row.data.get("retry_at_us") is not None:
            allowed[_run(row), row.data["stage"], OWN] += 1
    once = {line.run_id for line in seen.lines if line.task in AT_MOST_ONCE}
    for key, n in _counts(seen.lines).items():
        if key[0] in once and n > 1 + allowed[key]:
            yield f"{_spelled(key)} was done {n} times, and was to be done at most once (again {allowed[key]} times)"


def what_is_recorded_was_done(seen: Witnessed) -> Iterator[str]:
    """Each recorded step has the line that its output names, and results are made of those."""
    lines = {line.id: line for line in seen.lines}
    outputs: dict[str, set[str]] = defaultdict(set)
    for row in _of_runs(seen.rows):
        if row.type == "step.finished" and "SETTLED" not in str(row.data.get("output")):
            line = lines.get(str(row.data.get("output")))
            named = (line.run_id, line.stage, line.step) if line is not None else None
            if named != (_run(row), row.data["stage"], row.data["name"]):
                yield f"{_run(row)} recorded of the step {row.data['name']} what {named or 'no effect'} put out"
        if row.type == "step.finished":
            outputs[_run(row)].add(str(row.data.get("output")))
        if row.type == "stage.finished" and row.data["stage"] == "run" and isinstance(row.data.get("output"), dict):
            strange = set(map(str, row.data["output"].get("steps", ()))) - outputs[_run(row)]
            if strange:
                yield f"{_run(row)} was handed the step outputs {sorted(strange)}, which are not what is recorded"


# ── doubts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def what_is_in_doubt_is_listed(seen: Witnessed) -> Iterator[str]:
    truth = doubts([row for row in seen.rows if row.position <= seen.rest_position])
    for run_id in truth - seen.in_doubt:
        yield f"the run {run_id} has an effect whose start is recorded and whose end is not, and is not listed in doubt"
    for run_id in seen.in_doubt - truth:
        yield f"the run {run_id} is listed in doubt, and each of its effects has an end"


def doubts(rows: Sequence[Row]) -> frozenset[str]:
    """Runs at rest with an effect that must not happen twice, whose start is recorded and whose end is not."""
    open_: dict[str, Key] = {}
    marked: set[str] = set()
    for row in _of_runs(rows):
        run_id, data = _run(row), row.data
        if data.get("task") not in AT_MOST_ONCE:
            continue
        match row.type:
            case "stage.started":
                if data["attempt"] == 1:
                    marked.discard(run_id)
                if run_id not in marked:
                    open_[run_id] = (run_id, data["stage"], OWN)
            case "wait.ended" if run_id not in marked:
                open_[run_id] = (run_id, data["stage"], OWN)
            case "step.started":
                open_[run_id] = (run_id, data["stage"], data["name"])
                marked.add(run_id)
            case "step.finished" | "step.failed" | "stage.finished" | "stage.failed" | "wait.started" | "run.resolved":
                open_.pop(run_id, None)
            case ended if ended in ENDS:
                open_.pop(run_id, None)
    return frozenset(open_)


# ── orders ───────────────────────────────────────────────────────────────────────────────────────────────────────


def what_was_granted_is_recorded(seen: Witnessed) -> Iterator[str]:
    types: dict[str, Counter[str]] = defaultdict(Counter)
    for row in _of_runs(seen.rows):
        types[_run(row)][row.type] += 1
    needed = {
        "cancel": "run.cancelled",
        "pause_run": "run.paused",
        "resume_run": "run.resumed",
        "resolve": "run.resolved",
    }
    for order in seen.orders:
        if order.answered_at_us is not None and not types[order.run_id][needed[order.verb]]:
            yield f"{order.verb} of {order.run_id} was granted and is not in the log"


def cancelled_runs_do_nothing_more(seen: Witnessed) -> Iterator[str]:
    """What is under way in a thread cannot be stopped; it does no more than that, and soon."""
    granted = {o.run_id: o.answered_at_us for o in seen.orders if o.verb == "cancel" and o.answered_at_us is not None}
    late: dict[str, list[Line]] = defaultdict(list)
    for line in seen.lines:
        if line.run_id in granted and line.at_us > granted[line.run_id]:
            late[line.run_id].append(line)
    for run_id, lines in late.items():
        beyond = [line for line in lines if line.task not in IN_THREADS or line.at_us > granted[run_id] + A_BREATH_US]
        if beyond or len(lines) > 1:
            named = ", ".join(f"{line.stage}/{line.step} {line.at_us - granted[run_id]} µs later" for line in lines)
            yield f"the run {run_id} ({lines[0].task}) was cancelled, and did {named}"


# ── attempts ─────────────────────────────────────────────────────────────────────────────────────────────────────


def attempts_that_are_over_do_nothing(seen: Witnessed) -> Iterator[str]:
    """Steps of code that began at an attempt which has ended since; anything by a process of a life that has."""
    ended_at = {life.number: life.ended_at_us for life in seen.lives}
    for line in seen.lines:
        if line.at_us > ended_at.get(line.life, line.at_us) + A_BREATH_US:
            what = _spelled((line.run_id, line.stage, line.step))
            late_us = line.at_us - ended_at[line.life]
            yield f"{what} was done by process {line.pid} {late_us} µs after the end of its daemon"
    bounds: dict[tuple[str, str], list[tuple[int, bool]]] = defaultdict(list)
    for row in _of_runs(seen.rows):
        if row.type in ("stage.started", "wait.ended"):
            bounds[_run(row), row.data["stage"]].append((row.at_us, True))
        elif row.type in ("stage.finished", "stage.failed", "run.cancelled", "run.in_doubt") and row.data.get("stage"):
            bounds[_run(row), row.data["stage"]].append((row.at_us, False))
    began = {line.id: line for line in seen.lines if line.step == BEGUN}
    for line in seen.lines:
        beginning = began.get(line.began)
        if beginning is None or line.task in PLANNING:
            continue
        over = next((at for at, _ in bounds[line.run_id, line.stage] if at > beginning.at_us), None)
        if over is not None and line.at_us > over + A_BREATH_US:
            what = _spelled((line.run_id, line.stage, line.step))
            yield f"{what} was done {line.at_us - over} µs after the attempt that did it was over"


# ── children ─────────────────────────────────────────────────────────────────────────────────────────────────────


def children_are_asked_for_once(seen: Witnessed) -> Iterator[str]:
    plans: dict[str, Any] = {}
    places: dict[tuple[str, int], list[Row]] = defaultdict(list)
    requested = Counter(_run(row) for row in seen.rows if row.type == "run.requested")
    parents = {_run(row): row.data.get("parent_run_id") for row in seen.rows if row.type == "run.requested"}
    asked = Counter(row.data["child_run_id"] for row in seen.rows if row.type == "child.requested")
    ended = Counter(row.data["child_run_id"] for row in seen.rows if row.type == "child.ended")
    for row in _of_runs(seen.rows):
        if row.type == "stage.finished" and row.data.get("children") is not None:
            plans[_run(row)] = row.data
        if row.type in ("child.requested", "child.ended"):
            places[_run(row), row.data["index"]].append(row)
    for child, n in asked.items():
        if n > 1 or requested[child] != 1 or ended[child] > 1:
            times = f"{n} times, requested {requested[child]} times, and ended {ended[child]} times"
            yield f"the child {child} was asked for {times}"
    for child, parent in parents.items():
        if parent is not None and not asked[child]:
            yield f"the run {child} is a child that {parent} never asked for"
    done_at: dict[tuple[str, int], int] = {}
    for (parent, index), rows in places.items():
        status, attempt = "error", 0
        for row in rows:
            if row.type == "child.requested":
                if status == "success" or status == "under way" or row.data.get("attempt", 1) != attempt + 1:
                    yield f"{parent} asked for its child {index} again after {status}, attempt {attempt}"
                status, attempt = "under way", row.data.get("attempt", 1)
            else:
                status = row.data["status"]
                if status == "success":
                    done_at[parent, index] = row.position
        if parent not in plans or index >= len(plans[parent]["children"]):
            yield f"{parent} asked for a child {index} that it has not planned"
        elif not plans[parent].get("parallel") and index:
            first = next(row.position for row in rows if row.type == "child.requested")
            if done_at.get((parent, index - 1), first + 1) > first:
                yield f"{parent} asked for its child {index} before the one ahead of it was done"


RULES = (
    what_has_ended_is_not_done_again,
    nothing_is_done_that_was_not_started,
    an_effect_happens_once_for_each_attempt,
    at_most_once_is_never_twice,
    what_is_recorded_was_done,
    what_is_in_doubt_is_listed,
    what_was_granted_is_recorded,
    cancelled_runs_do_nothing_more,
    attempts_that_are_over_do_nothing,
    children_are_asked_for_once,
)


def audit_effects(seen: Witnessed) -> list[str]:
    """What is wrong, each with the rule that says so; nothing if nothing is."""
    return [f"{rule.__name__}: {fault}" for rule in RULES for fault in rule(seen)]


# ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────


def at_rest(rows: Sequence[Row]) -> bool:
    """Whether nothing goes on by itself: each run has ended, and been answered if it failed, is in doubt, or waits for
    runs that are."""
    state: dict[str, str] = {}
    children: Mapping[str, set[str]] = defaultdict(set)
    for row in _of_runs(rows):
        run_id = _run(row)
        if row.type == "child.requested":
            children[run_id].add(row.data["child_run_id"])
        state[run_id] = (
            "failed" if row.type == "run.failed" and row.data.get("via") != "plan"
            else "ended" if row.type in (*ENDS, "followup.requested", "followup.skipped")
            or state.get(run_id) == "ended"
            else "doubt" if row.type == "run.in_doubt"
            else "children" if row.type == "wait.started" and row.data["kind"] == "children"
            else state[run_id] if row.type in _ASIDE
            else "on"
        )  # fmt: skip
    return all(
        each in ("ended", "doubt")
        or (each == "children" and any(state.get(child) in ("doubt", "children") for child in children[run_id]))
        for run_id, each in state.items()
    )


_ASIDE = frozenset({"child.requested", "child.ended", "stage.late", "run.paused", "run.resumed"})


def _of_runs(rows: Sequence[Row]) -> Iterator[Row]:
    return (row for row in rows if row.stream.startswith("run-"))


def _run(row: Row) -> str:
    return row.stream.removeprefix("run-")


def _ends(rows: Sequence[Row]) -> dict[Key, int]:
    """When the end of each effect was recorded, first."""
    ends: dict[Key, int] = {}
    for row in _of_runs(rows):
        if row.type == "step.finished":
            ends.setdefault((_run(row), row.data["stage"], row.data["name"]), row.at_us)
        if row.type == "stage.finished":
            ends.setdefault((_run(row), row.data["stage"], OWN), row.at_us)
    return ends


def _counts(lines: Sequence[Line]) -> Counter[Key]:
    return Counter((line.run_id, line.stage, line.step) for line in lines if line.step != BEGUN)


def _spelled(key: Key) -> str:
    return "/".join(key)
