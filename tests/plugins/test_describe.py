"""What may be a task, and what is said to one that may not."""

from __future__ import annotations

import abc
import functools
import hashlib
import importlib
import inspect
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cascadenced.errors import Invalid
from cascadenced.pipeline.policy import Limits, Retry
from cascadenced.plugins.base import BaseTask, CronTask, ManualTrigger, PointerTask, WebhookTask
from cascadenced.plugins.builtin import BUILTINS
from cascadenced.plugins.describe import describe, describe_once
from cascadenced.runtime.tasks import Hook
from cascadenced.workflows import subscribe


def task(**attributes: Any) -> type:
    """A class `Task` with a `run`, and what else is given."""
    return type("Task", (), {"run": lambda self: None, **attributes})


def refusal(target: object) -> str:
    with pytest.raises(Invalid) as caught:
        describe(target)
    return str(caught.value)


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────────


class NeedsArguments:
    def __init__(self, url: str) -> None:
        pass

    def run(self) -> None: ...


class CannotBeCopied:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def run(self) -> None: ...


class RefusesToBeCopied:
    def __deepcopy__(self, memo: object) -> object:
        raise RuntimeError("there is only one")

    def run(self) -> None: ...


class NamelessPointer(PointerTask):
    def run(self) -> None: ...


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (type("Nothing", (), {}), "Task 'Nothing' has no run() method"),
        (task(run="not callable"), "Task 'Task' has no run() method"),
        (task(run=None), "Task 'Task' has no run() method"),
        (42, "Task 'int' has no run() method"),
        (None, "Task 'NoneType' has no run() method"),
        (task(retries=3), "Task 'Task': retries must be a Retry, or a mapping of stages to them, not 3"),
        (
            task(retries={"walk": Retry()}),
            "Task 'Task': retries names the stage 'walk'; there are intake, research, plan, precheck, run, verify",
        ),
        (
            task(timeout_s=0),
            "Task 'Task': timeout_s must be a number of seconds above 0 and up to 2592000, not 0",
        ),
        (
            task(timeout_s={"run": True}),
            "Task 'Task': timeout_s['run'] must be a number of seconds above 0 and up to 2592000, not True",
        ),
        (
            task(max_concurrent=0),
            "Task 'Task': max_concurrent must be a whole number from 1 to 100000, not 0",
        ),
        (task(dependencies="load"), "Task 'Task': dependencies must be a list of task names, not 'load'"),
        (task(dependencies=[7]), "Task 'Task': dependencies must be a list of task names, not [7]"),
        (task(dependencies=["x"] * 101), "Task 'Task': there may be 100 dependencies, not 101"),
        (task(isolation="container"), "Task 'Task': isolation must be 'thread' or 'process', not 'container'"),
        (
            task(isolation="process"),
            "Task 'Task' asks for a process of its own, but tests.plugins.test_describe.Task is not there: a class "
            "must be importable under its own name",
        ),
        (task(limits=Limits()), "Task 'Task': limits need isolation = 'process'"),
        (
            task(delivery="exactly_once"),
            "Task 'Task': delivery must be 'at_least_once' or 'at_most_once', not 'exactly_once'",
        ),
        (
            task(name="two words"),
            "'two words' cannot name a task: use up to 128 letters, digits, '_' and '-'",
        ),
        (task(name="workflow.x"), "'workflow.x' cannot name a task: use up to 128 letters, digits, '_' and '-'"),
        (task(name=7), "Task.name must be a string, not int"),
        (task(name=property(lambda self: "x")), "Task.name must be a string, not property"),
        (NamelessPointer, "NamelessPointer needs a `name`: its pointers are kept under it"),
        (
            NeedsArguments,
            "Task 'NeedsArguments': NeedsArguments() needs arguments (missing a required argument: 'url')",
        ),
        (
            CannotBeCopied(),
            "Task 'CannotBeCopied' cannot be copied for each run (TypeError): register its class instead",
        ),
        (
            RefusesToBeCopied(),
            "Task 'RefusesToBeCopied' cannot be copied for each run (RuntimeError): register its class instead",
        ),
        (task(run=lambda self, a, b: None), "Task 'Task': run() takes 2 parameters; at most 1 is passed"),
        (task(intake=lambda self, a: None), "Task 'Task': intake() takes 1 parameters; at most 0 is passed"),
        (task(research=lambda self, a: None), "Task 'Task': research() takes 1 parameters; at most 0 is passed"),
        (task(precheck=lambda self, a: None), "Task 'Task': precheck() takes 1 parameters; at most 0 is passed"),
        (task(run=lambda self, *, a: None), "Task 'Task': run() needs the keyword 'a', which nobody passes"),
        (task(verify=staticmethod(lambda a, b: None)), "Task 'Task': verify() takes 2 parameters; at most 1 is passed"),
    ],
)
def test_what_cannot_be_a_task_is_told_why(target: object, said: str) -> None:
    assert refusal(target) == said


