"""Errors that nobody waits for are lines of the log: with their type and place, without what they say."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest
import structlog

from cascadenced import logs, loose_ends
from cascadenced.identity import Identity, Pseudonyms, Redactor, nameless

ALICE = Identity("alice@example", "north")
PSEUDONYMS = Pseudonyms("a secret of the tests")


def fail(*_: Any) -> None:
    raise LookupError(ALICE.user_id)


async def leave_behind() -> None:
    loose_ends.catch(asyncio.get_running_loop())
    nameless.set(Redactor(ALICE, PSEUDONYMS))
    warnings.warn(f"old: {ALICE.user_id}", stacklevel=1)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    exiting = threading.Thread(target=sys.exit)
    exiting.start()
    exiting.join()

    async def fail_later() -> None:
        fail()

    asyncio.create_task(fail_later())  # noqa: RUF006 -- nobody holds it
    asyncio.get_running_loop().call_soon(fail, ALICE.user_id)
    type("Dying", (), {"__del__": fail})()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class Dropping:
    """A stderr in whose midst something is collected that fails."""

    def __init__(self) -> None:
        self.left = 1

    def write(self, text: str) -> None:
        if self.left:
            self.left -= 1
            type("Dying", (), {"__del__": fail})()
        sys.__stdout__.write(text)

    def flush(self) -> None:
        sys.__stdout__.flush()

    def isatty(self) -> bool:
        return False


async def log_while_something_dies() -> None:
    loose_ends.catch(asyncio.get_running_loop())
    structlog.get_logger().info("said")
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def drop() -> None:
    sys.stderr = Dropping()  # type: ignore[assignment]
    logs.configure("info")
    asyncio.run(log_while_something_dies())


def leave() -> None:
    """In a process of its own: what is caught is caught for all of it."""
    logs.configure("info")
    asyncio.run(leave_behind())


@pytest.fixture(scope="module")
def output() -> str:
    asked = (sys.executable, "-c", f"from {__name__} import leave; leave()")
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_each_of_them_is_one_line_that_says_what_and_where(output: str) -> None:
    lines = [json.loads(line) for line in output.splitlines() if '"loose_error"' in line]
    assert sorted(line["what"] for line in lines) == [
        "Exception",
        "Task exception was never retrieved",
        "a thread ended with an error",
        "an error where none can be raised",
    ]
    assert {line["error_type"] for line in lines} == {"LookupError"}
    assert all("raise LookupError(ALICE.user_id)" in line["traceback"] for line in lines)


def test_a_warning_is_logged_with_the_pseudonym(output: str) -> None:
    assert f"UserWarning: old: {PSEUDONYMS.user(ALICE.user_id)}" in output


def test_what_dies_in_the_midst_of_a_line_being_written_does_not_stop_the_log() -> None:
    asked = (sys.executable, "-c", f"from {__name__} import drop; drop()")
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["said", "loose_error"]


def test_nobody_is_named(output: str) -> None:
    assert ALICE.user_id not in output
