"""Tasks: which there are, running them, and their switches."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command, JsonObject, group_id, key, looks_like_run, user_id
from cascadenced.commands.session import Session, pass_session, remark
from cascadenced.commands.tables import coloured, fields, plain, table, when
from cascadenced.errors import RunFailedError, Unknown


@click.command("list", cls=Command)
@pass_session
def list_(session: Session) -> None:
    """List all registered tasks.

    One a line: NAME<TAB>enabled or disabled. Works on a fresh machine too: the tasks that come along and those of
    installed plugins are listed. What `plugin_paths` names and cannot be loaded is told on stderr.
    """
    tasks = session.ask("list")
    session.show(tasks, "\n".join(f"{task['name']}\t{'disabled' if task['disabled'] else 'enabled'}" for task in tasks))
    if session.config.plugin_paths and not session.as_json:
        for plugin, why in session.ask("status")["rejected"].items():
            remark(f"warning: {plain(plugin)} is not loaded: {plain(why)}")


def _run_command(name: str, line: str, text: str) -> click.Command:
    """A command that runs a task. line: what names the run on stdout, with a place for its id."""
    verb = "trigger" if name == "trigger" else "run"

    @click.command(name, cls=Command, help=text)
    @click.argument("name")
    @user_id
    @group_id
    @click.option("--args", type=JsonObject(), metavar="JSON", help="What the task finds in `self.args`: an object.")
    @key
    @click.option("--no-wait", is_flag=True, help="Return when the run is recorded, not when it has ended.")
    @pass_session
    def command(
        session: Session,
        name: str,
        user_id: str,
        group_id: str,
        args: dict[str, Any] | None,
        idempotency_key: str | None,
        no_wait: bool,
    ) -> None:
        try:
            result = session.ask(
                verb,
                task=name,
                user_id=user_id,
                group_id=group_id,
                args=args,
                idempotency_key=idempotency_key,
                wait=not no_wait,
            )
        except RunFailedError as error:
            # It ended badly, but it is a run like any other: `show` tells the rest.
            if not session.as_json:
                click.echo(line.format(error.run_id))
            raise
        session.show(result, line.format(result["run_id"]))

    return command


_RUN_HELP = """Run the task NAME and wait for its end.

    Prints run-id<TAB>ID. A run that fails prints its id as well, then `error: <reason>`, and exits 1; `show ID` tells
    the rest. Without a daemon the run happens in this process, and --no-wait returns only when it is over, or waits.

    \b
    Example: cascadenced run countdown --user-id alice --group-id eng --args '{"seconds": 0.2}'
"""

run = _run_command("run", "run-id\t{}", _RUN_HELP)
run_async = _run_command(
    "run-async",
    "run-id\t{}",
    "The same as `run`.\n\nWhether a task is asynchronous is known by itself. Prints run-id<TAB>ID.",
)
trigger = _run_command(
    "trigger",
    "run id: {}",
    """Run the manual task NAME and wait for its end.

    Manual tasks are those made as a ManualTrigger. Prints `run id: ID`.

    \b
    Example: cascadenced trigger countdown --user-id alice --group-id eng --args '{"seconds": 0.2}'
""",
)


def _switch_command(name: str, done: str, text: str) -> click.Command:
    @click.command(name, cls=Command, help=text)
    @click.argument("task", metavar="NAME")
    @click.option("--user-id", metavar="ID", help="Who does this; the audit trail shows the pseudonym.")
    @group_id
    @pass_session
    def command(session: Session, task: str, user_id: str | None, group_id: str) -> None:
        result = session.ask(name, task=task, user_id=user_id, group_id=group_id)
        session.show(result, f"{task} {done}")

    return command


enable = _switch_command(
    "enable",
    "enabled",
    """Accept runs of the task NAME again.

    \b
    Example: cascadenced enable example --group-id eng
""",
)
disable = _switch_command(
    "disable",
    "disabled",
    """Refuse new runs of the task NAME until it is enabled.

    It stays so over restarts; runs under way go on.

    \b
    Example: cascadenced disable example --group-id eng
