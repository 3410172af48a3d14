"""Whether a data folder has lost its log or its vault: looked at before either is opened, which would make a new one.

A service that is started again after its log was deleted must not go on as if nothing had ever been recorded.
"""

from __future__ import annotations

from pathlib import Path

from cascadenced.config import Config
from cascadenced.errors import ConfigError
from cascadenced.vault_file import keeps_anything


def refuse_incomplete(config: Config) -> None:
    """Raises ConfigError if one of log and vault is gone. Whoever calls holds the folder's lock, or only reads.

    A first start makes the vault before the log, and nobody is in it before both are there.
    """
    log, vault = config.log_path, config.vault_path
    if _is_there(log) and not vault.exists():
        raise ConfigError(
            f"{vault} is gone, though {log} is there: put it back, or restore a backup. With an empty file in its "
            "place the log goes on, but nobody knows any more for whom its runs and schedules are"
        )
    if not _is_there(log) and keeps_anything(vault):
        raise ConfigError(
            f"{log} is gone, though {vault} keeps names of those it was about: put it back, or restore a backup. To "
            f"begin anew, move {vault.name} away as well"
        )


def _is_there(log: Path) -> bool:
    return log.exists() and log.stat().st_size > 0
