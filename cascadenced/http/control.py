"""What can be asked by who says their name: running tasks, controlling tasks and runs, dispatching events.

Each route is a verb (`verbs/`) in the words of REST. Who asks is looked at first, then path and query, then the body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from cascadenced.errors import BadMessage, CascadenceError, Conflict, IllShaped, Invalid, Unknown
from cascadenced.events.base import Json
from cascadenced.events.strict import scan, shaped
from cascadenced.handlers.control_requests import not_running
from cascadenced.http.auth import identity_of, key_of
from cascadenced.http.body import body_of
from cascadenced.http.face import FACE
from cascadenced.http.query import arguments
from cascadenced.http.replies import json_reply
from cascadenced.http.routes import Answered, Route, Rows, RunIdPrefix, TaskName
from cascadenced.http.work import performed
from cascadenced.identity import Identity
from cascadenced.pipeline.contexts import MAX_TEXT_CHARS, checked_kind, checked_message
from cascadenced.refusals import is_only_counted
from cascadenced.verbs import VERBS, is_duplicate, perform
from cascadenced.verbs.runs import RunControlled
from cascadenced.verbs.tasks import Listed

Shape = TypeVar("Shape", bound=msgspec.Struct)

# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────

Wait = Annotated[bool, Meta(description="false: answer 202 when it is recorded, not 200 when it has ended")]


class Unasked(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Nothing."""


