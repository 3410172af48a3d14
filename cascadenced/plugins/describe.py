"""A class, an object or a marked function → what the daemon must know of it to run it, or a refusal that says why."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import sys
import threading
from abc import ABCMeta
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import lru_cache
from typing import Any

from cascadenced.errors import Invalid
from cascadenced.events.subjects import checked_event_name, checked_task_name
from cascadenced.pipeline.model import STAGES
from cascadenced.plugins.base import CronTask, ManualTrigger, PointerTask, Steps, WebhookTask
from cascadenced.plugins.importable import source_of
from cascadenced.plugins.options import policy_of
from cascadenced.runtime.tasks import WORKFLOW_PREFIX, Hook, TaskEntry

EVENT_MARK = "__cascade_event__"
"""Attribute that `workflows.subscribe` leaves on a function."""

_KINDS: tuple[tuple[type, str], ...] = (
    (CronTask, "cron"),
    (WebhookTask, "webhook"),
    (ManualTrigger, "manual"),
    (PointerTask, "pointer"),
)

_FED = ("plan", "run", "verify")
"""Stages that are handed what the one before them put out."""
_ANYBODY = object()
RUN_ATTRIBUTES = ("user_id", "group_id", "run_id", "args", "context")
"""What the instance of a run is given before its first stage."""
_PLANNER = "ai_plan"
"""An optional module whose `plan(task)` plans for tasks that cannot."""


def describe(target: object, *, name: str | None = None) -> TaskEntry:
    """The entry of a task class, a task object or a function marked by `subscribe`.

    name: registers it under another name than its own. Raises Invalid saying what is wrong.
    """
    return _described(target, name, once=False)


def _described(target: object, name: str | None, *, once: bool) -> TaskEntry:
    event = getattr(target, EVENT_MARK, None)
    if event is not None and callable(target) and not isinstance(target, type):
        return _workflow(target, event)
    cls = target if isinstance(target, type) else type(target)
    registered = name or getattr(target, "name", None) or cls.__name__
    if not isinstance(registered, str):
        raise Invalid(f"{cls.__qualname__}.name must be a string, not {type(registered).__name__}")
    checked_task_name(registered)
    policy = policy_of(target, registered)
    hooks = {stage: _hook(target, stage, registered) for stage in STAGES if _has(target, stage)}
    if "run" not in hooks and "plan" not in hooks:
        raise Invalid(f"Task '{registered}' has no run() method")
    if "plan" not in hooks and importlib.util.find_spec(_PLANNER) is not None:
        hooks["plan"] = Hook(is_async=False, takes=False)
    source = _source_ref(target, registered, required=policy.isolation == "process")
    _refuse_tight_slots(cls, registered)
    kind = next((kind for base, kind in _KINDS if issubclass(cls, base)), "task")
    if kind == "pointer" and not hasattr(target, "name"):
        raise Invalid(f"{cls.__qualname__} needs a `name`: its pointers are kept under it")
    return TaskEntry(
        name=registered,
        kind=kind,
        mode="async" if hooks.get("run", hooks.get("plan", _PLAIN)).is_async else "sync",
        hooks=hooks,
        code=_digest(cls),
        description=(inspect.getdoc(cls) or "").partition("\n")[0][:200] if cls.__doc__ else "",
        make=(lambda: target) if once else _factory(target, registered),
        inert=isinstance(target, type) and _is_inert(target),
        class_name=cls.__qualname__,
        source=source,
        policy=policy,
    )


def describe_once(target: object) -> TaskEntry:
    """The entry of an object that is to be used as it is, for one run (`TaskPipeline(obj)`)."""
    return _described(target, None, once=not isinstance(target, type))


_PLAIN = Hook(is_async=False, takes=False)


def _source_ref(target: object, name: str, *, required: bool) -> str | None:
    """`module:qualname` by which another process finds it; None if none can, which is refused where it is required."""
    try:
        found = source_of(target, name)
    except Invalid:
        if required:
            raise
        return None
    return f"{found.module}:{found.qualname}"


def _has(target: object, stage: str) -> bool:
    return callable(getattr(target, stage, None))


def _hook(target: object, stage: str, name: str) -> Hook:
    function = _bound(target, stage)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C: calling it will tell
        return Hook(is_async=False, takes=False)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    required = [p for p in positional if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    allowed = 1 if stage in _FED else 0
    if len(required) > allowed:
        raise Invalid(f"Task '{name}': {stage}() takes {len(required)} parameters; at most {allowed} is passed")
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise Invalid(f"Task '{name}': {stage}() needs the keyword {parameter.name!r}, which nobody passes")
    return Hook(is_async=inspect.iscoroutinefunction(function), takes=bool(positional) and allowed == 1)


def _bound(target: object, stage: str) -> Any:
    """The hook as it will be called: an object's own, or as an instance of the class would have it."""
    if not isinstance(target, type):
        return getattr(target, stage)
    static = inspect.getattr_static(target, stage, None)
    if static is None or not hasattr(type(static), "__get__"):
        return getattr(target, stage)  # a partial or a callable object is not bound to the instance
    return static.__get__(_ANYBODY, target)


def _refuse_tight_slots(cls: type, name: str) -> None:
    """Each run sets attributes on its instance."""
    if cls.__dictoffset__ != 0:
        return
    lacking = [given for given in RUN_ATTRIBUTES if not hasattr(inspect.getattr_static(cls, given, None), "__set__")]
    if lacking:
        raise Invalid(
            f"Task '{name}' has no room for {', '.join(lacking)}: add them to its __slots__, or leave those out"
        )


