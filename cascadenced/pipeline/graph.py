"""Tasks that must have run before others: in which order, and drawn. Pure.

a → b → c      a needs b, which needs c: they run as c, b, a, each once
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from cascadenced.errors import Invalid

MAX_TASKS = 1_000
"""Of one graph."""

DependenciesOf = Callable[[str], Sequence[str]]
"""The tasks that one needs directly."""


class Graph(msgspec.Struct, frozen=True):
    """What a task needs. order: it comes last.  edges: by task, what it needs directly."""

    task: str
    order: Sequence[str]
    edges: Mapping[str, Sequence[str]]


def graph(task: str, needs: DependenciesOf) -> Graph:
    """Raises Invalid for a task that needs itself, naming the way round."""
    order: list[str] = []
    edges: dict[str, Sequence[str]] = {}
    # Depth first without recursion: (task, what it needs and was not looked at yet).
    way: list[tuple[str, list[str]]] = []
    on_the_way: dict[str, None] = {}

    def enter(name: str) -> None:
        if len(edges) >= MAX_TASKS:
            raise Invalid(f"{task} needs more than {MAX_TASKS} tasks", code="dependencies")
        edges[name] = tuple(dict.fromkeys(needs(name)))
        way.append((name, list(reversed(edges[name]))))
        on_the_way[name] = None

    enter(task)
    while way:
        name, left = way[-1]
        if not left:
            way.pop()
            del on_the_way[name]
            order.append(name)
            continue
        needed = left.pop()
        if needed in on_the_way:
            names = list(on_the_way)
            cycle = [*names[names.index(needed) :], needed]
            raise Invalid(f"Cyclic dependency detected: {' -> '.join(cycle)}", code="dependencies.cycle")
        if needed not in edges:
            enter(needed)
    return Graph(task, order, edges)


def as_text(found: Graph) -> str:
    """A tree; what was shown before is named only."""
    lines: list[str] = []
    shown: set[str] = set()

    def show(name: str, lead: str, tail: str) -> None:
        needs = found.edges[name]
        again = name in shown and bool(needs)
        lines.append(f"{lead}{name}{' (see above)' if again else ''}")
        if again:
            return
        shown.add(name)
        for n, needed in enumerate(needs):
            is_last = n == len(needs) - 1
            show(needed, tail + ("└─ " if is_last else "├─ "), tail + ("   " if is_last else "│  "))

    show(found.task, "", "")
    return "\n".join(lines)


def as_mermaid(found: Graph) -> str:
    """Arrows point from what runs first."""
    number = {name: n for n, name in enumerate(found.order)}
    lines = ["graph TD", *(f'    t{n}["{_escaped(name)}"]' for name, n in number.items())]
    return "\n".join([*lines, *(f"    t{number[needed]} --> t{number[name]}" for name, needed in _edges(found))])


def as_dot(found: Graph) -> str:
    """Arrows point from what runs first."""
    lines = [f'    "{_quoted(name)}";' for name in found.order]
    lines += [f'    "{_quoted(needed)}" -> "{_quoted(name)}";' for name, needed in _edges(found)]
    return "\n".join(["digraph tasks {", *lines, "}"])


def _edges(found: Graph) -> list[tuple[str, str]]:
    return [(name, needed) for name in found.order for needed in found.edges[name]]


def _escaped(name: str) -> str:
    return name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')
