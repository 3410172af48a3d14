"""The OpenAPI and AsyncAPI documents."""

from __future__ import annotations

import re
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from jsonschema import Draft202012Validator

from cascadenced.events.subjects import INBOUND
from cascadenced.http.app import PUBLIC
from cascadenced.http.control import CONTROL
from cascadenced.verbs import VERBS
from tests.http.conftest import Get, World

Client = TestClient[Any, Any]


def _references(document: Any) -> set[str]:
    if isinstance(document, dict):
        found = {value for key, value in document.items() if key == "$ref"}
        return found.union(*(_references(value) for value in document.values()))
    return set().union(*map(_references, document)) if isinstance(document, list) else set()


def _resolves(document: Any, reference: str) -> bool:
    node = document
    for part in reference.removeprefix("#/").split("/"):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json"])
async def test_everything_that_is_referred_to_is_there(get: Get, path: str):
    document = await get(path)
    references = _references(document)
    assert references
    assert [reference for reference in references if not _resolves(document, reference)] == []


async def test_every_route_of_the_application_is_described(public: Client, get: Get):
    document = await get("/openapi.json")
    assert public.app is not None
    routed = {(r.resource.canonical, r.method) for r in public.app.router.routes() if r.resource and r.method != "HEAD"}
    described = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert described == routed == {(route.path, route.method) for route in PUBLIC}


async def test_the_sockets_document_has_its_routes(owner: Client):
    async with owner.get("/openapi.json") as response:
        document = await response.json()
    assert {"/rpc/{verb}", "/stop"} <= set(document["paths"])
    assert "202" in document["paths"]["/stop"]["post"]["responses"]


async def test_openapi_is_valid(get: Get, owner: Client):
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(await get("/openapi.json"))
    async with owner.get("/openapi.json") as response:
        validator.validate(await response.json())


async def test_path_parameters_and_operations_are_named_once(get: Get):
    document = await get("/openapi.json")
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    for path, item in document["paths"].items():
        for operation in item.values():
            parameters = operation.get("parameters", [])
            in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            names = [(parameter["in"], parameter["name"]) for parameter in parameters]
            assert len(names) == len(set(names))
    limit = next(p for p in document["paths"]["/runs"]["get"]["parameters"] if p["name"] == "limit")
    assert limit["schema"]["maximum"] == 1000


async def test_who_asks_is_described_once_for_each_control_route_and_nowhere_else(get: Get):
    document = await get("/openapi.json")
    control = {(route.path, route.method.lower()) for route in CONTROL}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            headers = {p["name"]: p["required"] for p in operation.get("parameters", []) if p["in"] == "header"}
            expected = {"X-User-ID": True, "X-Group-ID": True} if (path, method) in control else {}
            if expected and method == "post":
                expected["Idempotency-Key"] = False
            assert headers == expected, (path, method)


async def test_bodies_and_202s_are_described(get: Get):
    document = await get("/openapi.json")
    run = document["paths"]["/tasks/{name}/run"]["post"]
    assert run["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/RunBody"}
    assert not run["requestBody"]["required"]
    accepted = run["responses"]["202"]["content"]["application/json"]["schema"]
    assert accepted == {"$ref": "#/components/schemas/Started"}
    signal = document["paths"]["/runs/{run}/signal"]["post"]
    assert signal["requestBody"]["required"]
    assert set(document["components"]["schemas"]["SignalBody"]["properties"]["value"]["properties"]) == {"note", "url"}


async def test_answers_have_the_fields_that_are_described(world: World, get: Get):
    run_id = await world.run()
    document = await get("/openapi.json")
    schemas = document["components"]["schemas"]
    for path, name in (("/status", "Status"), ("/status/example", "TaskView"), (f"/runs/{run_id}", "RunView")):
        assert set(await get(path)) == set(schemas[name]["properties"])
    assert set((await get("/status"))["tasks"][0]) == set(schemas["TaskRow"]["properties"])


async def test_asyncapi_names_every_family_and_verb(get: Get):
    document = await get("/asyncapi.json")
    assert document["asyncapi"] == "3.0.0"
    addresses = {channel["address"] for channel in document["channels"].values()}
    for family in INBOUND:
        assert any(address.startswith(f"ume.{family}") for address in addresses)
    assert {f"ume.rpc.{verb}" for verb in VERBS} <= addresses
    assert {"ume.stage.{task}.{stage}", "ume.audit.{task}.{stage}", "ume.dead.{reason}"} <= addresses
    for channel in document["channels"].values():
        assert set(channel.get("parameters", {})) == set(re.findall(r"{(\w+)}", channel["address"]))
    task_run = document["channels"]["task_run"]["messages"]
    assert task_run["receive"]["payload"] == {"$ref": "#/components/schemas/ReceivedTaskRunBody"}
    assert task_run["send"]["payload"] == {"$ref": "#/components/schemas/TaskRunBody"}


async def test_the_schema_of_the_events_is_served_and_fits_what_is_told_of_them(world: World, public: Client, get: Get):
    run_id = await world.run()
    async with public.get("/events.schema.json") as response:
        assert response.content_type == "application/schema+json"
        schema = await response.json()
    for event in (await get(f"/runs/{run_id}/events"))["items"]:
        name = next(
            name for name, data in schema["$defs"].items() if data["properties"]["type"] == {"enum": [event["type"]]}
        )
        Draft202012Validator({**schema["$defs"][name], "$defs": schema["$defs"]}).validate(event["data"])
