"""Answers folded from the log: one question each, with its table, its fold and its read functions. Floor 3.

board.py        what /status answers: all tasks, folded in memory with every commit
task_status.py  the same rows on disk, for restarts and for reading without a daemon
runs.py         which runs there are
run_view.py     one run in full, from its stream
audit_trail.py  the stage and audit rows of a task
answers.py      every question the faces may ask
page.py         pages of lists
schedules.py    which schedules there are, and the ledger of their due instants (schedule_view.py: as people read them)
pointers.py  followups.py  dead_letters.py

A projection is an index into the log wherever that is enough: texts and results stay in the events.
"""

from __future__ import annotations

from collections.abc import Sequence

from cascadenced.eventlog.base import Projection
from cascadenced.projections.audit_trail import AuditTrail
from cascadenced.projections.dead_letters import DeadLetters
from cascadenced.projections.followups import Followups
from cascadenced.projections.pointers import Pointers
from cascadenced.projections.runs import Runs
from cascadenced.projections.schedules import Schedules
from cascadenced.projections.task_status import TaskStatus


def all_projections() -> Sequence[Projection]:
    """One of each, in the order they are folded."""
    return (Runs(), TaskStatus(), AuditTrail(), Pointers(), Schedules(), Followups(), DeadLetters())
