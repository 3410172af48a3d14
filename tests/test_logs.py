"""What the daemon logs names nobody, whoever writes the line."""

from __future__ import annotations

import contextvars
import json
import logging
import subprocess
import sys

import pytest
import structlog

from cascadenced import logs
from cascadenced.identity import Identity, Pseudonyms, Redactor, nameless

ALICE = Identity('al"ice@example', "eng/north")
PSEUDONYMS = Pseudonyms("a secret of the tests")


def say() -> None:
    """In a process of its own: logging is configured once for all of it."""
    logs.configure("debug")

    def during_a_run() -> None:
        nameless.set(Redactor(ALICE, PSEUDONYMS))
        logging.getLogger("a.library").warning("mail to %s of %s", ALICE.user_id, ALICE.group_id)
        structlog.get_logger().info("mail_sent", to=ALICE.user_id, url="/x?group=eng%2Fnorth")
        structlog.get_logger().info("mail", body=json.dumps({"to": ALICE.user_id}), people=[ALICE.user_id], who=ALICE)
        try:
            raise ValueError(f"no luck for {ALICE.user_id!r} of {ALICE.group_id}")
        except ValueError:
            structlog.get_logger().exception("mail_failed")
            logging.getLogger("a.library").exception("failed")

    contextvars.copy_context().run(during_a_run)
    structlog.get_logger().info("said", to="eng/north")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    asked = (sys.executable, "-c", f"from {__name__} import say; say()")
    return subprocess.run(asked, capture_output=True, text=True, check=True).stderr.splitlines()


def test_what_is_logged_during_a_run_names_its_user_by_pseudonym(lines: list[str]) -> None:
    during = "\n".join(lines[:-1])
    assert during.count(PSEUDONYMS.user(ALICE.user_id)) >= 4
    assert during.count(PSEUDONYMS.group(ALICE.group_id)) >= 4
    assert "mail_failed" in during
    # The source lines in tracebacks are the code's own.
    assert "ice@example" not in during
    assert "north" not in during


def test_what_is_logged_elsewhere_is_written_as_it_is(lines: list[str]) -> None:
    assert json.loads(lines[-1])["to"] == "eng/north"