def test_an_abstract_class_is_refused() -> None:
    class Abstract(abc.ABC):
        @abc.abstractmethod
        def run(self) -> None: ...

    assert refusal(Abstract) == "Task 'Abstract' is abstract: it lacks run"


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (lambda event: None, "'event'"),
        (lambda payload, tenant: None, "'tenant'"),
        (eval("lambda payload, /: None"), "'payload'"),
    ],
)
def test_a_workflow_that_needs_what_it_is_not_handed_is_refused(function: Any, missing: str) -> None:
    said = refusal(subscribe("order.placed")(function))
    assert said == (
        f"the workflow for 'order.placed' needs {missing}; it is handed by name "
        "payload, user_id, group_id, run_id, dispatch, step, sleep, wait_for"
    )


@pytest.mark.parametrize("event", ["", "two words", "a..b", ".a", "x" * 129])
def test_a_name_that_no_event_can_have_is_refused_where_it_is_written(event: str) -> None:
    with pytest.raises(Invalid, match="cannot name an event"):
        subscribe(event)


# ── accepted ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_class_without_a_name_is_called_as_it_is() -> None:
    assert describe(task()).name == "Task"
    assert describe(task(name="")).name == "Task"
    assert describe(task(name="mine")).name == "mine"
    assert describe(task(), name="other").name == "other"


@pytest.mark.parametrize(
    ("base", "kind"),
    [(CronTask, "cron"), (WebhookTask, "webhook"), (ManualTrigger, "manual"), (BaseTask, "task"), (object, "task")],
)
def test_its_kind_is_that_of_its_base(base: type, kind: str) -> None:
    assert describe(type("Task", (base,), {"run": lambda self: None})).kind == kind


def test_a_pointer_object_with_a_name_of_its_own_is_a_pointer_task() -> None:
    pointer = NamelessPointer()
    pointer.name = "marks"  # type: ignore[misc]
    assert (describe(pointer).kind, describe(pointer).name) == ("pointer", "marks")


def test_its_mode_is_that_of_its_run() -> None:
    async def run(self: object) -> None: ...

    assert describe(task()).mode == "sync"
    assert describe(task(run=run)).mode == "async"
    assert describe(task(plan=run)).mode == "sync"


def test_its_stages_are_its_hooks_in_pipeline_order() -> None:
    hooks: dict[str, Any] = {stage: lambda self: None for stage in ("verify", "precheck", "plan", "research", "intake")}
    assert describe(task(**hooks)).stages == ("intake", "research", "plan", "precheck", "run", "verify")
    assert describe(task()).stages == ("run",)


def test_its_description_is_the_first_line_of_its_own_docstring() -> None:
    assert describe(task(__doc__="Counts.\n\nAt length.")).description == "Counts."
    assert describe(task()).description == ""
    assert len(describe(task(__doc__="x" * 1_000)).description) == 200


def parameterless(self: object) -> None: ...
def with_one(self: object, handed: object) -> object: ...
def with_a_default(self: object, handed: object = None) -> object: ...
def with_any(self: object, *handed: object) -> object: ...
def with_keywords(self: object, **options: object) -> object: ...
def function(handed: object) -> object: ...
def two(first: object, handed: object) -> object: ...


class Called:
    def __call__(self, handed: object) -> object: ...


