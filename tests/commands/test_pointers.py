"""Pointers, also when several processes add them at once."""

from __future__ import annotations

import pytest

from cascadenced.projections.pointers import PointerRow
from tests.commands.conftest import outcome, spawn
from tests.commands.test_tasks import fields

HASH = "ab" * 32


def test_a_pointer_is_added_once_and_listed_by_pseudonym(run):
    assert run("pointer-add", "bookmarks", "alice", "r1").out == "pointer added\n"
    assert run("pointer-add", "bookmarks", "alice", "r1").out == "pointer added\n"
    lines = run("pointer-list", "bookmarks").out.splitlines()
    assert len(lines) == 1
    run_id, _, user_hash = lines[0].partition("\t")
    assert run_id == "r1"
    assert len(user_hash) == 64


def test_pointers_are_filtered_by_raw_ids(run):
    run("pointer-add", "bookmarks", "alice", "r1", "--group-id", "eng")
    run("pointer-add", "bookmarks", "bob", "r2")
    assert run("pointer-list", "bookmarks", "--user-id", "bob").out.startswith("r2\t")
    assert run("pointer-list", "bookmarks", "--group-id", "eng").out.startswith("r1\t")
    assert run("pointer-list", "bookmarks", "--user-id", "carol").out == ""


def test_a_pointer_is_sent_and_received(run):
    assert run("pointer-send", "bookmarks", "alice", "r1").out == "pointer sent\n"
    assert run("pointer-receive", "bookmarks", "r2", HASH, "--group-id", "eng").out == "pointer stored\n"
    assert run("pointer-receive", "example", "r3", HASH).out == "pointer stored\n"
    assert f"r2\t{HASH}\n" in run("pointer-list", "bookmarks").out
    assert run("pointer-receive", "bookmarks", "r4", "abc").code == 1


@pytest.mark.parametrize("name", ["example", "nope"])
@pytest.mark.parametrize(
    ("command", "rest"), [("pointer-add", ["u", "r"]), ("pointer-send", ["u", "r"]), ("pointer-list", [])]
)
def test_other_tasks_have_no_pointers(run, name, command, rest):
    ran = run(command, name, *rest)
    assert (ran.code, ran.err) == (1, f"error: '{name}' is not a pointer task\n")


def test_a_missing_argument_is_named(run):
    ran = run("pointer-add", "bookmarks", "alice")
    assert ran.code == 2
    assert "RUN" in ran.err


def test_json_has_all_of_them(run):
    run("pointer-add", "bookmarks", "alice", "r1")
    page = run("pointer-list", "bookmarks", "--json").json
    assert set(page["items"][0]) == fields(PointerRow)


@pytest.mark.slow
def test_five_processes_add_at_once_and_lose_nothing(run):
    processes = [
        spawn("pointer-add", "bookmarks", "alice", run_id, CASCADENCE_LOCK_WAIT_S="30")
        for n in range(5)
        for run_id in (f"r{n}", "shared")
    ]
    ended = [outcome(process) for process in processes]
    assert [(ran.code, ran.out, ran.err) for ran in ended] == [(0, "pointer added\n", "")] * 10
    listed = sorted(line.split("\t")[0] for line in run("pointer-list", "bookmarks").out.splitlines())
    assert listed == ["r0", "r1", "r2", "r3", "r4", "shared"]
