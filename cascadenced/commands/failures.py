"""An error → what the user reads and the exit code. The one place that knows exit codes."""

from __future__ import annotations

import click

from cascadenced.errors import (
    BackupDamaged,
    CascadenceError,
    ConfigError,
    DiskError,
    DiskFull,
    LogCorrupt,
    LogHeld,
    LogUnreadable,
    RunFailedError,
)

DONE = 0
FAILED = 1
USAGE = 2
DISK = 74
HELD = 75
CONFIGURATION = 78
INTERRUPTED = 130

_CODES: tuple[tuple[type[CascadenceError], int], ...] = (
    (ConfigError, CONFIGURATION),
    (LogHeld, HELD),
    (LogCorrupt, DISK),
    (LogUnreadable, DISK),
    (BackupDamaged, DISK),
    (DiskError, DISK),
    (DiskFull, DISK),
)


def exit_code(error: CascadenceError) -> int:
    """The first that fits; 1 for everything that is not about this machine."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def body(error: CascadenceError) -> dict[str, str]:
    """What `--json` prints: the body that the HTTP route would answer with."""
    run = {"run_id": error.run_id} if isinstance(error, RunFailedError) else {}
    return {"detail": str(error), "error": error.code, **run}


def usage(error: click.UsageError) -> str:
    """The message of a command line that cannot be understood, with where to look."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return f"{error.format_message()}\n\nerror: Missing command."
    lines = [f"error: {error.format_message()}"]
    if error.ctx is not None:
        lines.insert(0, error.ctx.get_usage())
        lines.append(f"Try '{error.ctx.command_path} --help'.")
    return "\n".join(lines)
