"""What an exception of task code says, in text of our own: redacted, cut, whatever its methods do."""

from __future__ import annotations

import builtins
import traceback
from pathlib import Path

import msgspec

import cascadenced
from cascadenced.errors import PrecheckError, StepMismatch, Superseded, Swallowed, TimeUp
from cascadenced.events.base import Json
from cascadenced.events.content import (
    MAX_READ_CHARS,
    MAX_SHOWN_CHARS,
    TooLarge,
    Unserialisable,
    cut,
    partial_of,
    plain,
    text_of,
    type_name,
)
from cascadenced.handlers.research import ResearchFailed
from cascadenced.identity import Redactor
from cascadenced.runtime.spawn import TaskExit, as_raised

MAX_TYPE_CHARS = 120
MAX_FRAMES = 64

_CODED = (Unserialisable, TooLarge, TimeUp, StepMismatch, Superseded, Swallowed)
"""Ours, known by their code rather than by their class."""
_OURS = (*_CODED, PrecheckError, ResearchFailed, TaskExit)
_HARMLESS = frozenset(_OURS).union(
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type)
    and issubclass(kind, BaseException)
    and (kind.__str__ is BaseException.__str__ or kind is KeyError)
)
"""Types whose instances have no code of anybody else's, as long as their arguments have none."""
_SCALARS = (str, int, float, bool, type(None))
_PACKAGE = Path(cascadenced.__file__).parent
_ABOVE_THE_TASK = (f"{_PACKAGE / 'handlers'}/", f"{_PACKAGE / 'runtime'}/")


class Told(msgspec.Struct, frozen=True):
    """The fields of StageFailed. where: the traceback."""

    error_type: str
    reason: str
    partial: Json
    shown: str | None
    where: str


def tell(error: BaseException, redact: Redactor) -> Told:
    """Read `error`. Raises nothing, but takes as long as the exception's own methods take."""
    partial, text = partial_of(error)
    shown = None if text is None else for_people(text, redact)
    return Told(error_type(error, redact), for_people(_text(error), redact), partial, shown, _where(error, redact))


def error_type(error: BaseException, redact: Redactor) -> str:
    """The name of its class, or the code that we gave it."""
    name = plain(error.code) if type(error) in _CODED else type_name(error)  # type: ignore[attr-defined]
    return for_people(name, redact, MAX_TYPE_CHARS)


def is_harmless(error: BaseException) -> bool:
    """Whether reading `error` runs no code of a task's, so that it takes no time."""
    kind = type(error)
    return (
        type(kind) is type
        and kind in _HARMLESS
        and all(type(name) is str and name != "partial" for name in error.__dict__)
        and all(
            type(value) in _SCALARS and (type(value) is not str or len(value) <= MAX_READ_CHARS) for value in error.args
        )
    )


def _text(error: BaseException) -> str:
    # A KeyError's text is only the key, which says nothing by itself.
    return f"KeyError: {text_of(error)}" if issubclass(type(error), KeyError) else text_of(error)


def _where(error: BaseException, redact: Redactor) -> str:
    """Where `error` was raised, the end of it, without our own frames above the task's."""
    try:
        frames = traceback.extract_tb(as_raised(error).__traceback__, limit=-MAX_FRAMES)
        own = [frame for frame in frames if not frame.filename.startswith(_ABOVE_THE_TASK)]
        return redact(plain("".join(traceback.format_list(own or frames))))[-MAX_SHOWN_CHARS:]
    except BaseException:  # noqa: BLE001 -- a hostile __traceback__
        return ""


def for_people(text: str, redact: Redactor, max_chars: int = MAX_SHOWN_CHARS) -> str:
    """`text`, which is `plain`, redacted and cut."""
    redacted = redact(text)
    if len(text) > MAX_READ_CHARS:
        redacted = redacted[: -redact.reach or None]  # it may have ended amid an id, which is none then
    return cut(redacted, max_chars)
