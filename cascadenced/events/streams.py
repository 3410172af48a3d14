"""What the streams of the log are called: one for each run, task, schedule, workflow's event and pointers of a task."""

from __future__ import annotations

SYSTEM_STREAM = "system"
"""What the daemon itself has to tell."""
NOTES_STREAM = "notes"
IDEAS_STREAM = "ideas"
DEAD_LETTERS_STREAM = "dead-letters"
_RUN = "run-"


def run_stream(run_id: str) -> str:
    return f"{_RUN}{run_id}"


def run_id_of(stream: str) -> str:
    """stream: a run's."""
    return stream.removeprefix(_RUN)


def task_stream(name: str) -> str:
    return f"task-{name}"


def schedule_stream(task: str) -> str:
    return f"schedule-{task}"


def workflow_stream(event: str) -> str:
    return f"workflow-{event}"


def pointer_stream(task: str) -> str:
    return f"pointer-{task}"
