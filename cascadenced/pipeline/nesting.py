"""How deep plans may lie within plans. Pure."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NESTING = 16
"""Plans within plans."""
MAX_ABOVE_ITSELF = 4
"""How often a task may stand above itself: two of it in each of its plans are 2^5 runs by then, and 2^16 at the other
bound."""
_NAMED = 6
"""Of a line, the last ones."""


def may_be_too_deep(nesting: int) -> bool:
    """Whether there is anything to look at in the line of a run that has so many parents."""
    return nesting > MAX_ABOVE_ITSELF


def refusal(line: Sequence[str], *, is_task: bool = True) -> tuple[str, str] | None:
    """(code, reason) why the last of `line` may not have a plan of tasks, or None.

    line: tasks of the runs that one asked for the other, from the first one on.
    is_task: whether the last one is a task; else it is a list within a plan, and those all have the same name.
    """
    *above, task = line
    n_above = above.count(task)
    named = " → ".join([*(["…"] if len(line) > _NAMED else []), *line[-_NAMED:]])
    remedy = "Let its plan() return data, or nothing, where that is to end"
    if is_task and n_above > MAX_ABOVE_ITSELF:
        reason = f"the task {task} stands {n_above} times above itself ({named}): it plans itself. {remedy}"
        return "plan.cyclic", reason
    if len(above) >= MAX_NESTING:
        reason = f"plans are nested more than {MAX_NESTING} deep ({named}): does a task plan itself? {remedy}"
        return "plan.too_deep", reason
    return None
