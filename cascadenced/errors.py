"""Errors, sorted by what the reader should do.

Every `str(error)` is a whole sentence with the offending value and, where known, the remedy. Library errors are
translated into these where they enter (floor 1); whoever cannot act on one lets it pass.
"""

from __future__ import annotations


class CascadenceError(Exception):
    """Base of all errors raised on purpose.

    code: stable lower-case word for machines (`error` in HTTP answers, reason code in events).
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ConfigError(CascadenceError):
    """The configuration, or a file it names, must be mended by a person. Exit 78, before anything is opened."""

    code = "config"


class LogHeld(CascadenceError):
    """Another process holds the data folder. Exit 75. pid: the holder, if it could be read."""

    code = "log_held"

    def __init__(self, message: str, *, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


RESTORE = "put the file back, or restore a backup: `cascadenced log restore BACKUP --force`"


class LogCorrupt(CascadenceError):
    """The log's bytes are not what was written: the chain breaks. position: the first bad event."""

    code = "log_corrupt"

    def __init__(self, message: str, *, position: int) -> None:
        super().__init__(f"{message}. What comes before it is as it was recorded; for the rest, {RESTORE}")
        self.position = position


class VaultDamaged(CascadenceError):
    """A row of the vault was changed, swapped or torn: its seal is broken. The other rows are not affected."""

    code = "vault_damaged"


class BackupDamaged(CascadenceError):
    """A backup's bytes are not what was written, or some are missing. Exit 74: use another backup."""

    code = "backup_damaged"


class DiskError(CascadenceError):
    """A write or sync of the log failed. The daemon stops (exit 74): what is on disk is known only after a restart."""

    code = "disk_error"


class DataFolderGone(DiskError):
    """The files we hold open are not the ones in the data folder any more. Exit 74, and nothing is closed or removed by
    name: what lies there now is not ours."""

    code = "data_folder_gone"


class DiskFull(CascadenceError):
    """No space to write. Nothing was recorded; the same request may succeed when there is space (HTTP 507)."""

    code = "disk_full"


class WrongVersion(CascadenceError):
    """Another writer came first on this stream: read, decide, write again, at once."""

    code = "wrong_version"

    def __init__(self, stream: str, *, expected: int, actual: int) -> None:
        super().__init__(f"{stream} is at version {actual}, not {expected}: read it and decide again")
        self.stream, self.expected, self.actual = stream, expected, actual


class Unavailable(CascadenceError):
    """NATS or a peer does not answer: back off, keep what you hold, try again."""

    code = "unavailable"


class LogUnreadable(Unavailable):
    """The log's file is damaged where somebody wanted to read. Exit 74."""

    code = "log_unreadable"


class Overloaded(CascadenceError):
    """A bound is reached; nothing was accepted. Try again after `retry_after_s` seconds (HTTP 429)."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadMessage(CascadenceError):
    """Bytes from outside that cannot be what they claim: park them, never retry. code: the dead letter's reason."""

    code = "invalid"


class FutureSchema(BadMessage):
    """Written by a newer version than this one: parked, and read again after an upgrade."""

    code = "future_schema"


class Refused(CascadenceError):
    """The rule says no. Each kind maps to one HTTP status (`refusals.py`).

    recorded: whether an event of its own says so; else it is only counted.  event_id: that event's, if it is known.
    """

    code = "refused"
    recorded = False
    event_id: str | None = None


class Invalid(Refused, ValueError):
    """The request itself is wrong: a missing, ill-formed or oversize value (HTTP 400)."""

    code = "invalid"


class IllShaped(Invalid):
    """JSON, but not of the shape that is asked for: a field too many, one missing, one of another type (HTTP 422)."""

    code = "schema"


class Unknown(Refused):
    """No such task, run, event or verb (HTTP 404)."""

    code = "unknown"


class Conflict(Refused):
    """Valid, but not in the present state: disabled, paused, already there (HTTP 409)."""

    code = "conflict"


class NotAllowed(Refused):
    """The caller may not do this (HTTP 403)."""

    code = "not_allowed"


class PrecheckError(CascadenceError, RuntimeError):
    """`precheck` returned something other than True; a returned string is the reason."""

    code = "precheck_failed"


class TimeUp(CascadenceError, TimeoutError):
    """A stage took longer than its task allows."""

    code = "timeout"


class StepMismatch(CascadenceError):
    """A stage that runs again asks for something else than is recorded of it."""

    code = "step.mismatch"


class Superseded(CascadenceError):
    """An attempt that is over; whatever its code still does counts for nothing."""

    code = "superseded"


class Swallowed(CascadenceError):
    """A task's code caught what unwinds a stage that waits."""

    code = "suspension.swallowed"


class RunFailedError(CascadenceError, RuntimeError):
    """A run ended in error in another process or an earlier one; the original exception object is gone.

    error_type: class name of the original exception.
    """

    code = "run_failed"

    def __init__(self, message: str, *, error_type: str, run_id: str) -> None:
        super().__init__(message)
        self.error_type, self.run_id = error_type, run_id


def no_run(given: str) -> Unknown:
    """given: an id, or the beginning of one. A run that the caller may not know of is refused in the same words."""
    return Unknown(f"no run {given[:64]!r}: the list of runs has those there are")


def no_schedule(task: str) -> Unknown:
    """Of a task that never had one, or, where that is asked for, has none now."""
    return Unknown(f"Unknown schedule: {task}", code="unknown_schedule")
