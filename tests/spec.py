"""given/when/then for rules.

    given(example(RunRequested), example(RunStarted)).when(example(StageFinished)).then(StageStarted, stage="run")

`given` are the events of a run so far; `when` adds one and asks the rule what follows from it; `then` compares with
what followed: the types, or the events themselves, and fields of the first one.
"""

from __future__ import annotations

from typing import Any

from cascadenced.events.base import Event
from cascadenced.events.wait import WaitEnded
from cascadenced.pipeline.decide import decide
from cascadenced.pipeline.model import Run, evolve, fold
from cascadenced.pipeline.policy import Policy
from cascadenced.pipeline.resume import resume
from tests.examples import AT_US


class Followed:
    """What the rule said."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    def then(self, *expected: type[Event] | Event, **fields: Any) -> None:
        """Exactly these followed; `fields` of the first are as given."""
        followed = [
            event if isinstance(wanted, Event) else type(event)
            for event, wanted in zip(self.events, expected, strict=False)
        ]
        assert len(self.events) == len(expected), f"{len(expected)} events expected, but {self.events} followed"
        assert followed == list(expected)
        for name, value in fields.items():
            assert getattr(self.events[0], name) == value, name

    def then_nothing(self) -> None:
        assert self.events == []


class Given:
    """A run, by its events so far."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        self.run: Run = fold(events)

    def when(self, event: Event, *, elapsed_s: float = 0.0) -> Followed:
        """`event` happens."""
        return Followed(decide(evolve(self.run, event), event, elapsed_s=elapsed_s))

    def when_the_daemon_starts_again(
        self,
        *,
        code: str = "c0de",
        elapsed_s: float = 0.0,
        policy: Policy = Policy(),  # noqa: B008 -- frozen
        now_us: int = AT_US,
        woken: WaitEnded | None = None,
    ) -> Followed:
        """Or the run was asleep, and is looked at again."""
        return Followed(resume(self.run, policy, code=code, elapsed_s=elapsed_s, now_us=now_us, woken=woken))


def given(*events: Event) -> Given:
    return Given(events)
