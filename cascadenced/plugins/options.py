"""What a task's class attributes ask for → its policy, or a refusal that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from cascadenced.errors import Invalid
from cascadenced.pipeline.model import STAGES
from cascadenced.pipeline.policy import (
    LONGEST_S,
    Delivery,
    Isolation,
    Limits,
    OnCodeChange,
    OnDoubt,
    Policy,
    Retry,
)

MAX_CONCURRENT = 100_000

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "delivery": get_args(Delivery),
    "on_doubt": get_args(OnDoubt),
    "on_code_change": get_args(OnCodeChange),
    "isolation": get_args(Isolation),
}
MAX_DEPENDENCIES = 100

T = TypeVar("T")


def policy_of(target: object, name: str) -> Policy:
    """Raises Invalid naming the attribute and what it may be."""
    chosen: dict[str, Any] = {}
    for option, choices in _CHOICES.items():
        value = getattr(target, option, None)
        if value is None:
            continue
        if value not in choices:
            raise Invalid(f"Task '{name}': {option} must be {' or '.join(map(repr, choices))}, not {value!r}")
        chosen[option] = value
    limits = getattr(target, "limits", None)
    if limits is not None:
        if not isinstance(limits, Limits):
            raise Invalid(f"Task '{name}': limits must be a Limits, not a {type(limits).__name__}")
        if chosen.get("isolation") != "process":
            raise Invalid(f"Task '{name}': limits need isolation = 'process'")
        chosen["limits"] = limits
    n = getattr(target, "max_concurrent", None)
    if n is not None and (type(n) is not int or not 1 <= n <= MAX_CONCURRENT):
        raise Invalid(f"Task '{name}': max_concurrent must be a whole number from 1 to {MAX_CONCURRENT}, not {n!r}")
    return Policy(
        retries=_by_stage(target, name, "retries", _checked_retry),
        timeout_s=_by_stage(target, name, "timeout_s", _checked_seconds),
        max_concurrent=n,
        dependencies=_dependencies(target, name),
        **chosen,
    )


def _dependencies(target: object, name: str) -> tuple[str, ...]:
    value = getattr(target, "dependencies", None)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) and each for each in value):
        raise Invalid(f"Task '{name}': dependencies must be a list of task names, not {value!r:.80}")
    if len(value) > MAX_DEPENDENCIES:
        raise Invalid(f"Task '{name}': there may be {MAX_DEPENDENCIES} dependencies, not {len(value)}")
    return tuple(dict.fromkeys(value))


def _by_stage(target: object, name: str, option: str, check: Callable[[str, object], T]) -> dict[str, T]:
    """One value for all stages, or a mapping by stage."""
    value = getattr(target, option, None)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        checked = check(f"Task '{name}': {option}", value)
        return dict.fromkeys(STAGES, checked)
    for stage in value:
        if stage not in STAGES:
            raise Invalid(f"Task '{name}': {option} names the stage {stage!r}; there are {', '.join(STAGES)}")
    return {stage: check(f"Task '{name}': {option}[{stage!r}]", each) for stage, each in value.items()}


def _checked_retry(what: str, value: object) -> Retry:
    if not isinstance(value, Retry):
        raise Invalid(f"{what} must be a Retry, or a mapping of stages to them, not {value!r}")
    return value


def _checked_seconds(what: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= LONGEST_S:
        raise Invalid(f"{what} must be a number of seconds above 0 and up to {LONGEST_S:.12g}, not {value!r}")
    return float(value)
