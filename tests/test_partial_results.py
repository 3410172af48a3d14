"""`recover_partial`: what code that failed had done already (TC 1.10)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cascadenced import Retry, TaskPipeline, recover_partial
from cascadenced.errors import Invalid

ALICE = {"user_id": "alice", "group_id": "eng"}
BOB = {"user_id": "bob", "group_id": "ops"}


class HalfDone(Exception):
    def __init__(self, partial: Any) -> None:
        super().__init__("half done")
        self.partial = partial


class Copies:
    """Fails at the stage that its arguments name, with what they say."""

    def _at(self, stage: str) -> None:
        if self.args["stage"] == stage:  # type: ignore[attr-defined]
            raise HalfDone(self.args["partial"])  # type: ignore[attr-defined]

    def intake(self) -> None:
        self._at("intake")

    def run(self) -> str:
        self._at("run")
        return "done"

    def verify(self, result: str) -> str:
        self._at("verify")
        return result


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CASCADENCE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def fail(folder: Path, stage: str, partial: Any, who: dict[str, str] = ALICE) -> str:
    """Returns the run's id."""
    pipeline = TaskPipeline(Copies, data_dir=folder)
    with pytest.raises(HalfDone):
        pipeline.run(**who, args={"stage": stage, "partial": partial})
    assert pipeline.run_id is not None
    return pipeline.run_id


def test_the_newest_failure_of_the_stage_counts(folder: Path) -> None:
    for n in (1, 2):
        fail(folder, "run", {"copied": n})
        fail(folder, "intake", ["taken in", n])
    TaskPipeline(Copies, data_dir=folder).run(**ALICE, args={"stage": "none"})
    assert recover_partial("Copies", "run") == {"copied": 2}
    assert recover_partial("Copies", "execute") == {"copied": 2}
    assert recover_partial("Copies", "intake") == ["taken in", 2]
    assert recover_partial("Copies", "verify") is None
    assert recover_partial("Other", "run") is None


def test_a_failure_that_left_nothing_does_not_hide_one_that_did(folder: Path) -> None:
    fail(folder, "verify", 7)
    fail(folder, "verify", None)
    assert recover_partial("Copies", "verify") == 7


def test_only_the_runs_of_a_user_or_a_group_count_if_one_is_named(folder: Path) -> None:
    fail(folder, "run", "alice's")
    fail(folder, "run", "bob's", BOB)
    assert recover_partial("Copies", "run") == "bob's"
    assert recover_partial("Copies", "run", user_id="alice") == "alice's"
    assert recover_partial("Copies", "run", group_id="eng") == "alice's"
    assert recover_partial("Copies", "run", user_id="alice", group_id="ops") is None
    assert recover_partial("Copies", "run", user_id="carol") is None


@pytest.mark.parametrize("falsy", [0, "", [], {}, False])
def test_what_is_left_may_be_empty(folder: Path, falsy: Any) -> None:
    fail(folder, "run", "before")
    fail(folder, "run", falsy)
    assert recover_partial("Copies", "run") == falsy


def test_an_attempt_that_is_tried_again_leaves_something_too(folder: Path) -> None:
    class SecondTime(Copies):
        retries = Retry(max_attempts=2, initial_s=0.0, jitter=0.0)
        n = 0

        def run(self) -> Any:
            type(self).n += 1
            if self.n == 1:
                raise HalfDone("one of two")
            return recover_partial_later()

    def recover_partial_later() -> str:
        return "done"

    assert TaskPipeline(SecondTime, data_dir=folder).run(**ALICE, args={"stage": "none"}) == "done"
    assert recover_partial("SecondTime", "run") == "one of two"


async def test_in_a_loop_it_is_awaited(folder: Path) -> None:
    pipeline = TaskPipeline(Copies, data_dir=folder)
    with pytest.raises(HalfDone):
        await pipeline.run(**ALICE, args={"stage": "run", "partial": "half"})
    assert await recover_partial("Copies", "run") == "half"


def test_a_stage_that_does_not_exist_is_named() -> None:
    with pytest.raises(Invalid, match="^there is no stage 'lunch': it is one of intake, research, plan, "):
        recover_partial("Copies", "lunch")
