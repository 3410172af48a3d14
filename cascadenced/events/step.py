"""Facts about what a stage does in steps, in the run's stream.

A step is known by its place (`place.py`). A stage that runs again is handed what is recorded at each place, as long as
it asks there for the same.
"""

from __future__ import annotations

from cascadenced.events.base import Event, Json
from cascadenced.events.place import Place


class StepStarted(Event, tag="step.started", frozen=True, kw_only=True):
    """Committed before the step's code runs; only where the task asks for `at_most_once`."""

    task: str
    stage: str
    place: Place
    name: str


class StepFinished(Event, tag="step.finished", frozen=True, kw_only=True):
    """The step returned. output: content, stored exactly.  took_s: seconds, monotonic."""

    task: str
    stage: str
    place: Place
    name: str
    output: Json = None
    took_s: float = 0.0


class StepFailed(Event, tag="step.failed", frozen=True, kw_only=True):
    """The step raised; it runs again when the stage does. reason: redacted text."""

    task: str
    stage: str
    place: Place
    name: str
    error_type: str
    reason: str
    took_s: float = 0.0
