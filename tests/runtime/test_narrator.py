"""What the daemon's own log says of the event log."""

from __future__ import annotations

import pytest
import structlog

from cascadenced.events.dead_letter import MessageDeadLettered
from cascadenced.events.idea import IdeaRecorded
from cascadenced.events.run import RunFailed, RunFinished
from cascadenced.events.stage import StageFailed, StageFinished
from cascadenced.runtime.narrator import narrate
from tests.examples import RUN_ID, every_event, example, recorded


def told(*events: object) -> list[dict[str, object]]:
    with structlog.testing.capture_logs() as logs:
        narrate([recorded(event) for event in events])  # type: ignore[arg-type]
    return [dict(entry) for entry in logs]


def test_failures_are_warnings_with_their_reason() -> None:
    [line] = told(example(RunFailed, reason="boom"))
    assert (line["event"], line["log_level"], line["reason"]) == ("run.failed", "warning", "boom")
    assert (line["task"], line["run_id"], line["stage"]) == ("example", RUN_ID, "run")


def test_the_ordinary_is_for_those_who_debug() -> None:
    assert [line["log_level"] for line in told(example(StageFinished), example(RunFinished))] == ["debug", "debug"]


def test_what_nobody_would_miss_is_not_told() -> None:
    assert told(example(IdeaRecorded)) == []


@pytest.mark.parametrize(
    "event",
    [
        example(StageFinished, output="secret content"),
        example(StageFailed, partial="secret content"),
        example(MessageDeadLettered, digest="secret content"),
        example(IdeaRecorded, text="secret content"),
    ],
)
def test_contents_are_never_told(event: object) -> None:
    assert "secret content" not in str(told(event))


def test_every_type_of_event_can_be_met() -> None:
    narrate([recorded(event) for event in every_event()])