def _factory(target: object, name: str) -> Callable[[], Any]:
    """A class is called without arguments for each run; an object is deep-copied, so it must be able to be."""
    if isinstance(target, type):
        lacking = sorted(getattr(target, "__abstractmethods__", ()))
        if lacking:
            raise Invalid(f"Task '{name}' is abstract: it lacks {', '.join(lacking)}")
        try:
            inspect.signature(target).bind()
        except TypeError as error:
            raise Invalid(f"Task '{name}': {target.__qualname__}() needs arguments ({error})") from None
        except ValueError:
            pass  # a class without a signature, e.g. written in C: calling it will tell
        return target
    try:
        copy.deepcopy(target)
    except Exception as error:  # noqa: BLE001 -- __deepcopy__ is the task's own code
        raise Invalid(
            f"Task '{name}' cannot be copied for each run ({type(error).__name__}): register its class instead"
        ) from None
    return lambda: copy.deepcopy(target)


def _is_inert(cls: type) -> bool:
    """Whether nothing of the class's own runs when an instance is made and given its attributes."""
    plain = all(getattr(cls, name) is getattr(object, name) for name in ("__init__", "__new__", "__setattr__"))
    given = [inspect.getattr_static(cls, name, None) for name in _GIVEN]
    return type(cls) in (type, ABCMeta) and plain and not any(hasattr(type(found), "__set__") for found in given)


@lru_cache(maxsize=1_024)
def _digest(target: object) -> str:
    """16 hex digits that change when the source changes, that of base classes included; not with Python or with us.

    Kept, because finding a class in its module means to parse that: some 50 ms, for each task of a plan.
    """
    code = [base for base in target.__mro__ if _is_the_tasks_own(base)] if isinstance(target, type) else [target]
    return hashlib.sha256("\0".join(map(_source, code or [target])).encode(errors="replace")).hexdigest()[:16]


def _is_the_tasks_own(base: type) -> bool:
    package = base.__module__.partition(".")[0]
    return package != "cascadenced" and package not in sys.stdlib_module_names


_parsing = threading.Lock()
"""Plans are described in threads, and Python 3.11's parser raises SystemError now and then where two are in it."""
_PARSES = 20
"""Whoever prints a traceback is in that parser too, and knows of no lock."""


def _source(target: object) -> str:
    """Its name where there is no source."""
    for n in range(1, _PARSES + 1):
        try:
            with _parsing:
                return inspect.getsource(target)  # type: ignore[arg-type]
        except SystemError:
            if n == _PARSES:
                raise
        except (OSError, TypeError):
            break
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"


def _workflow(function: Callable[..., Any], event: str) -> TaskEntry:
    checked_event_name(event)
    policy = policy_of(function, WORKFLOW_PREFIX + event)
    if policy.isolation == "process":
        raise Invalid(f"the workflow for {event!r} cannot have a process of its own: make it a task")
    for p in inspect.signature(function).parameters.values():
        by_name = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name in _OFFERED
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and not by_name:
            raise Invalid(f"the workflow for {event!r} needs {p.name!r}; it is handed by name {', '.join(_OFFERED)}")
    return TaskEntry(
        name=WORKFLOW_PREFIX + event,
        kind="workflow",
        mode="async" if inspect.iscoroutinefunction(function) else "sync",
        hooks={"run": Hook(is_async=inspect.iscoroutinefunction(function), takes=False)},
        code=_digest(function),
        description=(inspect.getdoc(function) or "").partition("\n")[0][:200],
        make=lambda: WorkflowTask(function),
        inert=True,
        listens_to=event,
        class_name=function.__qualname__,
        policy=policy,
    )


_GIVEN = ("user_id", "group_id", "run_id", "args", "context", "_host", "dispatch")
"""What an instance is given before its first stage."""

_OFFERED = ("payload", "user_id", "group_id", "run_id", "dispatch", "step", "sleep", "wait_for")


class WorkflowTask:
    """One invocation of a workflow function, as a task. It is handed by name whatever of these it takes:

    payload, user_id, group_id, run_id, dispatch (`await dispatch(name, payload)`; in a plain function a plain call,
    and the event is recorded when the function has returned); step, sleep and wait_for as a task's base class has them.
    """

    _steps: Steps

    user_id: str
    group_id: str
    run_id: str
    args: dict[str, Any]
    dispatch: Callable[..., Awaitable[object]]

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def run(self) -> Any:
        if inspect.iscoroutinefunction(self._function):
            return self._call(self.dispatch)
        wishes: list[_Wish] = []

        def dispatch(name: str, payload: dict[str, Any] | None = None) -> _Wish:
            wishes.append(_Wish(lambda: self.dispatch(name, payload)))
            return wishes[-1]

        value = self._call(dispatch)
        return _with_its_wishes(value, wishes) if wishes else value

    def _call(self, dispatch: Callable[..., object]) -> Any:
        steps = self._steps
        values = (
            self.args,
            self.user_id,
            self.group_id,
            self.run_id,
            dispatch,
            steps.step,
            steps.sleep,
            lambda event, timeout_s=None, where=None: steps.wait_for(event, timeout_s, where),
        )
        offered = dict(zip(_OFFERED, values, strict=True))
        parameters = inspect.signature(self._function).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return self._function(**offered)
        return self._function(**{name: value for name, value in offered.items() if name in parameters})


class _Wish:
    """An event that a plain function wants dispatched. Awaiting it does that, for functions that turn out async."""

    def __init__(self, dispatch: Callable[[], Awaitable[object]]) -> None:
        self._dispatch = dispatch
        self.fulfilled = False

    def __await__(self) -> Generator[Any, None, object]:
        self.fulfilled = True
        return self._dispatch().__await__()


async def _with_its_wishes(value: Any, wishes: Sequence[_Wish]) -> Any:
    if inspect.isawaitable(value):
        value = await value
    for wish in wishes:
        if not wish.fulfilled:
            await wish
    return value
