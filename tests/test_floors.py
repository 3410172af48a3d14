"""Imports go down only, and the maps are complete. A climb found here is a question to the author; the answers that
were given stand below."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import cascadenced

PACKAGE = Path(cascadenced.__file__).parent

FLOORS: dict[str, int] = {
    **dict.fromkeys(
        (
            "errors",
            "clock",
            "ids",
            "crashpoint",
            "identity",
            "config",
            "private_files",
            "setting_rules",
            "plain_yaml",
            "shown_settings",
            "sd_notify",
            "garbage",
            "in_either_world",
            "job_thread",
            "replaying",
            "events",
        ),
        0,
    ),
    **dict.fromkeys(("eventlog", "bus", "vault", "vault_file", "backup", "completeness"), 1),
    "schedules": 2,
    "pipeline": 2,  # below the views: a run's row is folded by the rules' own fold
    "recurrence": 2,
    "calendar_files": 2,
    "projections": 3,
    "runtime": 4,
    **dict.fromkeys(("handlers", "plugins", "worker", "workflows", "partial_results"), 5),
    **dict.fromkeys(("instance", "task_pipeline"), 6),
    **dict.fromkeys(("verbs", "refusals", "rpc", "http", "commands", "logs"), 7),
    **dict.fromkeys(("loose_ends", "reloading", "connecting"), 7),
    **dict.fromkeys(("daemon",), 8),
    **dict.fromkeys(("cli", "__main__", ""), 9),
}

ANSWERED = {
    # Scripts and commands start the daemon; it knows nothing of them but the note it leaves for them.
    ("commands", "daemon"),
    # `workflows.dispatch` and `recover_partial` are faces for scripts, offered where people look for them.
    ("workflows", "commands"),
    ("partial_results", "commands"),
}


def _imports(path: Path) -> set[str]:
    """First part below the package of everything a module imports at run time."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cascadenced"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cascadenced.")}
    return found & set(FLOORS)


def _home(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def test_no_module_imports_from_a_floor_above_its_own() -> None:
    climbs = {
        f"{path.relative_to(PACKAGE)} ({home}) imports {target}"
        for path in PACKAGE.rglob("*.py")
        for home in [_home(path)]
        for target in _imports(path)
        if FLOORS[target] > FLOORS[home] and (home, target) not in ANSWERED
    }
    assert climbs == set()


def test_every_module_has_a_floor() -> None:
    assert {_home(path) for path in PACKAGE.rglob("*.py")} <= set(FLOORS)


def test_only_the_log_and_the_vault_know_sqlite_and_only_the_bus_knows_nats() -> None:
    strangers = []
    for path in PACKAGE.rglob("*.py"):
        home = _home(path)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if (top in ("sqlite3", "aiosqlite") and home not in ("eventlog", "vault_file", "commands")) or (
                    top == "nats" and home != "bus" and path.name != "demo.py"
                ):
                    strangers.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert strangers == []


_PACKAGES = sorted({path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py")})


@pytest.mark.parametrize("package", _PACKAGES, ids=str)
def test_the_map_of_a_package_names_its_modules_and_no_others(package: Path) -> None:
    folder = PACKAGE / package
    told = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    there = {path.name for path in folder.glob("*.py")} - {"__init__.py", "__main__.py"}
    there |= {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    named = set(re.findall(r"(?<![\w/*])[a-z0-9]\w*(?:\.py\b|/(?!\w))", told))
    assert (there - named, {name for name in named - there if name.endswith(".py")}) == (set(), set())
