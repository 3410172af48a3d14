"""What is published about each event, byte for byte as the contract says."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.events import inbound
from cascadenced.events.base import Event
from cascadenced.events.bodies import SCHEMA_VERSION
from cascadenced.events.catalogue import TYPE_NAMES
from cascadenced.events.dead_letter import MessageDeadLettered
from cascadenced.events.followup import FollowupRequested
from cascadenced.events.outbound import canonical_event_type, messages, place
from cascadenced.events.outgoing import Outgoing
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunFailed, RunFinished, RunRefused, RunRequested
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.task import TaskDisabled, TaskRegistered, TaskResumed
from cascadenced.events.workflow import EventDispatched
from tests.examples import (
    AT,
    AT_US,
    EVENT_ID,
    GROUP_HASH,
    OTHER_RUN_ID,
    RUN_ID,
    STAGES,
    USER_HASH,
    every_event,
    example,
    recorded,
    run_of,
)


def published(event: Event, *, broadcast_pointers: bool = False, **header: Any) -> list[Outgoing]:
    return messages(recorded(event, **header), "ume", broadcast_pointers=broadcast_pointers)


def the_message(event: Event, family: str, **header: Any) -> dict[str, Any]:
    """The only message of `family` about `event`, read from JSON."""
    (message,) = [m for m in published(event, **header) if m.subject.split(".")[1] == family]
    return json.loads(message.body)


def families(events: list[Event]) -> Counter[str]:
    return Counter(message.subject.split(".")[1] for event in events for message in published(event))


EVERYTHING = [pytest.param(event, id=TYPE_NAMES[type(event)]) for event in every_event()]


# ---- how much is published


@pytest.mark.parametrize("hooks", [("run",), ("precheck", "run"), ("intake", "run", "verify"), STAGES])
def test_a_run_publishes_one_update_and_two_audits_per_hook_and_one_task_run(hooks: tuple[str, ...]):
    n = len(hooks)
    assert families(run_of(*hooks)) == {"stage": n, "audit": 2 * n, "task_run": 1}


def test_a_run_from_the_command_line_publishes_no_more_than_another():
    assert families(run_of("run", via="cli")) == families(run_of("run", via="bus"))


def test_a_failing_precheck_publishes_its_stage_four_audits_and_the_task_run():
    assert families(run_of("precheck", "run", fails="precheck")) == {"stage": 1, "audit": 4, "task_run": 1}


def test_a_failing_run_publishes_no_update_of_the_run_stage():
    assert families(run_of("run", fails="run")) == {"audit": 2, "task_run": 1}


def test_stages_without_a_hook_are_not_published():
    subjects = {message.subject for event in run_of("plan", "run") for message in published(event)}
    assert subjects == {
        "ume.stage.example.plan",
        "ume.stage.example.run",
        "ume.audit.example.plan",
        "ume.audit.example.execute",
        "ume.task_run.example",
    }


def test_a_request_alone_publishes_nothing():
    assert published(example(RunRequested, via="cli")) == []


def test_a_refused_run_publishes_its_audit_and_its_task_run():
    assert families([example(RunRefused)]) == {"audit": 1, "task_run": 1}


def test_an_event_dispatched_by_a_workflow_is_published():
    assert [m.subject for m in published(example(EventDispatched, via="workflow"))] == [
        "ume.event.calendar.event.created"
    ]


@pytest.mark.parametrize("via", ["bus", "cli", "http", "python"])
def test_an_event_dispatched_by_others_is_not_published_again(via: str):
    assert published(example(EventDispatched, via=via)) == []


def test_a_pointer_from_the_bus_is_not_published_again():
    assert "pointer" not in families([example(PointerAdded, via="bus")])


def test_a_pointer_from_the_bus_is_published_again_when_asked():
    subjects = [m.subject for m in published(example(PointerAdded, via="bus"), broadcast_pointers=True)]
    assert subjects.count("ume.pointer.example") == 1


@pytest.mark.parametrize("via", ["cli", "http", "python"])
def test_a_pointer_added_here_is_published(via: str):
    assert families([example(PointerAdded, via=via)]) == {"pointer": 1}


def test_events_of_our_own_household_are_not_published():
    household = (
        "daemon.",
        "requests.",
        "message.redriven",
        "idea.",
        "note.",
        "run.reported",
        "run.started",
        "run.held",
    )
    for event in every_event():
        if TYPE_NAMES[type(event)].startswith(household):
            assert published(event) == []


# ---- bodies


@pytest.mark.parametrize("event", EVERYTHING)
def test_every_body_starts_with_its_schema_version_and_event_type(event: Event):
    for message in published(event, broadcast_pointers=True):
        body = json.loads(message.body)
        assert list(body)[:2] == ["schema_version", "event_type"]
        assert body["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize("event", EVERYTHING)
def test_no_body_names_a_user_or_group(event: Event):
    for message in published(event, broadcast_pointers=True):
        body = json.loads(message.body)
        assert (body["user_id"], body["group_id"]) == (None, None)
        assert (body["user_hash"], body["group_hash"]) == (USER_HASH, GROUP_HASH)


@pytest.mark.parametrize("event", EVERYTHING)
def test_every_body_has_run_event_and_time(event: Event):
    for message in published(event, broadcast_pointers=True):
        body = json.loads(message.body)
        assert (body["event_id"], body["time"]) == (EVENT_ID, AT)
        assert "run_id" in body


def test_a_stage_update_names_task_and_stage():
    assert the_message(example(StageFinished, stage="plan"), "stage") == {
        "schema_version": SCHEMA_VERSION,
        "event_type": "TASK.STAGE.UPDATED",
        "user_hash": USER_HASH,
        "user_id": None,
        "group_id": None,
        "group_hash": GROUP_HASH,
        "run_id": RUN_ID,
        "event_id": EVENT_ID,
        "time": AT,
        "task_name": "example",
        "stage": "plan",
    }


def test_an_audit_event_has_reason_output_and_partial():
    body = the_message(example(StageFailed, stage="run", reason="boom", partial=[1, 2]), "audit")
    assert body["event_type"] == "TASK.STAGE.ERROR"
    assert {key: body[key] for key in ("task_name", "stage", "status", "reason", "output", "partial")} == {
        "task_name": "example",
        "stage": "execute",
        "status": "error",
        "reason": "boom",
        "output": "[1, 2]",
        "partial": [1, 2],
    }


@pytest.mark.parametrize(
    ("event", "status", "started_at"),
    [
        (example(RunFinished, took_s=1.5), "success", "2026-09-21T14:13:18.623456Z"),
        (example(RunFailed, took_s=1.5), "error", "2026-09-21T14:13:18.623456Z"),
        (example(RunRefused), "refused", None),
    ],
    ids=["finished", "failed", "refused"],
)
def test_a_task_run_has_status_and_instants(event: Event, status: str, started_at: str | None):
    body = the_message(event, "task_run")
    assert (body["status"], body["started_at"], body["finished_at"]) == (status, started_at, AT)


def test_a_task_run_holds_a_whole_task_spec():
    spec = the_message(example(RunFinished), "task_run")["spec"]
    assert list(spec)[:2] == ["schema_version", "event_type"]
    assert (spec["event_type"], spec["id"], spec["name"]) == ("UNKNOWN", "example", "example")


@pytest.mark.parametrize("kind", [RunFinished, TaskRegistered, ScheduleSet, FollowupRequested, MessageDeadLettered])
def test_bodies_without_a_stage_have_the_type_unknown(kind: type[Event]):
    assert json.loads(published(example(kind))[-1].body)["event_type"] == "UNKNOWN"


def test_a_task_spec_is_published_at_registration():
    body = the_message(example(TaskRegistered), "task_spec", run_id=None)
    assert (body["id"], body["name"], body["description"]) == ("example", "example", "Adds numbers.")


def test_a_pointers_run_is_the_one_it_points_to():
    assert the_message(example(PointerAdded, run_id="any-run"), "pointer")["run_id"] == "any-run"


def test_a_removed_schedule_has_neither_expression_nor_calendar_event():
    body = the_message(example(ScheduleRemoved), "schedule")
    assert (body["expr"], body["calendar_event"]) == (None, None)


def test_a_followups_run_is_the_followups():
    body = the_message(example(FollowupRequested), "followup")
    assert (body["run_id"], body["failed_run_id"], body["depth"]) == (OTHER_RUN_ID, RUN_ID, 1)


def test_a_dead_letter_is_published_without_its_content():
    body = the_message(example(MessageDeadLettered), "dead")
    assert (body["reason"], body["n_bytes"], body["digest"]) == ("undecodable", 3, "ef" * 32)
    assert "detail" not in body


def test_a_raw_user_id_appears_only_when_the_deployment_reveals_it():
    (message,) = messages(
        recorded(example(StageStarted, stage="plan", skipped=())),
        "ume",
        broadcast_pointers=False,
        reveal={USER_HASH: "alice"}.get,
    )
    body = json.loads(message.body)
    assert (body["user_id"], body["group_id"]) == ("alice", None)


# ---- subjects


@pytest.mark.parametrize(
    ("event", "subject"),
    [
        (example(StageFinished, stage="plan"), "ume.stage.example.plan"),
        (example(RunFinished), "ume.task_run.example"),
        (example(TaskRegistered), "ume.task_spec.example"),
        (example(PointerAdded), "ume.pointer.example"),
        (example(ScheduleSet), "ume.schedule.example"),
        (example(FollowupRequested), "ume.followup.capability_follow_up"),
        (example(EventDispatched), "ume.event.calendar.event.created"),
        (example(MessageDeadLettered), "ume.dead.undecodable"),
        (example(TaskDisabled), "ume.audit.example.scheduler"),
    ],
    ids=lambda value: TYPE_NAMES[type(value)] if isinstance(value, Event) else "",
)
def test_each_family_has_its_subject(event: Event, subject: str):
    assert subject in [message.subject for message in published(event)]


def test_a_workflows_task_is_one_token_of_the_subject():
    subjects = [m.subject for m in published(example(StageFinished, task="workflow.calendar.event", stage="run"))]
    assert subjects == ["ume.stage.workflow%2Ecalendar%2Eevent.run", "ume.audit.workflow%2Ecalendar%2Eevent.execute"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_no_name_of_a_task_breaks_a_subject(name: str):
    for event in run_of(*STAGES, task=name):
        for message in published(event):
            tokens = message.subject.split(".")
            assert len(tokens) == (3 if tokens[1] == "task_run" else 4)
            assert all(token and token.isascii() and not set(token) & set("*> \t\r\n") for token in tokens)


def test_the_prefix_is_the_deployments():
    _, message = messages(recorded(example(ScheduleSet)), "team.ume", broadcast_pointers=False)
    assert message.subject == "team.ume.schedule.example"


# ---- headers


def test_headers_are_cloud_events_and_say_where_from():
    _, message = published(example(ScheduleSet))
    assert message.headers == {
        "Nats-Msg-Id": f"{EVENT_ID}.schedule",
        "ce-id": f"{EVENT_ID}.schedule",
        "ce-specversion": "1.0",
        "ce-type": "cascadence.schedule",
        "ce-source": "/cascadence/instance-1",
        "ce-time": AT,
        "content-type": "application/json",
        "Cascadence-Origin": "instance-1",
        "Cascadence-Position": "1",
    }


def test_a_trace_is_passed_on():
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    _, message = published(example(ScheduleSet), traceparent=traceparent)
    assert message.headers["traceparent"] == traceparent


@pytest.mark.parametrize(
    "event",
    [
        *EVERYTHING,
        example(StageStarted, stage="precheck", skipped=("intake", "research", "plan")),
        example(StageStarted, stage="precheck", attempt=2),
        example(StageFailed, stage="precheck"),
        example(RunFailed, stage=None, via="cli"),
        example(RunFailed, stage="precheck", error_type="crash_loop", via="cli"),
    ],
)
def test_message_ids_are_unique_among_all_that_an_event_publishes(event: Event):
    ids = [message.headers["Nats-Msg-Id"] for message in published(event, broadcast_pointers=True)]
    places = [place(message_id) for message_id in ids]
    assert len(places) == len(set(places))
    assert all(0 <= where < 8 for where in places)
    assert len(set(ids)) == len(ids)
    assert all(message_id.startswith(f"{EVENT_ID}.") for message_id in ids)


def test_publishing_again_publishes_the_same():
    for event in every_event():
        assert published(event) == published(event)


# ---- the public type of a stage or audit row


@pytest.mark.parametrize(
    ("stage", "status", "event_type"),
    [
        ("context_attached", None, "CONTEXT.ATTACHED"),
        ("context_attached", "error", "CONTEXT.ATTACHED"),
        ("anything", "received", "CONTEXT.ATTACHED"),
        ("start", "received", "CONTEXT.ATTACHED"),
        ("start", None, "TASK.STAGE.STARTED"),
        ("started", None, "TASK.STAGE.STARTED"),
        ("plan", "start", "TASK.STAGE.STARTED"),
        ("plan", "started", "TASK.STAGE.STARTED"),
        ("start", "error", "TASK.STAGE.STARTED"),
        ("finish", None, "TASK.STAGE.SUCCESS"),
        ("finished", None, "TASK.STAGE.SUCCESS"),
        ("completed", None, "TASK.STAGE.SUCCESS"),
        ("resumed", None, "TASK.STAGE.SUCCESS"),
        ("plan", "success", "TASK.STAGE.SUCCESS"),
        ("plan", "finish", "TASK.STAGE.SUCCESS"),
        ("plan", "finished", "TASK.STAGE.SUCCESS"),
        ("plan", "completed", "TASK.STAGE.SUCCESS"),
        ("error", "success", "TASK.STAGE.SUCCESS"),
        ("paused", "success", "TASK.STAGE.SUCCESS"),
        ("error", None, "TASK.STAGE.ERROR"),
        ("failure", None, "TASK.STAGE.ERROR"),
        ("failed", None, "TASK.STAGE.ERROR"),
        ("plan", "error", "TASK.STAGE.ERROR"),
        ("plan", "failure", "TASK.STAGE.ERROR"),
        ("plan", "failed", "TASK.STAGE.ERROR"),
        ("skipped", None, "TASK.STAGE.SKIPPED"),
        ("research", "skipped", "TASK.STAGE.SKIPPED"),
        ("plan", None, "TASK.STAGE.UPDATED"),
        ("paused", None, "TASK.STAGE.UPDATED"),
        ("disabled", None, "TASK.STAGE.UPDATED"),
        ("unschedule", None, "TASK.STAGE.UPDATED"),
        ("created", None, "TASK.STAGE.UPDATED"),
        ("plan", "consumed", "TASK.STAGE.UPDATED"),
        ("tasks", "list", "TASK.STAGE.UPDATED"),
        ("scheduler", "resumed", "TASK.STAGE.UPDATED"),
        ("  START ", "", "TASK.STAGE.STARTED"),
        ("Plan", " Success\n", "TASK.STAGE.SUCCESS"),
        ("", None, "TASK.STAGE.UPDATED"),
    ],
)
def test_the_public_type_of_a_row(stage: str, status: str | None, event_type: str):
    assert canonical_event_type(stage, status) == event_type


def test_a_resumed_task_is_only_an_update():
    assert the_message(example(TaskResumed), "audit")["event_type"] == "TASK.STAGE.UPDATED"


# ---- what one instance publishes another can read


@pytest.mark.parametrize(
    "event",
    [
        example(PointerAdded, task="workflow.calendar.event"),
        example(ScheduleSet),
        example(ScheduleSet, expr=None, calendar_event={"node": "n1", "poll": 60}),
        example(ScheduleRemoved),
        example(RunFinished, task="workflow.calendar.event"),
        example(RunFailed),
        example(RunRefused),
    ],
    ids=lambda event: TYPE_NAMES[type(event)],
)
def test_another_instance_can_read_it(event: Event):
    message = published(event)[-1]
    assert inbound.decode("ume", message.subject, message.body).task == event.task


def test_another_instance_reads_the_same_instants():
    message = published(example(RunFinished, took_s=2.0), at_us=AT_US)[-1]
    report = inbound.decode("ume", message.subject, message.body)
    assert (report.started_at, report.finished_at) == ("2026-09-21T14:13:18.123456Z", AT)
