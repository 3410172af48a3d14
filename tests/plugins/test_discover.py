"""Finding plugins: what can be used is used, what cannot is listed with the reason."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from cascadenced.errors import Invalid
from cascadenced.plugins.builtin import BUILTINS
from cascadenced.plugins.discover import Rejected, collect, discover, load

N_BUILTINS = len(BUILTINS)
GOOD = "class Good:\n    name = 'good'\n    def run(self): return 'good'\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Puts a module where it can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)

    def write(name: str, text: str) -> None:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Entry points of other distributions: group → values."""

    def install(**groups: list[str]) -> None:
        def entry_points(*, group: str) -> list[metadata.EntryPoint]:
            values = groups.get(group.replace(".", "_"), [])
            return [metadata.EntryPoint(f"p{n}", value, group) for n, value in enumerate(values)]

        monkeypatch.setattr(metadata, "entry_points", entry_points)

    install()
    return install


def found(*paths: str, entry_points: bool = False) -> tuple[list[str], dict[str, str]]:
    """(names of the tasks beside the built-in ones, plugin → reason)"""
    catalogue = discover(paths, entry_points=entry_points)
    return list(catalogue.tasks)[N_BUILTINS:], {r.plugin: r.reason for r in catalogue.rejected}


def test_what_comes_with_us_is_always_there() -> None:
    catalogue = discover([], entry_points=False)
    assert len(catalogue.tasks) == N_BUILTINS
    assert {"example", "countdown", "workflow.demo.greeting", "capability_follow_up"} <= set(catalogue.tasks)
    assert catalogue.rejected == ()


def test_an_approved_path_is_imported(write: Any) -> None:
    write("shop.tasks", GOOD)
    assert found("shop.tasks:Good") == (["good"], {})


def test_a_path_may_name_something_inside_a_class(write: Any) -> None:
    write("shop", "class Outer:\n    class Inner:\n        def run(self): ...\n")
    assert found("shop:Outer.Inner") == (["Inner"], {})


def test_a_path_named_twice_is_one_task(write: Any) -> None:
    write("shop", GOOD)
    assert found("shop:Good", "shop:Good") == (["good"], {})


def test_entry_points_of_both_groups_are_read(write: Any, installed: Any) -> None:
    write("shop", GOOD + "class Older:\n    def run(self): ...\n")
    installed(cascadenced_plugins=["shop:Good"], task_cascadence_plugins=["shop:Older"])
    assert found(entry_points=True) == (["good", "Older"], {})
    assert found(entry_points=False) == ([], {})


def test_an_entry_point_that_is_also_an_approved_path_is_one_task(write: Any, installed: Any) -> None:
    write("shop", GOOD)
    installed(cascadenced_plugins=["shop:Good"], task_cascadence_plugins=["shop:Good"])
    assert found("shop:Good", entry_points=True) == (["good"], {})


def test_a_file_in_the_working_folder_can_be_named(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("shop", GOOD)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    importlib.invalidate_caches()
    assert list(discover(["shop:Good"], entry_points=False, working_dir=tmp_path).tasks)[N_BUILTINS:] == ["good"]


BROKEN = {
    "raises": ("raise ValueError('no license')", "shop cannot be imported: ValueError: no license"),
    "syntax": ("def (:", "shop cannot be imported: SyntaxError: invalid syntax (shop.py, line 1)"),
    "exits": ("import sys; sys.exit(3)", "shop cannot be imported: SystemExit: 3"),
    "imports": (
        "import no_such_module",
        "shop cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "interrupts": ("raise GeneratorExit('x')", "shop cannot be imported: GeneratorExit: x"),
    "empty": ("", "shop has no Good"),
    "unspeakable": (
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
        "shop cannot be imported: E: E (its text cannot be shown)",
    ),
    "surrogate": ("raise ValueError('\\ud800')", "shop cannot be imported: ValueError: \\ud800"),
    "lazy": (
        "def __getattr__(name): raise RuntimeError('not now')",
        "shop does not give its Good: RuntimeError: not now",
    ),
    "no run": ("class Good: pass", "Task 'Good' has no run() method"),
    "metaclass": (
        "class M(type):\n"
        "    def __getattribute__(cls, name): raise RuntimeError('hands off')\n"
        "class Good(metaclass=M):\n    def run(self): ...\n",
        "cannot be described: RuntimeError: hands off",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_plugin_that_cannot_be_used_is_listed_and_the_others_load(write: Any, text: str, reason: str) -> None:
    write("shop", text)
    write("other", GOOD)
    assert found("shop:Good", "other:Good") == (["good"], {"shop:Good": reason})


def test_an_interrupt_while_importing_is_the_users() -> None:
    sys.modules.pop("shop", None)

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib, "import_module", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load("shop:Good")


@pytest.mark.parametrize("path", ["", "shop", "shop:", ":Good", "shop:Good:Other", "::"])
def test_a_path_with_another_number_of_colons_than_one_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="^path must be 'module:Class'$"):
        load(path)


def test_a_module_that_does_not_exist_is_refused() -> None:
    with pytest.raises(Invalid, match="^no_such_module cannot be imported: ModuleNotFoundError"):
        load("no_such_module:Good")


def test_a_name_that_is_taken_stays_with_whom_had_it_first(write: Any) -> None:
    write("shop", GOOD)
    write("other", GOOD + "class example:\n    def run(self): ...\n")
    names, rejected = found("shop:Good", "other:Good", "other:example")
    assert names == ["good"]
    assert rejected == {
        "other:Good": "the name 'good' is taken by another plugin",
        "other:example": "the name 'example' is taken by another plugin",
    }


def test_two_workflows_for_one_event_are_one_too_many() -> None:
    from cascadenced.workflows import subscribe

    first, second = subscribe("order.placed")(lambda: 1), subscribe("order.placed")(lambda: 2)
    catalogue = collect([("shop:first", first), ("shop:second", second)])
    assert list(catalogue.tasks) == ["workflow.order.placed"]
    assert catalogue.rejected == (
        Rejected("shop:second", "the name 'workflow.order.placed' is taken by another plugin"),
    )


def test_what_was_refused_before_stays_listed() -> None:
    earlier = Rejected("shop:Broken", "why")
    assert collect([], [earlier]).rejected == (earlier,)


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit()], ids=repr)
def test_a_class_that_exits_when_it_is_looked_at_costs_itself(error: BaseException) -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> object:
            if name == "retries":
                raise error
            return type.__getattribute__(cls, name)

    class Hostile(metaclass=Meta):
        def run(self) -> None: ...

    class Fine:
        def run(self) -> None: ...

    catalogue = collect([("x:Hostile", Hostile), ("x:Fine", Fine)])
    assert list(catalogue.tasks) == ["Fine"]
    [rejected] = catalogue.rejected
    assert rejected.plugin == "x:Hostile"
    assert type(error).__name__ in rejected.reason
