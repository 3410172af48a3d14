"""`doctor`: what is in force and where it comes from, what was found, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cascadenced.commands.failures import DONE, FAILED
from cascadenced.commands.options import Command
from cascadenced.commands.session import Session, pass_session
from cascadenced.commands.tables import cell, coloured, fields, plain, table

if TYPE_CHECKING:
    from cascadenced.commands.examination import Report


@click.command(cls=Command)
@pass_session
def doctor(session: Session) -> int:
    """Check this installation.

    Settings and where each comes from, versions, data folder, log, plugins, schedules.yml, daemon. Changes nothing.
    Secrets are masked. Exits 1 when something is wrong; warnings are no errors.
    """
    import asyncio

    import msgspec

    from cascadenced.commands.examination import examine
    from cascadenced.commands.quiet import quiet

    with quiet(session.config):
        report = asyncio.run(examine(session.config))
    session.show(msgspec.to_builtins(report), _text(report))
    return FAILED if report.problems else DONE


def _text(report: Report) -> str:
    server, daemon, log = report.nats_server, report.daemon, report.log
    head = fields(
        [
            ("cascadenced", report.version),
            ("python", report.python),
            ("sqlite", report.sqlite),
            ("nats-server", server and f"{server.version}, {server.path}"),
            ("data folder", report.data_dir),
            ("daemon", f"up, process {daemon.pid}, {daemon.http_url}, bus {daemon.bus}" if daemon else "not up"),
            (
                "log",
                f"position {log.position}, epoch {log.epoch}, {log.n_unfinished} unfinished" if log else "none yet",
            ),
            ("instance", log and log.instance_id),
            ("tasks", ", ".join(report.tasks)),
        ]
    )
    settings = table(
        ("SETTING", "VALUE", "SOURCE"),
        [(s.key, f"{_value(s.value)} {s.unit}".strip(), cell(s.source)) for s in report.settings],
    )
    parts = [head, settings]
    if log:
        parts.append(table(("PROJECTION", "STATE"), list(log.projections.items())))
    parts += [_list("warning", report.warnings), _list("wrong", report.problems)]
    parts.append("" if report.problems else coloured("nothing is wrong", "ok"))
    return "\n\n".join(part for part in parts if part)


def _value(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else cell(value)


def _list(word: str, sentences: list[str]) -> str:
    return "\n".join(f"{coloured(word)}  {plain(sentence)}" for sentence in sentences)
