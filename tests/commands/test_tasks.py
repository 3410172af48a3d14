"""Running tasks and switching them, without a daemon."""

from __future__ import annotations

import msgspec
import pytest

from cascadenced.instance import Status
from cascadenced.projections.answers import TaskView
from cascadenced.projections.task_status import TaskRow
from cascadenced.verbs.runs import RunResult
from cascadenced.verbs.tasks import Listed, Switched
from tests.commands.conftest import WHO


def fields(struct: type[msgspec.Struct]) -> set[str]:
    return set(struct.__struct_fields__)


def test_a_fresh_machine_lists_the_tasks_that_come_along_and_makes_nothing(run, folder):
    ran = run("list")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "example\tenabled"
    assert "workflow.demo.greeting\tenabled" in ran.out.splitlines()
    assert not folder.exists()


def test_a_run_prints_its_id_and_leaves_the_rows_from_start_to_finish(run):
    ran = run("run", "example", *WHO)
    assert (ran.code, ran.err) == (0, "")
    name, _, run_id = ran.out.rstrip("\n").partition("\t")
    assert name == "run-id"
    rows = run("audit", "example", "--category", "stage", "--json").json["items"]
    assert (rows[0]["stage"], rows[-1]["stage"]) == ("start", "finish")
    assert {row["run_id"] for row in rows} == {run_id}


def test_run_async_and_trigger_say_the_same_in_their_own_words(run):
    assert run("run-async", "countdown", *WHO, "--args", '{"seconds": 0}').out.startswith("run-id\t")
    assert run("trigger", "countdown", *WHO, "--args", '{"seconds": 0}').out.startswith("run id: ")


def test_only_manual_tasks_are_triggered(run):
    ran = run("trigger", "example", *WHO)
    assert (ran.code, ran.out, ran.err) == (1, "", "error: 'example' is not a manual task\n")


def test_an_unknown_task_is_refused_and_audited(run):
    ran = run("run", "nope", *WHO)
    assert (ran.code, ran.err) == (1, "error: Unknown task: nope\n")
    rows = run("audit", "nope", "--category", "audit", "--json").json["items"]
    assert [(row["stage"], row["status"], row["reason"]) for row in rows] == [("run", "error", "Unknown task: nope")]


def test_a_failing_task_names_its_run_and_its_reason(run, plugins):
    ran = run("run", "boom", *WHO)
    assert ran.code == 1
    assert ran.err == "error: boom\n"
    run_id = ran.out.rstrip("\n").partition("\t")[2]
    shown = run("show", run_id)
    assert "boom (RuntimeError)" in shown.out
    rows = run("audit", "boom", "--category", "stage", "--json").json["items"]
    assert rows[-1]["stage"] == "error"


def test_a_failure_as_json_has_the_body_of_the_http_route(run, plugins):
    ran = run("run", "boom", *WHO, "--json")
    assert ran.code == 1
    assert ran.json["detail"] == "boom"
    assert ran.json["error"] == "run_failed"
    assert run("show", ran.json["run_id"]).code == 0
    assert run("run", "nope", *WHO, "--json").json["error"] == "unknown_task"


def test_an_empty_user_is_refused(run):
    ran = run("run", "example", "--user-id", "", "--group-id", "eng")
    assert (ran.code, ran.err) == (1, "error: user_id is required\n")


@pytest.mark.parametrize(
    ("command", "done", "refusal"),
    [("disable", "disabled", "Task 'example' is disabled"), ("pause", "paused", "Task 'example' is paused")],
)
def test_a_switch_refuses_runs_until_it_is_turned_back(run, command, done, refusal):
    assert run(command, "example", *WHO).out == f"example {done}\n"
    ran = run("run", "example", *WHO)
    assert (ran.code, ran.err) == (1, f"error: {refusal}\n")
    back = {"disable": "enable", "pause": "resume"}[command]
    assert run(back, "example", "--group-id", "eng").out == f"example {back}d\n"
    assert run("run", "example", *WHO).code == 0
    rows = run("audit", "example", "--category", "audit", "--json").json["items"]
    scheduler = [row for row in rows if row["stage"] == "scheduler"]
    assert [row["status"] for row in scheduler] == [done, f"{back}d"]
    assert scheduler[0]["user_hash"] is not None
    assert scheduler[1]["group_hash"] is not None


def test_the_list_shows_what_is_disabled(run):
    run("disable", "example", "--group-id", "eng")
    assert run("list").out.splitlines()[0] == "example\tdisabled"


def test_switching_an_unknown_task_fails(run):
    ran = run("disable", "nope", "--group-id", "eng")
    assert (ran.code, ran.err) == (1, "error: Unknown task: nope\n")


def test_an_idempotency_key_names_one_run(run):
    first = run("run", "example", *WHO, "--idempotency-key", "k", "--json").json
    again = run("run", "example", *WHO, "--idempotency-key", "k", "--json").json
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert first["run_id"] == again["run_id"]
    assert again["result"] == "example ran"


def test_what_a_task_prints_does_not_mix_with_the_answer(run, plugins):
    ran = run("run", "loud", *WHO, "--args", '{"a": 1}', "--json")
    assert ran.json["result"] == {"args": {"a": 1}}
    assert ran.err == "printed by the task\n"


def test_a_task_may_not_ask_for_the_folder_its_own_process_holds(run, plugins):
    ran = run("run", "inside", *WHO)
    assert ran.code == 1
    assert "this process already holds" in ran.err


def test_without_a_daemon_no_wait_still_carries_the_run_out(run, plugins):
    ran = run("run", "loud", *WHO, "--no-wait", "--json")
    assert ran.json["status"] == "accepted"
    assert run("show", ran.json["run_id"], "--json").json["status"] == "success"


def test_status_shows_all_tasks_and_one(run):
    run("run", "example", *WHO)
    text = run("status").out
    assert "not up" in text
    assert "success" in text
    one = run("status", "example").out
    assert "cron, sync" in one
    assert "RUN" in one
    ran = run("status", "nope")
    assert (ran.code, ran.err) == (1, "error: Unknown task: nope\n")


def test_a_task_that_never_ran_has_a_status_on_a_fresh_machine(run):
    assert run("status", "countdown", "--json").json["kind"] == "manual"


def test_json_has_the_shapes_of_the_verbs(run):
    done = run("run", "example", *WHO, "--json").json
    assert set(done) == fields(RunResult)
    assert {frozenset(row) for row in run("list", "--json").json} == {frozenset(fields(Listed))}
    status = run("status", "--json").json
    assert set(status) == fields(Status)
    assert set(status["tasks"][0]) == fields(TaskRow)
    assert set(run("status", "example", "--json").json) == fields(TaskView)
    assert set(run("disable", "example", "--group-id", "g", "--json").json) == fields(Switched)


def test_a_name_that_is_nearly_one_is_answered_with_it(run):
    ran = run("run", "exmaple", *WHO)
    assert (ran.code, ran.out.count("\n"), ran.err) == (1, 0, "error: Unknown task: exmaple\ndid you mean example?\n")
    assert run("unschedule", "exmaple").err == "error: Unknown schedule: exmaple\n"
    run("schedule", "example", "0 9 * * *")
    assert run("unschedule", "exmaple").err == "error: Unknown schedule: exmaple\ndid you mean example?\n"
    assert run("run", "exmaple", *WHO, "--json").err == "error: Unknown task: exmaple\n"
