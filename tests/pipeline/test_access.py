"""Who may control a run."""

from __future__ import annotations

import pytest

from cascadenced.pipeline.access import Caller, may_control

RUN = {"user_hash": "alice", "group_hash": "eng"}


@pytest.mark.parametrize(
    ("caller", "may"),
    [
        (Caller("alice", "eng"), True),
        (Caller("alice", "ops"), True),
        (Caller("bob", "eng"), True),
        (Caller("bob", "ops"), False),
        (Caller(None, "eng"), True),
        (Caller("alice", None), True),
        (Caller(None, None), False),
        (Caller("eng", "alice"), False),
    ],
)
def test_the_runs_user_and_everybody_of_its_group_may_and_others_may_not(caller: Caller, may: bool) -> None:
    assert may_control(caller, **RUN) is may


@pytest.mark.parametrize("caller", [Caller(is_owner=True), Caller("bob", "ops", is_owner=True)])
def test_the_owner_of_the_folder_may_control_every_run(caller: Caller) -> None:
    assert may_control(caller, **RUN)
    assert may_control(caller, user_hash=None, group_hash=None)


@pytest.mark.parametrize("caller", [Caller(), Caller("alice", "eng")])
def test_a_run_of_nobody_is_the_owners_alone(caller: Caller) -> None:
    assert not may_control(caller, user_hash=None, group_hash=None)
