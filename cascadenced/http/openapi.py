"""The OpenAPI 3.1 document of a table of routes: parameters and answers are the structs that the handlers use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from cascadenced import __version__
from cascadenced.http.auth import GROUP_HEADER, KEY_HEADER, USER_HEADER
from cascadenced.http.routes import Answered, Items, Route, Rows
from cascadenced.identity import MAX_ID_CHARS
from cascadenced.instance import Status
from cascadenced.projections.task_status import TaskRow
from cascadenced.refusals import ErrorBody

_JSON = "application/json"
_REF = "#/components/schemas/{name}"


def document(table: tuple[Route, ...]) -> bytes:
    """JSON."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Cascadence",
                "version": __version__,
                "description": (
                    "One instance and its event log. People appear by pseudonyms only. Routes with the headers "
                    "X-User-ID and X-Group-ID change something, or tell what those may see."
                ),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "security": [{}, {"token": []}],
            "paths": _paths(table),
            "components": {
                "schemas": _schemas(table),
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "The setting http_token, when there is one.",
                    }
                },
            },
        }
    )


def _paths(table: tuple[Route, ...]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return paths


def _operation(route: Route) -> dict[str, Any]:
    content = {media: {"schema": _schema(kind)} for media, kind in route.answers.items()}
    responses: dict[str, Any] = {"200": {"description": "OK", "content": content}} if content else {}
    for status, meaning in route.statuses.items():
        responses[str(status)] = {"description": meaning}
        if status >= 400:
            # Of a health check the refusal is an answer like any other.
            responses[str(status)]["content"] = content if status == 503 and not route.identified else _ERROR
        elif route.accepted is not None:
            responses[str(status)]["content"] = {_JSON: {"schema": _schema(route.accepted)}}
    responses["default"] = {"description": "Refused", "content": _ERROR}
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{route.name or 'overview'}",
        "summary": route.summary,
        "responses": responses,
    }
    parameters = [] if route.takes is None else list(_parameters(route.path, route.takes))
    if route.identified:
        parameters += _HEADERS if route.method == "POST" else _HEADERS[:2]
    if parameters:
        operation["parameters"] = parameters
    if route.method == "POST":
        body = {"type": "object"} if route.body is None else _schema(route.body)
        required = route.body is not None and any(field.required for field in msgspec.structs.fields(route.body))
        operation["requestBody"] = {"required": required, "content": {_JSON: {"schema": body}}}
    return operation


def _header(name: str, description: str, *, required: bool) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


_HEADERS = [
    _header(USER_HEADER, "who asks; a claim, kept by pseudonym only", required=True),
    _header(GROUP_HEADER, "the group they act for; a claim, kept by pseudonym only", required=True),
    _header(
        KEY_HEADER,
        "the caller's word for this request: the same word of the same user gives the first answer's run or effect, "
        "for ever; with other arguments 409",
        required=False,
    ),
]


def _parameters(path: str, takes: type[msgspec.Struct]) -> Iterator[dict[str, Any]]:
    in_path = set(re.findall(r"{(\w+)}", path))
    struct = msgspec.json.schema_components([takes])[1][takes.__name__]
    for name, schema in struct["properties"].items():
        # Without a value a parameter is left out; `null` cannot be spelled in a query.
        schema = schema["anyOf"][0] if "anyOf" in schema else schema
        if name in in_path:
            yield {"name": name, "in": "path", "required": True, "schema": schema}
        else:
            yield {"name": name, "in": "query", "schema": schema}


def _schema(kind: Answered) -> dict[str, Any]:
    match kind:
        case None:
            return {}
        case Rows(row=row):
            return {"type": "array", "items": {"$ref": _REF.format(name=row.__name__)}}
        case Items(row=row):
            return {
                "type": "object",
                "required": ["items", "next"],
                "properties": {
                    "items": {"type": "array", "items": {"$ref": _REF.format(name=row.__name__)}},
                    "next": {"type": ["string", "null"], "description": "hand it back as `after` for the next page"},
                    "stale_since": {
                        "type": ["string", "null"],
                        "description": "when the projection behind this stopped; null while it keeps up",
                    },
                },
            }
        case struct:
            return {"$ref": _REF.format(name=struct.__name__)}


_ERROR = {_JSON: {"schema": _schema(ErrorBody)}}


def _schemas(table: tuple[Route, ...]) -> dict[str, Any]:
    structs: dict[type[msgspec.Struct], None] = {ErrorBody: None, TaskRow: None}
    for route in table:
        for kind in (*route.answers.values(), route.accepted, route.body):
            if kind is not None:
                structs[kind.row if isinstance(kind, Items | Rows) else kind] = None
    _, schemas = msgspec.json.schema_components(structs, ref_template=_REF)
    # Kept encoded in the struct, so that msgspec cannot know what it holds.
    schemas[Status.__name__]["properties"]["tasks"] = {"type": "array", "items": _schema(TaskRow)}
    return schemas
