"""cascadenced: a small durable orchestrator. Facts are written once, folded into tables, and lead to work whose outcome
is again a fact.

    NATS ──ingest──▶ event log + tables (one append) ──▶ http, commands
    NATS ◀──outbox──     │  ▲
                         │  └──record── handlers          (a handler's result is the next fact)
                         └────runs────────▲

Imports go down only:

    6 faces     http/  rpc.py  verbs/  commands/  cli.py; refusals.py  logs.py  loose_ends.py  reloading.py
    5 work      handlers/  plugins/  workflows/  partial_results.py  worker/ (a process of its own)
    4 movement  runtime/      the loops; none knows what the work is
    3 views     projections/  events → rows, rows → answers
    2 rules     pipeline/     state + event → events, pure; recurrence/  when; schedules/  what of it; calendar_files.py
    1 log       eventlog/  bus/  vault.py  vault_file.py  backup.py  completeness.py
    0 facts     events/  ids.py  identity.py  clock.py  errors.py  config.py (setting_rules.py  plain_yaml.py
                shown_settings.py)  private_files.py  crashpoint.py  garbage.py  sd_notify.py  in_either_world.py
                job_thread.py  replaying.py

`daemon.py` stands above all floors (connecting.py: how it comes to NATS); `instance.py` is what it shares with commands
and `task_pipeline.py`. What lies in a folder is told by the docstring of its `__init__.py`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cascadenced.errors import PrecheckError
    from cascadenced.partial_results import recover_partial
    from cascadenced.pipeline.policy import Limits, Retry
    from cascadenced.plugins.base import BaseTask, CronTask, ManualTrigger, ParallelPlan, PointerTask, WebhookTask
    from cascadenced.task_pipeline import TaskPipeline

__all__ = [
    "BaseTask",
    "CronTask",
    "Limits",
    "ManualTrigger",
    "ParallelPlan",
    "PointerTask",
    "PrecheckError",
    "Retry",
    "TaskPipeline",
    "WebhookTask",
    "__version__",
    "recover_partial",
]

_HOME = {
    "BaseTask": "cascadenced.plugins.base",
    "CronTask": "cascadenced.plugins.base",
    "Limits": "cascadenced.pipeline.policy",
    "ManualTrigger": "cascadenced.plugins.base",
    "ParallelPlan": "cascadenced.plugins.base",
    "Retry": "cascadenced.pipeline.policy",
    "PointerTask": "cascadenced.plugins.base",
    "WebhookTask": "cascadenced.plugins.base",
    "PrecheckError": "cascadenced.errors",
    "TaskPipeline": "cascadenced.task_pipeline",
    "recover_partial": "cascadenced.partial_results",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that a command does not pay for what it does not need."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