@pytest.mark.parametrize(
    ("hook", "takes"),
    [
        (parameterless, False),
        (with_one, True),
        (with_a_default, True),
        (with_any, True),
        (with_keywords, False),
        (staticmethod(function), True),
        (classmethod(with_one), True),
        (classmethod(parameterless), False),
        (functools.partial(two, 1), True),
        (functools.partial(function, 1), False),
        (functools.partialmethod(with_one, 1), False),
        (functools.partialmethod(with_one), True),
        (functools.wraps(with_one)(lambda *a, **k: with_one(*a, **k)), True),
        (Called(), True),
    ],
)
def test_a_hook_is_handed_what_came_before_if_it_takes_it(hook: Any, takes: bool) -> None:
    cls = task(run=hook)
    assert describe(cls).hooks["run"].takes == takes
    assert describe(cls()).hooks["run"].takes == takes
    child = type("Child", (cls,), {})
    assert describe(child).hooks["run"].takes == takes


def test_hooks_may_be_attributes_of_an_object() -> None:
    async def later(handed: object) -> None: ...

    entry = describe_once(SimpleNamespace(run=later, plan=lambda: 1, precheck=functools.partial(bool, 1)))
    assert entry.hooks["run"] == Hook(is_async=True, takes=True)
    assert entry.hooks["plan"] == Hook(is_async=False, takes=False)
    assert entry.stages == ("plan", "precheck", "run")


@pytest.mark.parametrize("wrap", [staticmethod, classmethod, functools.partialmethod, lambda f: f])
def test_coroutine_functions_are_known_through_their_wrappings(wrap: Callable[[Any], Any]) -> None:
    async def run(*_: object) -> None: ...

    assert describe(task(run=wrap(run))).hooks["run"].is_async


# ── instances ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_class_is_called_for_each_run() -> None:
    entry = describe(task())
    assert entry.make() is not entry.make()


def test_an_object_is_copied_for_each_run_with_all_that_hangs_on_it() -> None:
    target = task()()
    target.seen = []
    entry = describe(target)
    first, second = entry.make(), entry.make()
    first.seen.append(1)
    assert (target.seen, second.seen) == ([], [])


def test_an_object_that_is_to_be_used_once_is_used_as_it_is() -> None:
    target = CannotBeCopied.__new__(CannotBeCopied)
    assert describe_once(target).make() is target


def test_a_class_whose_signature_cannot_be_had_is_accepted() -> None:
    class Odd(dict):  # type: ignore[type-arg]
        def run(self) -> None: ...

    assert describe(Odd).name == "Odd"


# ── workflows ────────────────────────────────────────────────────────────────────────────────────────────────


@subscribe("order.placed")
def place(payload: dict[str, Any], user_id: str, group_id: str, run_id: str, dispatch: Any = None) -> list[Any]:
    """Places an order."""
    return [payload, user_id, group_id, run_id]


@subscribe("order.shipped")
async def ship(**everything: Any) -> list[str]:
    return sorted(everything)


def test_a_marked_function_is_a_workflow_under_its_events_name() -> None:
    entry = describe(place)
    assert (entry.name, entry.kind, entry.mode) == ("workflow.order.placed", "workflow", "sync")
    assert (entry.listens_to, entry.stages, entry.description) == ("order.placed", ("run",), "Places an order.")
    assert describe(ship).mode == "async"


class NoSteps:
    def step(self, *args: Any) -> None: ...

    def sleep(self, seconds: float) -> None: ...

    def wait_for(self, *args: Any) -> None: ...


async def test_a_workflow_is_handed_by_name_what_it_takes() -> None:
    def invocation(function: Any) -> Any:
        made = describe(function).make()
        made.args, made.user_id, made.group_id, made.run_id = {"n": 1}, "u", "g", "r"
        made.dispatch = None
        made._steps = NoSteps()
        return made

    assert invocation(place).run() == [{"n": 1}, "u", "g", "r"]
    everything = ["dispatch", "group_id", "payload", "run_id", "sleep", "step", "user_id", "wait_for"]
    assert await invocation(ship).run() == everything
    assert invocation(subscribe("x")(lambda: "nothing")).run() == "nothing"


def test_marking_a_function_leaves_it_a_function() -> None:
    assert place({}, "u", "g", "r") == [{}, "u", "g", "r"]


