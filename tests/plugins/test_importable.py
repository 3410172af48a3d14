"""What can be found by another process, and what is said of the rest."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from cascadenced.errors import Invalid
from cascadenced.plugins.importable import source_of
from cascadenced.runtime.worker_protocol import TaskSource


class Top:
    def run(self) -> None: ...

    class Inner:
        def run(self) -> None: ...


kept = Top()


def made() -> type:
    class Local:
        def run(self) -> None: ...

    return Local


def test_a_class_is_found_under_its_name() -> None:
    assert source_of(Top, "top") == TaskSource(__name__, "Top")
    assert source_of(Top.Inner, "inner") == TaskSource(__name__, "Top.Inner")


def test_an_object_is_found_where_its_module_keeps_it() -> None:
    assert source_of(kept, "kept") == TaskSource(__name__, "kept")


def test_what_is_found_is_the_same_again() -> None:
    source = source_of(Top.Inner, "inner")
    found = sys.modules[source.module]
    for part in source.qualname.split("."):
        found = getattr(found, part)
    assert found is Top.Inner  # type: ignore[comparison-overlap]


def test_a_class_made_in_a_function_is_refused() -> None:
    with pytest.raises(Invalid, match=r"^Task 'local' .* made\.<locals>\.Local is made in a function.* top level"):
        source_of(made(), "local")


def test_an_object_that_no_module_keeps_is_refused() -> None:
    with pytest.raises(Invalid, match=r"no other process finds this object of .*Top: register its class"):
        source_of(Top(), "top")


@pytest.mark.parametrize("as_object", [False, True])
def test_a_class_in_the_script_that_was_started_is_refused(as_object: bool) -> None:
    scripted = type("Scripted", (), {"__module__": "__main__"})
    with pytest.raises(Invalid, match=r"Scripted is defined in the script that was started.* move it to a module"):
        source_of(scripted() if as_object else scripted, "scripted")


def test_a_class_that_is_called_something_else_in_its_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("shadowing")
    monkeypatch.setitem(sys.modules, "shadowing", module)
    hidden = type("Hidden", (), {"__module__": "shadowing"})
    with pytest.raises(Invalid, match=r"shadowing\.Hidden is not there"):
        source_of(hidden, "hidden")
    module.Hidden = type("Hidden", (), {"__module__": "shadowing"})  # type: ignore[attr-defined]
    with pytest.raises(Invalid, match=r"shadowing\.Hidden is something else"):
        source_of(hidden, "hidden")
