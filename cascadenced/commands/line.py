"""A command line → one command of the table; every error → a line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from cascadenced import __version__
from cascadenced.commands import failures
from cascadenced.commands.options import shared
from cascadenced.commands.session import Session, print_json
from cascadenced.commands.tables import coloured, plain
from cascadenced.commands.transport import choose_transport, transport_options
from cascadenced.errors import CascadenceError

PROGRAM = "cascadenced"

COMMANDS: dict[str, str] = {
    "up": "up:up",
    "down": "up:down",
    "demo": "up:demo",
    "list": "tasks:list_",
    "run": "tasks:run",
    "run-async": "tasks:run_async",
    "trigger": "tasks:trigger",
    "enable": "tasks:enable",
    "disable": "tasks:disable",
    "pause": "tasks:pause",
    "resume": "tasks:resume",
    "cancel": "control:cancel",
    "signal": "control:signal",
    "resolve": "control:resolve",
    "status": "tasks:status",
    "runs": "runs:runs",
    "show": "runs:show",
    "explain": "explain:explain",
    "export": "run_files:export",
    "replay": "run_files:replay",
    "fork": "forks:fork",
    "diff": "explain:diff",
    "audit": "runs:audit",
    "partial": "runs:partial",
    "dispatch": "events:dispatch",
    "schedule": "schedules:schedule",
    "unschedule": "schedules:unschedule",
    "schedules": "schedules:schedules",
    "schedule-pause": "schedules:schedule_pause",
    "schedule-resume": "schedules:schedule_resume",
    "load-schedules": "schedules:load_schedules",
    "ticks": "schedules:ticks",
    "backfill": "schedules:backfill",
    "graph": "graph:graph",
    "pointer-add": "pointers:add",
    "pointer-list": "pointers:list_",
    "pointer-send": "pointers:send",
    "pointer-receive": "pointers:receive",
    "dead-letters": "dead_letters:dead_letters",
    "log": "log:log",
    "doctor": "doctor:doctor",
}
"""Name → module in commands/ and what it is called there; in the order of `--help`. Imported when used."""


class Commands(click.Group):
    """The commands of the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"cascadenced.commands.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command '{args[0]}'." + (f" Did you mean '{near[0]}'?" if near else ""))
        return super().resolve_command(ctx, args)


def _group() -> click.Group:
    group = Commands(
        name=PROGRAM,
        params=[*shared(), *transport_options()],
        callback=choose_transport,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        help=(
            "A small durable orchestrator.\n\n"
            "Commands talk to the daemon of the data folder if one is up, and else do the work themselves:\n\n"
            "\b\n"
            "  cascadenced run example --user-id alice --group-id eng\n"
            "  cascadenced up --detach\n"
            "  cascadenced status\n\n"
            "Exit codes: 0 done, 1 failed, 2 usage, 74 disk error, 75 the data folder is in use, 78 configuration."
        ),
    )
    return click.version_option(__version__, prog_name=PROGRAM)(group)


def run(args: Sequence[str], program: str) -> int:
    """See `cli.main`."""
    try:
        return _run(list(args), program)
    except OSError as error:
        return _output_failed(error)


def _run(args: list[str], program: str) -> int:
    """As `run`, but raises OSError when the output cannot be written."""
    session = Session()
    try:
        code = _group().main(args, prog_name=program, standalone_mode=False, obj=session)
        sys.stdout.flush()
    except click.UsageError as error:
        _complain(failures.usage(error), lead="")
        return failures.USAGE
    except click.ClickException as error:
        _complain(error.format_message())
        return failures.FAILED
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted", lead="")
        return failures.INTERRUPTED
    except CascadenceError as error:
        if session.as_json:
            print_json(failures.body(error))
            sys.stdout.flush()
        _complain(str(error) + ("" if session.as_json else _meant(session, str(error))))
        return failures.exit_code(error)
    except OSError:
        raise
    except SystemExit as error:  # shell completion ends so
        return error.code if isinstance(error.code, int) else failures.FAILED
    except Exception as error:  # noqa: BLE001 -- a fault of ours: said in full, so that it can be reported
        import traceback

        traceback.print_exc()
        _complain(f"internal error: {type(error).__name__}: {error}")
        return failures.FAILED
    return code if isinstance(code, int) else failures.DONE


def _meant(session: Session, complaint: str) -> str:
    """A line with the name that is most like the one that there is none of; nothing where none is like it."""
    what, _, name = complaint.partition(": ")
    verb = {"Unknown task": "list", "Unknown schedule": "schedules"}.get(what)
    if verb is None:
        return ""
    from difflib import get_close_matches

    try:
        found = session.ask("list") if verb == "list" else session.ask_all("schedules")["items"]
    except CascadenceError:
        return ""
    near = get_close_matches(name, [each["name" if verb == "list" else "task"] for each in found], n=1)
    return f"\ndid you mean {near[0]}?" if near else ""


def _complain(text: str, lead: str = "error: ") -> None:
    with contextlib.suppress(OSError):  # if nobody reads that either, the exit code still tells
        click.echo(coloured(lead, "error") + plain(text) if lead else plain(text), err=True)


def _output_failed(error: OSError) -> int:
    if error.filename is not None:
        _complain(str(error))
        return failures.FAILED
    # Nothing more can be written; without this, the interpreter would complain about it once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error.errno == errno.EPIPE:  # `… | head`
        return failures.FAILED
    _complain(f"the output cannot be written: {error.strerror or error}")
    return failures.DISK if error.errno == errno.ENOSPC else failures.FAILED