# ── the code digest ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a text as a module, each time anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    n = 0

    def imported(text: str) -> Any:
        nonlocal n
        n += 1
        (tmp_path / f"shop_{n}.py").write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(f"shop_{n}")

    return imported


def test_the_code_digest_changes_with_the_source_and_with_nothing_else(module: Callable[[str], Any]) -> None:
    text = "class Task:\n    def run(self):\n        return {}\n"
    first, same = module(text.format(1)).Task, module(text.format(1) + "\n\nOTHER = 1\n").Task
    other = module(text.format(2)).Task
    assert describe(first).code == describe(same).code == describe(first()).code
    assert describe(first).code != describe(other).code
    assert len(describe(first).code) == 16


def test_the_code_digest_changes_with_what_is_inherited(module: Callable[[str], Any]) -> None:
    text = "class Base:\n    x = {}\n\n\nclass Task(Base):\n    def run(self): return self.x\n"
    first, same, other = (module(text.format(x)).Task for x in (1, 1, 2))
    assert describe(first).code == describe(same).code
    assert describe(first).code != describe(other).code


def test_the_code_digest_leaves_out_bases_that_come_with_python_or_with_us(module: Callable[[str], Any]) -> None:
    text = "import abc\nfrom cascadenced import CronTask\n\n\nclass Task(CronTask, abc.ABC):\n    def run(self): ...\n"
    target = module(text).Task
    assert describe(target).code == hashlib.sha256(inspect.getsource(target).encode()).hexdigest()[:16]


def test_a_class_without_a_source_has_a_digest_of_its_name() -> None:
    assert describe(task()).code == describe(task()).code
    assert describe(task()).code != describe(type("Other", (), {"run": lambda self: None})).code


@pytest.mark.parametrize("target", BUILTINS, ids=lambda target: target.__name__)
def test_what_comes_with_us_can_be_used(target: object) -> None:
    assert describe(target).description


# ── attributes of a run ──────────────────────────────────────────────────────────────────────────────────────


class WithoutRoom:
    __slots__ = ()

    def run(self) -> None: ...


class WithSomeRoom:
    __slots__ = ("group_id", "user_id")

    def run(self) -> None: ...


class WithRoom:
    __slots__ = ("args", "context", "group_id", "run_id", "user_id")

    def run(self) -> None: ...


class WithADict:
    __slots__ = ("__dict__",)

    def run(self) -> None: ...


class Loose(WithoutRoom):
    """Without slots of its own."""


@pytest.mark.parametrize(
    ("target", "lacking"),
    [
        (WithoutRoom, "user_id, group_id, run_id, args, context"),
        (WithoutRoom(), "user_id, group_id, run_id, args, context"),
        (WithSomeRoom, "run_id, args, context"),
    ],
)
def test_a_class_whose_slots_have_no_room_for_what_a_run_sets_is_refused(target: object, lacking: str) -> None:
    said = refusal(target)
    assert f"no room for {lacking}:" in said
    assert "__slots__" in said


@pytest.mark.parametrize("target", [WithRoom, WithADict, Loose])
def test_slots_with_room_are_fine(target: type) -> None:
    assert describe(target).name == target.__name__


def test_sources_are_looked_for_one_at_a_time(monkeypatch):
    """Tasks of plans are described in threads, and Python 3.11's parser may fail where two threads are in it."""
    inside, most = [], []

    def slowly(target):
        inside.append(target)
        most.append(len(inside))
        time.sleep(0.02)
        inside.remove(target)
        return "the source"

    monkeypatch.setattr("inspect.getsource", slowly)
    kinds = [type(f"Task{n}", (), {"__module__": "elsewhere", "run": lambda self: None}) for n in range(4)]
    threads = [threading.Thread(target=describe, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_a_parser_that_stumbles_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11's does, when a traceback is printed in another thread meanwhile."""
    real, fails = inspect.getsource, iter([SystemError("AST constructor recursion depth mismatch")] * 3)

    def stumbles(target: Any) -> str:
        for error in fails:
            raise error
        return real(target)

    class Stumbled:
        def run(self) -> None: ...

    class Same:
        def run(self) -> None: ...

    monkeypatch.setattr("inspect.getsource", stumbles)
    code = describe(Stumbled).code
    assert list(fails) == []
    assert code != describe(Same).code
    assert len(code) == 16