class NamedTask(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: TaskName


class TaskToRun(NamedTask, kw_only=True, forbid_unknown_fields=True):
    wait: Wait = True
    temporal: Annotated[bool, Meta(description="only false: there is no Temporal server")] = False


class TaskToPause(NamedTask, kw_only=True, forbid_unknown_fields=True):
    job_id: (
        Annotated[
            str,
            Meta(
                description="a run of the task; without it the newest run under way is meant, and where there is none "
                "the task itself"
            ),
        ]
        | None
    ) = None


class NamedJob(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    job_id: RunIdPrefix


class NamedRun(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    run: RunIdPrefix


class NamedEvent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(description="an event's name, such as calendar.event.create_request")]
    wait: Wait = True


class NoBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Nothing, or an empty object."""


class RunBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """args: what the task finds in `self.args`."""

    args: dict[str, Json] = {}


class DispatchBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """payload: what the workflow is given."""

    payload: dict[str, Json] = {}


_TEXT = {"type": ["string", "null"], "maxLength": MAX_TEXT_CHARS}
_MESSAGE = {
    "type": "object",
    "description": "one of both at least",
    "properties": {"note": _TEXT, "url": _TEXT},
    "additionalProperties": False,
}


class SignalBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the run is told. kind: `context`."""

    kind: str
    value: Annotated[Json, Meta(extra_json_schema=_MESSAGE)]


class CancelBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """reason: for the audit trail; 500 characters of it are kept."""

    reason: str = ""


class ResolveBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What became of the effect in doubt. output: what it returned, with `done`."""

    resolution: Literal["retry", "done", "fail"]
    output: Json = None


# ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────


class Started(msgspec.Struct, omit_defaults=True):
    """duplicate: whether the same was asked before, as in all of these."""

    run_id: str
    duplicate: bool = False


class Ran(msgspec.Struct):
    """result: what the run returned."""

    run_id: str
    result: Json
    duplicate: bool | msgspec.UnsetType = msgspec.UNSET


class Dispatched(msgspec.Struct, omit_defaults=True):
    """run_id: the run of the workflow that answers; null with the status `unhandled`: nobody listens."""

    event: str
    status: str
    run_id: str | None
    result: Json = None
    duplicate: bool = False


class Moved(msgspec.Struct, omit_defaults=True):
    """status: paused, resumed, disabled or enabled.  run_id: the run that was meant, not there if it was the task."""

    status: str
    run_id: str | None = None
    duplicate: bool = False


class Told(msgspec.Struct, omit_defaults=True):
    """delivered: whether no stage was under way, so that the next one is told. Else the one after it is."""

    status: Literal["delivered", "accepted"]
    delivered: bool
    duplicate: bool = False


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Asked(msgspec.Struct):
    """A request whose form is right. query: path and query.  key: the caller's word for it."""

    request: web.Request
    who: Identity
    key: str | None
    query: Any
    body: Any

    async def do(self, verb: str, **more: Json) -> Any:
        """The result of a verb for who asks."""
        face = self.request.app[FACE]
        wish = {"user_id": self.who.user_id, "group_id": self.who.group_id, **more}
        if self.key is not None:
            wish["idempotency_key"] = self.key
        result = await performed(self.request, perform(VERBS[verb], face.instance, wish, via="http"))
        if is_duplicate(result):
            face.instance.refusals.count("duplicate", f"http.{verb}")
        return result


Do = Callable[[Asked], Awaitable[web.Response]]


def _asking(verb: str, do: Do, takes: type[msgspec.Struct], body: type[msgspec.Struct]) -> Callable[..., Any]:
    """The handler that brings a request for `verb` into form. Refusals that no event tells of are counted."""

    async def handle(request: web.Request) -> web.Response:
        try:
            who, key = identity_of(request), key_of(request)
            query = _shaped_query(request, takes)
            return await do(Asked(request, who, key, query, _shaped_body(await body_of(request), body)))
        except CascadenceError as error:
            if is_only_counted(error):
                request.app[FACE].instance.refusals.count(error.code, f"http.{verb}")
            raise

    return handle


def _shaped_query(request: web.Request, takes: type[Shape]) -> Shape:
    try:
        return arguments(request, takes)
    except Invalid as error:
        raise IllShaped(str(error)) from None


def _shaped_body(body: bytes, takes: type[Shape]) -> Shape:
    try:
        value = scan(body) if body.strip() else {}
    except BadMessage as error:
        raise Invalid(str(error), code=error.code) from None
    try:
        return shaped(value, takes)
    except BadMessage as error:
        raise IllShaped(str(error)) from None


# ── tasks and events ─────────────────────────────────────────────────────────────────────────────────────────────


async def _tasks(asked: Asked) -> web.Response:
    listed = await performed(asked.request, perform(VERBS["list"], asked.request.app[FACE].instance, {}, via="http"))
    return json_reply(listed)


async def _run(asked: Asked) -> web.Response:
    if asked.query.temporal:
        raise Invalid("Temporal backend not configured")
    wait = asked.query.wait
    done = await asked.do("run", task=asked.query.name, args=asked.body.args, wait=wait)
    if not wait:
        return _accepted(Started(done.run_id, done.duplicate), done.run_id)
    return json_reply(Ran(done.run_id, done.result, done.duplicate or msgspec.UNSET))


async def _dispatch(asked: Asked) -> web.Response:
    wait = asked.query.wait
    done = await asked.do("dispatch", event=asked.query.name, payload=asked.body.payload, wait=wait)
    reply = Dispatched(done.event, done.status, done.run_id, done.result, done.duplicate)
    return json_reply(reply) if wait or done.run_id is None else _accepted(reply, done.run_id)


def _accepted(reply: msgspec.Struct, run_id: str) -> web.Response:
    response = json_reply(reply, 202)
    response.headers["Location"] = f"/runs/{run_id}"
    return response


def _switch(verb: str, status: str) -> Do:
    async def switch(asked: Asked) -> web.Response:
        done = await asked.do(verb, task=asked.query.name)
        return json_reply(Moved(status, duplicate=done.duplicate))

    return switch


def _move(verb: str, status: str) -> Do:
    async def move(asked: Asked) -> web.Response:
        done = await asked.do(verb, task=asked.query.name, job_id=asked.query.job_id)
        return json_reply(Moved(status, done.run_id, done.duplicate))

    return move


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _control(verb: str) -> Do:
    async def control(asked: Asked) -> web.Response:
        more = msgspec.structs.asdict(asked.body)
        return json_reply(await asked.do(verb, run=asked.query.run, **more))

    return control


async def _signal(asked: Asked) -> web.Response:
    """Answered in the predecessor's words: a run that has ended is as unknown as one that never was."""
    checked_kind(asked.body.kind)
    value = checked_message(asked.body.value)
    run = asked.query.job_id if isinstance(asked.query, NamedJob) else asked.query.run
    try:
        done = await asked.do("signal", run=run, value=value)
    except Unknown:
        raise not_running() from None
    except Conflict as error:
        raise not_running() if error.code == "run_ended" else error from None
    if done.delivered:
        return json_reply(Told("delivered", delivered=True, duplicate=done.duplicate))
    return json_reply(Told("accepted", delivered=False, duplicate=done.duplicate), 202)


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────

_REFUSALS = {
    400: "something is wrong with what was asked",
    409: "not in the present state, or the Idempotency-Key was used with other arguments",
    422: "a field too many, one missing, or one of another type",
}
_NO_TASK = {404: "no such task"}
_NO_RUN = {404: "no such run, or none that the caller may control"}
_BUSY = {429: "too much is queued; see Retry-After", 503: "not now; see Retry-After"}


def _post(
    path: str,
    summary: str,
    verb: str,
    do: Do,
    takes: type[msgspec.Struct],
    answers: Answered,
    *,
    body: type[msgspec.Struct] = NoBody,
    statuses: Mapping[int, str],
    accepted: type[msgspec.Struct] | None = None,
) -> Route:
    return Route(
        method="POST",
        path=path,
        summary=summary,
        handle=_asking(verb, do, takes, body),
        takes=takes,
        answers={"application/json": answers},
        statuses={**({202: "Accepted"} if accepted else {}), **_REFUSALS, **statuses},
        accepted=accepted,
        body=body,
        identified=True,
    )


def _run_route(path: str, summary: str) -> Route:
    statuses = {400: "the run failed: with its reason; or what was asked is wrong", **_NO_TASK, **_BUSY}
    return _post(path, summary, "run", _run, TaskToRun, Ran, body=RunBody, statuses=statuses, accepted=Started)


def _signal_route(path: str, takes: type[msgspec.Struct]) -> Route:
    summary = "Tell a run something"
    statuses = {404: "no such run under way, or none that the caller may control"}
    return _post(path, summary, "signal", _signal, takes, Told, body=SignalBody, statuses=statuses, accepted=Told)


def _run_control(what: str, summary: str, verb: str, body: type[msgspec.Struct] = NoBody) -> Route:
    path = f"/runs/{{run}}/{what}"
    return _post(path, summary, verb, _control(verb), NamedRun, RunControlled, body=body, statuses=_NO_RUN)


CONTROL: tuple[Route, ...] = (
    Route(
        path="/tasks",
        summary="All registered tasks, and whether they are disabled",
        handle=_asking("list", _tasks, Unasked, NoBody),
        takes=Unasked,
        answers={"application/json": Rows(Listed)},
        statuses={400: "who asks is not said"},
        identified=True,
    ),
    _run_route("/tasks/{name}/run", "Run a task"),
    _run_route("/tasks/{name}/run-async", "The same: whether a task is asynchronous is known by itself"),
    _post(
        "/tasks/{name}/pause",
        "Pause the newest run of a task that is under way and not paused yet, or the task: then new runs are refused",
        "pause",
        _move("pause", "paused"),
        TaskToPause,
        Moved,
        statuses={404: "no such task, or no such run under way"},
    ),
    _post(
        "/tasks/{name}/resume",
        "Let the newest paused run of a task go on, or the task accept runs again",
        "resume",
        _move("resume", "resumed"),
        TaskToPause,
        Moved,
        statuses={404: "no such task, or no such run under way"},
    ),
    _post(
        "/tasks/{name}/disable",
        "Refuse new runs of a task",
        "disable",
        _switch("disable", "disabled"),
        NamedTask,
        Moved,
        statuses=_NO_TASK,
    ),
    _post(
        "/tasks/{name}/enable",
        "Accept runs of a task again",
        "enable",
        _switch("enable", "enabled"),
        NamedTask,
        Moved,
        statuses=_NO_TASK,
    ),
    _signal_route("/tasks/{job_id}/signal", NamedJob),
    _signal_route("/runs/{run}/signal", NamedRun),
    _run_control("pause", "Let what is under way of a run end, and start nothing new", "pause_run"),
    _run_control("resume", "Let a paused run go on", "resume_run"),
    _run_control("cancel", "End a run now", "cancel", CancelBody),
    _run_control("resolve", "Say what became of a run in doubt", "resolve", ResolveBody),
    _post(
        "/events/{name}",
        "Dispatch an event to the workflow that listens to it",
        "dispatch",
        _dispatch,
        NamedEvent,
        Dispatched,
        body=DispatchBody,
        statuses={400: "the workflow failed: with its reason; or what was asked is wrong", **_BUSY},
        accepted=Dispatched,
    ),
)
