"""What a task asks for beside its stages: retries, time limits, what becomes of an effect in doubt. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from cascadenced.errors import Invalid

MAX_ATTEMPTS = 1_000
LONGEST_S = 30 * 86_400.0
NEVER_AGAIN = frozenset(
    {
        "result.unserialisable",
        "result.too_large",
        "step.mismatch",
        "suspension.swallowed",
        "hook.missing",
        "plan.mixed",
        "plan.too_long",
        "plan.invalid",
        "plan.cyclic",
        "plan.too_deep",
        "plan.changed",
        "plan.failed",
        "in_doubt",
        "crash_loop",
        "cancelled",
    }
)
"""Error types that no Retry repeats, of a stage or of a run of a plan: what another attempt would not change, what
somebody has settled, and what has had its attempts."""

Delivery = Literal["at_least_once", "at_most_once"]
OnDoubt = Literal["ask", "retry", "fail"]
OnCodeChange = Literal["go_on", "stop"]
Isolation = Literal["thread", "process"]


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often a stage that raises is tried, and how long apart: `initial_s`, times `factor` at each further failure,
    at most `max_s`, each made shorter or longer by up to `jitter` of itself.

    max_attempts: the first one included.  retry_on, give_up_on: exception classes, or their names, with or without
    `module:` before them; the latter wins.
    """

    max_attempts: int = 3
    initial_s: float = 1.0
    factor: float = 2.0
    max_s: float = 60.0
    jitter: float = 0.1
    retry_on: tuple[type[BaseException] | str, ...] = (Exception,)
    give_up_on: tuple[type[BaseException] | str, ...] = ()

    def __post_init__(self) -> None:
        """Raises Invalid for what makes no sense."""
        if type(self.max_attempts) is not int or not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise Invalid(
                f"Retry: max_attempts must be a whole number from 1 to {MAX_ATTEMPTS}, not {self.max_attempts!r}"
            )
        for name, lowest, highest in (
            ("initial_s", 0, LONGEST_S),
            ("factor", 1, 100),
            ("max_s", 0, LONGEST_S),
            ("jitter", 0, 1),
        ):
            value = getattr(self, name)
            if type(value) not in (int, float) or not lowest <= value <= highest:
                raise Invalid(f"Retry: {name} must be a number from {lowest} to {highest:.12g}, not {value!r}")
        for name in ("retry_on", "give_up_on"):
            kinds = getattr(self, name)
            if not isinstance(kinds, tuple) or not all(map(_is_kind, kinds)):
                raise Invalid(f"Retry: {name} must be a tuple of exception classes or of their names, not {kinds!r}")

    def wants(self, error: BaseException) -> bool:
        """Whether another attempt may help after `error`. Its class is looked at, not asked."""
        lineage = _mro_of(type(error))
        return _names_one_of(self.retry_on, lineage) and not _names_one_of(self.give_up_on, lineage)

    def wants_named(self, lineage: Sequence[str]) -> bool:
        """As `wants`, where only names are known. lineage: `module:qualname` of the error's class, and those above."""
        known = {*lineage, *(name.rpartition(":")[2] for name in lineage)}
        return any(_name(kind) in known for kind in self.retry_on) and not any(
            _name(kind) in known for kind in self.give_up_on
        )

    def delay_s(self, n_failed: int, seed: str) -> float:
        """Seconds before the next attempt. n_failed: how many failed by now.  seed: which the jitter is drawn from."""
        plain = min(self.initial_s * self.factor ** min(n_failed - 1, 64), self.max_s)
        drawn = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) / 2**31 - 1
        return max(0.0, plain * (1 + self.jitter * drawn))


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of a process of its own. None: as the daemon's own.

    memory_bytes: of address space; a worker by itself takes about 100 MiB of that, most of it never touched.
    cpu_s: seconds of computing, of the process as a whole.  n_files: open file descriptors.
    """

    memory_bytes: int | None = None
    cpu_s: int | None = None
    n_files: int | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """retries, timeout_s: by stage.  max_concurrent: runs of the task at once; None: as many as there are slots.

    dependencies: tasks that must have run before each run of it.
    """

    retries: Mapping[str, Retry] = {}
    timeout_s: Mapping[str, float] = {}
    delivery: Delivery = "at_least_once"
    on_doubt: OnDoubt = "ask"
    on_code_change: OnCodeChange = "go_on"
    isolation: Isolation = "thread"
    limits: Limits = Limits()
    max_concurrent: int | None = None
    dependencies: tuple[str, ...] = ()


def _is_kind(kind: object) -> bool:
    return isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, BaseException))


def _names_one_of(kinds: tuple[type[BaseException] | str, ...], lineage: tuple[type, ...]) -> bool:
    return any(kind in _names_of(cls) if isinstance(kind, str) else kind is cls for kind in kinds for cls in lineage)


def _names_of(cls: type) -> tuple[str, ...]:
    """Not asked of the class itself, whose metaclass may have code of its own for that."""
    qualname = _qualname_of(cls)
    return _name_of(cls), qualname, f"{_module_of(cls)}:{qualname}"


def _name(kind: type[BaseException] | str) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}:{kind.__qualname__}"


_mro_of = type.__dict__["__mro__"].__get__
_name_of = type.__dict__["__name__"].__get__
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__
