"""How a stage in a worker process went, in text of our own: as `failure.tell` has it for what was raised among us.

A worker knows whom it runs for and may say so anywhere; here that is replaced.
"""

from __future__ import annotations

from cascadenced.events.content import MAX_SHOWN_CHARS, cut
from cascadenced.handlers.failure import MAX_TYPE_CHARS, Told, for_people
from cascadenced.identity import Redactor
from cascadenced.pipeline.policy import Limits
from cascadenced.runtime.worker import Died
from cascadenced.runtime.worker_output import Printed
from cascadenced.runtime.worker_protocol import OutOfMemory, Raised

OUT_OF_MEMORY = "worker.out_of_memory"


def told(outcome: Raised | OutOfMemory | Died, redact: Redactor, limits: Limits) -> Told:
    """The fields of StageFailed. limits: of the worker."""
    match outcome:
        case Raised():
            shown = None if outcome.partial_text is None else for_people(outcome.partial_text, redact)
            error_type = for_people(outcome.error_type, redact, MAX_TYPE_CHARS)
            reason = for_people(outcome.text, redact)
            return Told(error_type, reason, outcome.partial, shown, _where(outcome.where, redact))
        case OutOfMemory():
            reason = f"the stage needed more memory than the {limits.memory_bytes} bytes that its process may have"
            return Told(OUT_OF_MEMORY, reason, None, None, _where(outcome.where, redact))
        case Died():
            return Told(outcome.code, for_people(outcome.reason, redact), None, None, "")


def printed_for_people(printed: Printed, redact: Redactor, max_chars: int = MAX_SHOWN_CHARS) -> str | None:
    """What a stage printed, redacted and cut, and how much more it was; None for nothing."""
    text = redact(printed.text)
    if printed.n_dropped_bytes and not text.endswith("\n"):
        text = text[: -redact.reach or None]  # one line without an end: it may have been cut amid an id
    if printed.n_dropped_bytes:
        more = f"... and {printed.n_dropped_bytes} bytes more\n"
        return cut(text, max_chars - len(more)) + more
    return cut(text, max_chars) or None


def _where(where: str, redact: Redactor) -> str:
    return redact(where)[-MAX_SHOWN_CHARS:]
