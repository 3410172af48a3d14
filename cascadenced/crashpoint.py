"""Named places where a test may kill the process; nothing otherwise.

`CASCADENCED_CRASH_AT=append.after_commit` kills with SIGKILL at the first pass, `…=append.after_commit:3` at the third.
The names are the keys of `CRASHPOINTS`, so that a test can walk all of them. A simulation, whose daemons have no
process of their own, sets `on_pass` instead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

CRASHPOINTS = {
    "append.before_commit": "events are written to the WAL, the transaction is open",
    "append.after_commit": "events are durable, nobody has been told",
    "ingest.before_append": "messages are decoded, nothing is recorded",
    "ingest.after_append": "recorded, the broker's message not yet acknowledged",
    "stage.before_effect": "the start of a stage is recorded, its code has not run",
    "stage.after_effect": "the code of a stage has run, its end is not recorded",
    "step.before_effect": "the code of a stage has come to a step, which has not run",
    "step.after_effect": "a step has run, its end is not recorded",
    "outbox.before_publish": "events are read from the log, not yet published",
    "outbox.after_publish": "published and acknowledged, the checkpoint not yet moved",
    "repair.broken": "the broker has forgotten something, which is not yet recorded",
    "repair.half": "some of what was missing at the broker is published again",
    "repair.done": "nothing is missing any more, which is not yet recorded",
    "vault.after_write": "raw identities are sealed, their events not yet recorded",
    "backup.half": "of a backup the log is copied, the vault is not",
    "restore.copied": "a backup is copied into the data folder, nothing there has been moved yet",
    "restore.half": "what was in the data folder is moved aside, the backup's files are not in their place",
}

_name, _, _nth = os.environ.get("CASCADENCED_CRASH_AT", "").partition(":")
_passes_left = int(_nth or 1)

on_pass: Callable[[str], None] | None = None
"""Told of each pass; what it raises ends whoever passes."""


def crashpoint(name: str) -> None:
    """Die here, if a test asked for it."""
    if on_pass is not None:
        on_pass(name)
    if name != _name:
        return
    global _passes_left
    _passes_left -= 1
    if _passes_left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
