"""Numbers for Prometheus, counted from the log as it grows and read from the instance when somebody asks.

Counting is plain integers, because every event passes here; the library's own counters, with a lock and a lookup by
label each, cost ten times as much. What it is good at, spelling the text, happens once per scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics

from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.events.dead_letter import MessageDeadLettered
from cascadenced.events.run import RunFailed, RunFinished

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300, 1800, 7200)
"""Upper bounds: those of the Prometheus libraries, and more for the long runs of an orchestrator."""
MAX_TASKS = 300
"""Different values of the label `task_name`; runs of further tasks are counted together. Each costs a scrape, during
which nothing else happens, 0.1 ms."""
MAX_REASONS = 100
OTHER = "other"
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class BusLink(Protocol):
    """What is shown of the bus."""

    connected: bool
    outbox_pending: int


class Runs(Protocol):
    """What is shown of the runs under way."""

    @property
    def n_running(self) -> int: ...

    @property
    def n_queued(self) -> int: ...


class Threads(Protocol):
    """What is shown of the threads of tasks."""

    @property
    def n_abandoned(self) -> int: ...


class _Tally:
    """The ended runs of one task. counts: by bucket, the last for what is longer than all bounds."""

    __slots__ = ("counts", "n_failure", "n_success", "sum_s")

    def __init__(self) -> None:
        self.n_success = self.n_failure = 0
        self.sum_s = 0.0
        self.counts = [0] * (len(BUCKETS_S) + 1)

    def took(self, seconds: float) -> None:
        self.sum_s += seconds
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, runs up to it), as Prometheus wants them: each includes those before it."""
        bounds = [*(str(float(bound)) for bound in BUCKETS_S), "+Inf"]
        return [(bound, float(n)) for bound, n in zip(bounds, accumulate(self.counts), strict=True)]


class Metrics:
    """One per instance and process; counters start at 0 with it.

    is_task: whether a task of that name is registered; only such names become labels.
    refusals: totals by reason.  bus: how the bus is, None while there is none.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        is_task: Callable[[str], bool],
        runs: Runs,
        threads: Threads,
        refusals: Mapping[str, int],
        bus: Callable[[], BusLink | None],
        version: str,
        instance_id: str,
    ) -> None:
        self._log, self._is_task, self._runs, self._threads = log, is_task, runs, threads
        self._refusals, self._bus = refusals, bus
        self._about = (version, instance_id)
        self._n_events: defaultdict[str, int] = defaultdict(int)
        self._n_letters: defaultdict[str, int] = defaultdict(int)
        self._tallies: dict[str, _Tally] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        log.observe(self.grew)

    def grew(self, batch: Sequence[Recorded]) -> None:
        """Count a committed batch."""
        n_events = self._n_events
        for recorded in batch:
            n_events[recorded.type] += 1
            event = recorded.event
            kind = type(event)
            if kind is RunFinished:
                tally = self._tally(event.task)  # type: ignore[attr-defined]  # `is` narrows, mypy does not see it
                tally.n_success += 1
                tally.took(event.took_s)  # type: ignore[attr-defined]
            elif kind is RunFailed:
                tally = self._tally(event.task)  # type: ignore[attr-defined]
                tally.n_failure += 1
                tally.took(event.took_s)  # type: ignore[attr-defined]
            elif kind is MessageDeadLettered:
                self._n_letters[_bounded(event.reason, self._n_letters, MAX_REASONS)] += 1  # type: ignore[attr-defined]

    def text(self, accept: str) -> tuple[str, bytes]:
        """(content type, body): OpenMetrics if the header `accept` names it, else the older text format."""
        # The library's own choice raises on a version that is no number.
        if "application/openmetrics-text" in accept:
            return openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return TEXT_FORMAT, generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Everything, as of now. Called by the registry."""
        yield from self._of_tasks()
        events = CounterMetricFamily("cascadence_events", "Events recorded since the start.", labels=["type"])
        yield _filled(events, self._n_events)
        letters = CounterMetricFamily(
            "cascadence_dead_letters", "Messages that could not be read, since the start.", labels=["reason"]
        )
        yield _filled(letters, self._n_letters)
        refused = CounterMetricFamily(
            "cascadence_refused", "Requests and messages refused or skipped since the start.", labels=["reason"]
        )
        yield _filled(refused, {_bounded(r, {}, MAX_REASONS): n for r, n in list(self._refusals.items())[:MAX_REASONS]})
        yield from self._gauges()

    def _of_tasks(self) -> Iterable[Metric]:
        latency = HistogramMetricFamily(
            "task_latency_seconds", "From the start of a run to its end, downtime included.", labels=["task_name"]
        )
        success = CounterMetricFamily("task_success", "Runs that ended well.", labels=["task_name"])
        failure = CounterMetricFamily("task_failure", "Runs that ended in error.", labels=["task_name"])
        for task, tally in self._tallies.items():
            latency.add_metric([task], tally.buckets(), tally.sum_s)
            success.add_metric([task], tally.n_success)
            failure.add_metric([task], tally.n_failure)
        return latency, success, failure

    def _gauges(self) -> Iterable[Metric]:
        link = self._bus()
        pending = link.outbox_pending if link is not None else 0
        yield GaugeMetricFamily("cascadence_log_position", "The newest event's.", value=self._log.position)
        yield GaugeMetricFamily("cascadence_runs_running", "Runs that hold a slot.", value=self._runs.n_running)
        yield GaugeMetricFamily("cascadence_runs_queued", "Runs that wait for a slot.", value=self._runs.n_queued)
        yield GaugeMetricFamily("cascadence_outbox_pending", "Events not yet published.", value=pending)
        yield GaugeMetricFamily(
            "cascadence_bus_connected", "1 while NATS answers.", value=link is not None and link.connected
        )
        yield GaugeMetricFamily(
            "cascadence_abandoned_threads",
            "Threads of tasks that nobody waits for any more.",
            value=self._threads.n_abandoned,
        )
        yield GaugeMetricFamily(
            "cascadence_log_read_only", "1 while nothing can be recorded.", value=self._log.read_only is not None
        )
        frozen = GaugeMetricFamily(
            "cascadence_projection_frozen", "1 when a projection has stopped.", labels=["projection"]
        )
        for state in self._log.projection_states():
            frozen.add_metric([state.name], state.frozen is not None)
        yield frozen
        info = GaugeMetricFamily("cascadence_build_info", "Always 1.", labels=["version", "instance_id"])
        info.add_metric(self._about, 1)
        yield info

    def _tally(self, task: str) -> _Tally:
        tally = self._tallies.get(task)
        if tally is None:
            known = self._is_task(task) and len(self._tallies) < MAX_TASKS
            tally = self._tallies.setdefault(task if known else OTHER, _Tally())
        return tally


def _bounded(word: str, known: Mapping[str, int], bound: int) -> str:
    """`word`, or `other` when it would be one label value too many."""
    return word if word in known or len(known) < bound else OTHER


def _filled(family: CounterMetricFamily, totals: Mapping[str, int]) -> CounterMetricFamily:
    for word, n in totals.items():
        family.add_metric([word], n)
    return family