""",
)


def _pause_command(name: str, done: str, text: str) -> click.Command:
    @click.command(name, cls=Command, help=text)
    @click.argument("target", metavar="NAME|RUN")
    @click.option("--job-id", metavar="RUN", help="Which run of the task NAME.")
    @click.option("--user-id", metavar="ID", help="Who does this; needed where a run of the task NAME is under way.")
    @group_id
    @key
    @pass_session
    def command(
        session: Session,
        target: str,
        job_id: str | None,
        user_id: str | None,
        group_id: str,
        idempotency_key: str | None,
    ) -> None:
        who = {"user_id": user_id, "group_id": group_id, "idempotency_key": idempotency_key}
        of_task = None
        try:
            result = session.ask(name, task=target, job_id=job_id, **who)
            of_task = result["run_id"]
        except Unknown as error:
            if error.code == "not_running" or job_id is not None or not looks_like_run(target):
                raise
            result = session.ask(f"{name}_run", run=target, **who)
        session.show(result, f"{plain(target)} {done}")
        if of_task is not None and job_id is None and not session.as_json:
            remark(f"that is its run {of_task}; the task itself is as it was")

    return command


pause = _pause_command(
    "pause",
    "paused",
    """Pause a run, or a task.

    Of the task NAME its newest run under way is paused: the stage under way ends, and nothing new starts until
    `resume`. Runs that are paused already are passed over; where no other is under way, the task itself is paused: new
    runs are refused. RUN is a run's id, or the first 8 or more characters of it.

    \b
    Example: cascadenced pause example --user-id alice --group-id eng
             cascadenced pause 01a0c4506c00 --group-id eng
""",
)
resume = _pause_command(
    "resume",
    "resumed",
    """Let a paused run or task go on.

    Of the task NAME its newest paused run goes on; where none is paused, the task itself accepts runs again.

    \b
    Example: cascadenced resume example --user-id alice --group-id eng
""",
)


@click.command(cls=Command)
@click.argument("task", required=False)
@pass_session
def status(session: Session, task: str | None) -> None:
    """How the daemon and its tasks are doing.

    With TASK: that one, and its newest runs. Without a daemon: how they stood when something was last recorded.
    """
    result = session.ask("status", task=task)
    session.show(result, _instance(session, result) if task is None else _one_task(result))


def _instance(session: Session, status: dict[str, Any]) -> str:
    bus = status["bus"]
    up = bus is not None
    tasks = status["tasks"]
    head = fields(
        [
            (
                "daemon",
                f"{coloured('up', 'ok')}, version {status['version']}"
                if up
                else f"not up (cascadenced{session.given()} up)",
            ),
            ("instance", status["instance_id"] or None),
            ("data", session.config.data_dir),
            ("position", status["position"]),
            ("uptime", f"{status['uptime_s']:.0f} s" if up else None),
            ("runs", f"{status['n_running']} running, {status['n_queued']} {'queued' if up else 'unfinished'}"),
            ("bus", bus and f"{'connected to' if bus['connected'] else 'no connection to'} {bus['url']}"),
            ("unpublished", bus and bus["outbox_pending"]),
            ("last break", bus and bus.get("last_break")),
            ("read only", status["read_only"]),
            *((f"frozen {name}", reason) for name, reason in status["frozen"].items()),
            *(("not loaded", f"{plugin}: {reason}") for plugin, reason in status["rejected"].items()),
        ]
    )
    headers = ("TASK", "KIND", "STATE", "UNDER WAY", "QUEUED", "STAGE", "LAST", "FINISHED")
    rows = [
        (t["name"], t["kind"], _state(t), t["running"], t["queued"], t["stage"], t["last_status"],
         when(t["last_finished_at"]))
        for t in tasks
    ]  # fmt: skip
    return f"{head}\n\n{table(headers, rows, spare=('STAGE', 'KIND', 'QUEUED', 'UNDER WAY'))}"


def _one_task(task: dict[str, Any]) -> str:
    head = fields(
        [
            ("task", plain(task["name"])),
            ("kind", f"{task['kind']}, {task['mode']}"),
            ("state", coloured(_state(task))),
            ("runs", f"{task['running']} under way, {task['queued']} queued"),
            ("stage", task["stage"]),
            ("last", task["last_status"] and coloured(task["last_status"])),
            ("finished", when(task["last_finished_at"])),
            ("pointers", task["n_pointers"] or None),
            ("stale since", task["stale_since"]),
        ]
    )
    recent = [(run["run_id"], run["status"], when(run["requested_at"])) for run in task["recent_runs"]]
    return head if not recent else f"{head}\n\n{table(('RUN', 'STATUS', 'REQUESTED'), recent)}"


def _state(task: dict[str, Any]) -> str:
    return "disabled" if task["disabled"] else "paused" if task["paused"] else "enabled"
