"""What everybody may ask, with GET: one table, which the application, the OpenAPI document and the tests read."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from cascadenced.errors import CascadenceError
from cascadenced.http import health
from cascadenced.http.face import FACE
from cascadenced.http.health import Health
from cascadenced.http.query import arguments
from cascadenced.http.replies import json_bytes, json_reply, text_reply
from cascadenced.http.stream import StreamArguments, stream
from cascadenced.instance import Instance, Status
from cascadenced.pipeline.explain import Explanation
from cascadenced.projections.answers import EventView, TaskView
from cascadenced.projections.dead_letters import DeadLetterRow
from cascadenced.projections.followups import FollowupRow
from cascadenced.projections.pointers import PointerRow
from cascadenced.projections.run_view import RunRow, RunView
from cascadenced.projections.schedule_view import ScheduleRow, TickRow
from cascadenced.refusals import answer
from cascadenced.verbs import VERBS, perform
from cascadenced.verbs.schedules import Preview

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Items(msgspec.Struct, frozen=True):
    """A page of rows of this kind."""

    row: type[msgspec.Struct]


class Rows(msgspec.Struct, frozen=True):
    """All rows of this kind, in an array."""

    row: type[msgspec.Struct]


Answered = type[msgspec.Struct] | Items | Rows | None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """takes: parameters in path and query.  answers: media type → the struct or rows in it, None for anything else.

    statuses: answers besides 200, with what they mean.  accepted: what a 202 has in it.  body: of the request, JSON;
    None: any object.  identified: whether the headers must say who asks.
    """

    path: str
    summary: str
    handle: Handler
    takes: type[msgspec.Struct] | None = None
    answers: Mapping[str, Answered]
    statuses: Mapping[int, str] = {}
    accepted: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    identified: bool = False
    method: Literal["GET", "POST"] = "GET"
    head: bool = True

    @property
    def name(self) -> str:
        """What the path is called in documents: `runs_run` for `/runs/{run}`."""
        return re.sub(r"\W+", "_", self.path).strip("_")


# ── arguments ────────────────────────────────────────────────────────────────────────────────────────────────

Limit = Annotated[int, Meta(ge=1, le=1000, description="rows of a page at most")]
Position = Annotated[str, Meta(pattern="^[0-9]{1,18}$", description="`next` of the page before")]
RunCursor = Annotated[str, Meta(pattern="^[0-9a-f]{32}$", description="`next` of the page before")]
TaskName = Annotated[str, Meta(description="a task's name")]
RunIdPrefix = Annotated[str, Meta(description="a run's id, or at least the first 8 characters of it")]


class TaskArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    task: TaskName


class RunArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    run: RunIdPrefix


class ListArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    limit: Limit = 100
    after: Position | None = None


class RunsArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    task: TaskName | None = None
    status: Annotated[str, Meta(description="how the runs stand")] | None = None
    limit: Limit = 100
    after: RunCursor | None = None


class RunEventsArguments(ListArguments, kw_only=True, forbid_unknown_fields=True):
    run: RunIdPrefix


class PreviewArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    task: TaskName
    start: Annotated[str, Meta(description="an instant, ISO 8601 with an offset; now if it is left out")] | None = None
    count: Annotated[int, Meta(ge=1, le=1000, description="how many instants")] = 10


class TicksArguments(ListArguments, kw_only=True, forbid_unknown_fields=True):
    task: TaskName


class PointersArguments(ListArguments, kw_only=True, forbid_unknown_fields=True):
    task: TaskName | None = None


class SchedulesArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    limit: Limit = 100
    after: TaskName | None = None


# ── handlers ─────────────────────────────────────────────────────────────────────────────────────────────────


def _instance(request: web.Request) -> Instance:
    return request.app[FACE].instance


def _listing(name: str, takes: type[msgspec.Struct]) -> Handler:
    """The rows that `Answers.<name>` gives for the arguments of the request."""

    async def handle(request: web.Request) -> web.Response:
        asked = msgspec.structs.asdict(arguments(request, takes))
        return json_reply(await getattr(_instance(request).answers, name)(**asked))

    return handle


async def _status(request: web.Request) -> web.Response:
    return json_reply(await _instance(request).status())


async def _task(request: web.Request) -> web.Response:
    async def asked() -> TaskView:
        name = arguments(request, TaskArguments).task
        return await instance.answers.task(name, instance.board.row(name))

    async def page(task: TaskView) -> str:
        from cascadenced.http.page import task_page

        schedule = await instance.answers.schedule(task.name, now_us=instance.clock.now_us())
        return task_page(task, schedule)

    instance = _instance(request)
    return await _for_people_too(request, asked, page)


async def _run(request: web.Request) -> web.Response:
    async def asked() -> RunView:
        return await _instance(request).answers.run(arguments(request, RunArguments).run)

    async def page(run: RunView) -> str:
        from cascadenced.http.page import run_page

        return run_page(run)

    return await _for_people_too(request, asked, page)


async def _for_people_too(
    request: web.Request, asked: Callable[[], Awaitable[T]], page: Callable[[T], Awaitable[str]]
) -> web.Response:
    """What was asked for as JSON, or as a page where HTML is wanted; then a refusal is a page too."""
    if not _wants_html(request):
        response = json_reply(await asked())
    else:
        try:
            response = _html(await page(await asked()))
        except CascadenceError as error:
            from cascadenced.http.page import refusal_page

            refused = answer(error)
            response = _html(refusal_page(refused.body.detail))
            response.set_status(refused.status)
    response.headers["Vary"] = "Accept"
    return response


async def _explain(request: web.Request) -> web.Response:
    asked = arguments(request, RunArguments)
    return json_reply(await perform(VERBS["explain"], _instance(request), {"run": asked.run}))


async def _preview(request: web.Request) -> web.Response:
    asked = msgspec.structs.asdict(arguments(request, PreviewArguments))
    return json_reply(await perform(VERBS["preview"], _instance(request), asked))


async def _run_events(request: web.Request) -> web.Response:
    asked = arguments(request, RunEventsArguments)
    page = await _instance(request).answers.run_events(asked.run, limit=asked.limit, after=asked.after)
    return json_reply(page)


async def _healthz(request: web.Request) -> web.Response:
    return _health(health.alive(_instance(request)))


async def _readyz(request: web.Request) -> web.Response:
    face = request.app[FACE]
    return _health(health.ready(face.instance, face.ready()))


def _health(found: Health) -> web.Response:
    return json_reply(found, 503 if found.status == "failing" else 200)


async def _metrics(request: web.Request) -> web.Response:
    content_type, body = request.app[FACE].metrics.text(request.headers.get("Accept", ""))
    return text_reply(body, content_type, Vary="Accept")


async def _openapi(request: web.Request) -> web.Response:
    from cascadenced.http.openapi import document

    return json_bytes(document(request.app[TABLE]))


async def _asyncapi(request: web.Request) -> web.Response:
    from cascadenced.http.asyncapi import document

    return json_bytes(document(_instance(request).config.ume_nats_subject))


async def _event_schema(_request: web.Request) -> web.Response:
    from cascadenced.events.schema import document

    return text_reply(document(), "application/schema+json")


async def _page(request: web.Request) -> web.Response:
    from cascadenced.http.page import overview

    return _html(await overview(_instance(request)))


def _html(text: str) -> web.Response:
    return text_reply(text.encode(), "text/html; charset=utf-8")


def _wants_html(request: web.Request) -> bool:
    """Whether a browser asks for something to look at; programs send `*/*` or name JSON."""
    return "text/html" in request.headers.get("Accept", "")


_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


def _static(name: str) -> Handler:
    """One file of ours. Only these names exist: no path is ever made of what was asked."""

    async def handle(_request: web.Request) -> web.Response:
        # An upgrade must not leave a browser with yesterday's script; on a local connection that costs nothing.
        return text_reply(_content(name), f"{_STATIC[name]}; charset=utf-8")

    return handle


@cache
def _content(name: str) -> bytes:
    return files("cascadenced.http").joinpath("static", name).read_bytes()


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────

_JSON = "application/json"


def _list_route(path: str, summary: str, name: str, takes: type[msgspec.Struct], row: type[msgspec.Struct]) -> Route:
    return Route(path=path, summary=summary, handle=_listing(name, takes), takes=takes, answers={_JSON: Items(row)})


READ: tuple[Route, ...] = (
    Route(path="/", summary="The overview, for people", handle=_page, answers={"text/html": None}),
    Route(path="/status", summary="The instance and its tasks", handle=_status, answers={_JSON: Status}),
    Route(
        path="/status/{task}",
        summary="A task and its newest runs; a page for people when HTML is asked for",
        handle=_task,
        takes=TaskArguments,
        answers={_JSON: TaskView, "text/html": None},
        statuses={404: "no such task"},
    ),
    _list_route("/runs", "Runs, newest first", "runs", RunsArguments, RunRow),
    Route(
        path="/runs/{run}",
        summary="A run in full; a page for people when HTML is asked for",
        handle=_run,
        takes=RunArguments,
        answers={_JSON: RunView, "text/html": None},
        statuses={404: "no such run"},
    ),
    Route(
        path="/runs/{run}/explain",
        summary="Why a run is as it is, and what can be done about it",
        handle=_explain,
        takes=RunArguments,
        answers={_JSON: Explanation},
        statuses={404: "no such run"},
    ),
    Route(
        path="/runs/{run}/events",
        summary="The events of a run, oldest first",
        handle=_run_events,
        takes=RunEventsArguments,
        answers={_JSON: Items(EventView)},
        statuses={404: "no such run"},
    ),
    Route(
        path="/events",
        summary="The log as server-sent events: each `data` is an event, each `id` its position",
        handle=stream,
        takes=StreamArguments,
        answers={"text/event-stream": EventView},
        statuses={409: "the position is beyond the end of this log", 429: "too many streams are open"},
        head=False,
    ),
    _list_route("/schedules", "Schedules that are set, by task", "schedules", SchedulesArguments, ScheduleRow),
    Route(
        path="/schedules/{task}/preview",
        summary="When a schedule is due next, and what changes of the clocks and excluded days do to it",
        handle=_preview,
        takes=PreviewArguments,
        answers={_JSON: Preview},
        statuses={404: "no such schedule", 409: "its calendar was not read yet"},
    ),
    Route(
        path="/schedules/{task}/ticks",
        summary="What became of its due instants, newest first",
        handle=_listing("ticks", TicksArguments),
        takes=TicksArguments,
        answers={_JSON: Items(TickRow)},
        statuses={404: "no such schedule"},
    ),
    _list_route("/pointers", "Pointers, oldest first", "pointers", PointersArguments, PointerRow),
    _list_route("/followups", "What was done about failed runs, newest first", "followups", ListArguments, FollowupRow),
    _list_route(
        "/dead-letters", "Messages that could not be read, newest first", "dead_letters", ListArguments, DeadLetterRow
    ),
    Route(
        path="/healthz",
        summary="Whether this process can do its work; needs no token",
        handle=_healthz,
        answers={_JSON: Health},
        statuses={503: "it cannot: nothing can be recorded"},
    ),
    Route(
        path="/readyz",
        summary="Whether work may be sent here",
        handle=_readyz,
        answers={_JSON: Health},
        statuses={503: "not now: it starts or stops, or NATS is away"},
    ),
    Route(path="/metrics", summary="Numbers for Prometheus", handle=_metrics, answers={"text/plain": None}),
    Route(path="/openapi.json", summary="This document", handle=_openapi, answers={_JSON: None}),
    Route(path="/asyncapi.json", summary="The subjects on NATS", handle=_asyncapi, answers={_JSON: None}),
    Route(
        path="/events.schema.json",
        summary="JSON Schema of the log's events, as `log export` writes them; `data` is the same everywhere",
        handle=_event_schema,
        answers={"application/schema+json": None},
    ),
    *(
        Route(path=f"/static/{name}", summary="A part of the pages", handle=_static(name), answers={kind: None})
        for name, kind in _STATIC.items()
    ),
)

TABLE: web.AppKey[tuple[Route, ...]] = web.AppKey("table", tuple)
