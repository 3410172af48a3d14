"""The secret of the pseudonyms belongs to the log: with another one, nobody in it would be found again."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.commands.conftest import WHO


@pytest.fixture
def used(run, folder):
    """A data folder with one run in it."""
    assert run("run", "example", *WHO).code == 0
    return folder


def refusal(run):
    ran = run("run", "example", *WHO)
    assert ran.code == 78
    return ran.err


@pytest.mark.parametrize("change", ["changed", "missing"])
def test_a_secret_that_is_not_the_logs_is_a_mistake_in_the_configuration(run, used, change):
    secret = used / "hash.secret"
    before = secret.read_bytes()
    if change == "changed":
        secret.write_text("0" * 64 + "\n")
    else:
        secret.unlink()
    told = refusal(run)
    assert str(used / "log.db") in told
    assert str(secret) in told
    assert "restore" in told
    secret.write_bytes(before)
    assert run("run", "example", *WHO).code == 0


def test_a_configured_secret_is_named_as_such(run, used, monkeypatch):
    monkeypatch.setenv("CASCADENCE_HASH_SECRET", "another")
    assert "hash_secret" in refusal(run)


def test_the_file_that_was_drawn_can_also_be_configured(run, used, monkeypatch):
    monkeypatch.setenv("CASCADENCE_HASH_SECRET", (used / "hash.secret").read_text().strip())
    assert run("run", "example", *WHO).code == 0


def test_a_log_that_remembers_no_secret_takes_the_first_it_is_opened_with(run, used):
    with closing(sqlite3.connect(used / "log.db")) as connection, connection:
        assert connection.execute("DELETE FROM meta WHERE key = 'hash_secret'").rowcount == 1
    assert run("run", "example", *WHO).code == 0
    (used / "hash.secret").unlink()
    refusal(run)


def test_what_the_log_remembers_of_the_secret_is_not_the_secret(run, used):
    secret = (used / "hash.secret").read_text().strip()
    with closing(sqlite3.connect(used / "log.db")) as connection:
        remembered = dict(connection.execute("SELECT key, value FROM meta"))
    assert len(remembered["hash_secret"]) == 32
    assert remembered["hash_secret"] not in secret
