"""What Prometheus is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from time import perf_counter
from types import SimpleNamespace

import pytest
import pytest_asyncio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from cascadenced.clock import FakeClock
from cascadenced.eventlog.base import Change
from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.events.base import Event, Recorded
from cascadenced.events.dead_letter import MessageDeadLettered
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunFailed, RunFinished, RunRefused
from cascadenced.ids import SeededIds
from cascadenced.projections import all_projections
from cascadenced.runtime import metrics as module
from cascadenced.runtime.metrics import Metrics
from tests.examples import example, recorded, run_of


class World:
    def __init__(self, log: MemoryEventLog) -> None:
        self.log = log
        self.link: SimpleNamespace | None = SimpleNamespace(connected=True, outbox_pending=7)
        self.refusals: Counter[str] = Counter()
        self.metrics = Metrics(
            log,
            is_task=lambda name: name.startswith("example"),
            runs=SimpleNamespace(n_running=2, n_queued=3),
            threads=SimpleNamespace(n_abandoned=1),
            refusals=self.refusals,
            bus=lambda: self.link,
            version="1.2.3",
            instance_id="instance-1",
        )

    async def happened(self, *events: Event) -> None:
        await self.log.append([Change("any", list(events))])

    def value(self, name: str, **labels: str) -> float | None:
        """Of one sample, None if there is none."""
        _, text = self.metrics.text("")
        for family in parse(text.decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    log = await MemoryEventLog.open(clock=FakeClock(), ids=SeededIds(), projections=all_projections())
    yield World(log)
    await log.close()


async def test_ended_runs_are_counted_and_timed_by_task(world: World):
    await world.happened(
        example(RunFinished, took_s=0.3), example(RunFinished, took_s=40.0), example(RunFailed, took_s=0.02)
    )
    assert world.value("task_success_total", task_name="example") == 2
    assert world.value("task_failure_total", task_name="example") == 1
    assert world.value("task_latency_seconds_count", task_name="example") == 3
    assert world.value("task_latency_seconds_sum", task_name="example") == pytest.approx(40.32)
    for bound, n in (("0.01", 0), ("0.025", 1), ("0.5", 2), ("30.0", 2), ("60.0", 3), ("+Inf", 3)):
        assert world.value("task_latency_seconds_bucket", task_name="example", le=bound) == n


async def test_a_run_on_the_bound_is_within_it_and_one_beyond_all_is_in_the_last(world: World):
    await world.happened(example(RunFinished, took_s=0.5), example(RunFinished, took_s=1e6))
    assert world.value("task_latency_seconds_bucket", le="0.5") == 1
    assert world.value("task_latency_seconds_bucket", le="7200.0") == 1
    assert world.value("task_latency_seconds_bucket", le="+Inf") == 2


async def test_a_refused_run_is_neither_success_nor_failure(world: World):
    await world.happened(example(RunRefused))
    assert world.value("task_failure_total", task_name="example") is None
    assert world.value("cascadence_events_total", type="run.refused") == 1


async def test_only_registered_tasks_become_labels_and_not_too_many(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_TASKS", 3)
    await world.happened(*(example(RunFinished, task=f"example{n}") for n in range(5)))
    await world.happened(example(RunFinished, task="never-registered"))
    assert world.value("task_success_total", task_name="example0") == 1
    assert world.value("task_success_total", task_name="example4") is None
    assert world.value("task_success_total", task_name="never-registered") is None
    assert world.value("task_success_total", task_name="other") == 3


async def test_reasons_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_REASONS", 2)
    await world.happened(*(example(MessageDeadLettered, reason=f"r{n}") for n in range(4)))
    assert world.value("cascadence_dead_letters_total", reason="r0") == 1
    assert world.value("cascadence_dead_letters_total", reason="other") == 2


async def test_the_rest_is_read_when_somebody_asks(world: World):
    world.refusals["bad_host"] += 5
    await world.happened(example(MessageDeadLettered))
    assert world.value("cascadence_log_position") == 1
    assert world.value("cascadence_runs_running") == 2
    assert world.value("cascadence_runs_queued") == 3
    assert world.value("cascadence_outbox_pending") == 7
    assert world.value("cascadence_bus_connected") == 1
    assert world.value("cascadence_abandoned_threads") == 1
    assert world.value("cascadence_log_read_only") == 0
    assert world.value("cascadence_refused_total", reason="bad_host") == 5
    assert world.value("cascadence_dead_letters_total", reason="undecodable") == 1
    assert world.value("cascadence_projection_frozen", projection="runs") == 0
    assert world.value("cascadence_build_info", version="1.2.3", instance_id="instance-1") == 1
    world.link = None
    assert world.value("cascadence_bus_connected") == 0
    assert world.value("cascadence_outbox_pending") == 0


async def test_a_projection_that_stops_is_seen(world: World, monkeypatch: pytest.MonkeyPatch):
    from cascadenced.projections.pointers import Pointers

    monkeypatch.setattr(Pointers, "apply", lambda *_: 1 / 0)
    await world.happened(example(PointerAdded))
    assert world.value("cascadence_projection_frozen", projection="pointers") == 1


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"]
)
async def test_both_formats_can_be_read(world: World, accept: str):
    await world.happened(example(RunFinished), example(MessageDeadLettered))
    content_type, text = world.metrics.text(accept)
    read = parse_openmetrics if "openmetrics" in content_type else parse
    names = {family.name for family in read(text.decode())}
    assert {"task_latency_seconds", "cascadence_events", "cascadence_build_info"} <= names


@pytest.mark.parametrize(
    "accept", ["\udcff", ";;;,,,", "application/openmetrics-text; version=x; escaping=\x00", "a" * 9000]
)
async def test_no_accept_header_is_too_odd(world: World, accept: str):
    assert world.metrics.text(accept)[1]


async def test_counting_an_event_is_cheap(world: World):
    """A generous bound that a lookup by label would break tenfold."""
    batch = [recorded(event) for event in run_of("run") * 200]
    best = min(_timed(world.metrics, batch) for _ in range(5))
    assert best / len(batch) < 3e-6


def _timed(metrics: Metrics, batch: Sequence[Recorded]) -> float:
    began = perf_counter()
    metrics.grew(batch)
    return perf_counter() - began
