"""The AsyncAPI 3.0 document: the subjects on NATS, from our side. `receive` is what others publish to us."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from cascadenced import __version__
from cascadenced.events import bodies, outbound, received
from cascadenced.verbs import VERBS

_PARAMETERS = {
    "task": "a task's name",
    "event": "an event's name; its dots stay dots",
    "stage": "intake, research, plan, precheck, run or verify; in audit rows `execute` for run",
    "reason": "why the message could not be read, one word",
}


class _Family(msgspec.Struct, frozen=True):
    """A family of subjects. published, received: the struct of the body, and what it says."""

    names: tuple[str, ...]
    received: tuple[type[msgspec.Struct], str] | None = None
    published: tuple[type[msgspec.Struct], str] | None = None


_FAMILIES: Mapping[str, _Family] = {
    "event": _Family(
        ("event",),
        (received.ReceivedEventBody, "dispatch an event to the workflow registered for it"),
        (bodies.DispatchedBody, "a workflow emitted an event"),
    ),
    "run.request": _Family(("task",), (received.ReceivedRunBody, "run a task")),
    "pointer": _Family(
        ("task",),
        (received.ReceivedPointerBody, "store a pointer"),
        (bodies.PointerUpdateBody, "a pointer was added"),
    ),
    "schedule": _Family(
        ("task",),
        (received.ReceivedScheduleBody, "set a schedule, or remove it with a null `expr`"),
        (bodies.ScheduleBody, "a schedule was set or removed"),
    ),
    "task_run": _Family(
        ("task",),
        (received.ReceivedTaskRunBody, "say how a run of another system went"),
        (bodies.TaskRunBody, "a run ended"),
    ),
    "idea": _Family((), (received.ReceivedIdeaBody, "keep an idea")),
    "note": _Family((), (received.ReceivedNoteBody, "keep a note")),
    "stage": _Family(("task", "stage"), None, (bodies.StageUpdateBody, "a run passed a stage")),
    "audit": _Family(("task", "stage"), None, (bodies.AuditEventBody, "one row of the audit trail")),
    "task_spec": _Family(("task",), None, (bodies.RegisteredBody, "a task was registered")),
    "followup": _Family(("task",), None, (bodies.FollowupBody, "a task is asked to look at a failed run")),
    "dead": _Family(("reason",), None, (bodies.DeadLetterBody, "a message could not be read")),
}


@cache
def document(prefix: str) -> bytes:
    """JSON. prefix: of all subjects."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for name, family in _FAMILIES.items():
        key = name.replace(".", "_")
        channels[key] = _channel(".".join([prefix, name, *(f"{{{part}}}" for part in family.names)]), family.names)
        for action, body in (("receive", family.received), ("send", family.published)):
            if body is not None:
                _add(channels, operations, key, action, body[1], _ref(body[0].__name__))
    for name, verb in VERBS.items():
        key = f"rpc_{name}"
        channels[key] = _channel(f"{prefix}.rpc.{name}", ())
        _add(channels, operations, key, "receive", f"request and reply: {verb.help}", _ref(verb.takes.__name__))
    return msgspec.json.encode(
        {
            "asyncapi": "3.0.0",
            "info": {
                "title": "Cascadence",
                "version": __version__,
                "description": (
                    "Message ids are `Nats-Msg-Id` or `ce-id`. Requests are core NATS, everything else is JetStream. "
                    "Replies to `rpc` are JSON; the headers Nats-Service-Error and -Error-Code say what was refused."
                ),
            },
            "defaultContentType": "application/json",
            "channels": channels,
            "operations": operations,
            "components": {"schemas": _schemas()},
        }
    )


def _channel(address: str, names: tuple[str, ...]) -> dict[str, Any]:
    channel: dict[str, Any] = {"address": address, "messages": {}}
    if names:
        channel["parameters"] = {name: {"description": _PARAMETERS[name]} for name in names}
    return channel


def _add(
    channels: dict[str, Any], operations: dict[str, Any], key: str, action: str, summary: str, payload: dict[str, Any]
) -> None:
    message = {"name": f"{key}_{action}", "payload": payload}
    if action == "send":
        message["headers"] = _HEADERS
    channels[key]["messages"][action] = message
    operations[f"{action}_{key}"] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{key}"},
        "messages": [{"$ref": f"#/channels/{key}/messages/{action}"}],
        "summary": summary,
    }


_HEADERS = {
    "type": "object",
    "properties": {
        name: {"type": "string"}
        for name in (
            *("Nats-Msg-Id", "ce-id", "ce-specversion", "ce-type", "ce-source", "ce-time", "content-type"),
            *("Cascadence-Origin", "traceparent"),
        )
    }
    | {
        outbound.POSITION_HEADER: {
            "type": "string",
            "pattern": "^[1-9][0-9]*$",
            "description": "position of the event in its origin's log: the order, whenever a message arrives",
        },
        outbound.REPUBLISHED_HEADER: {
            "type": "string",
            "description": "there when the broker lost the message and its origin published it again",
        },
    },
}


def _schemas() -> dict[str, Any]:
    bodies = [body[0] for family in _FAMILIES.values() for body in (family.received, family.published) if body]
    structs = dict.fromkeys([*bodies, *(verb.takes for verb in VERBS.values())])
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    return schemas


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
