"""Whether there is a log to read, said before anything opens it."""

from __future__ import annotations

import stat
from pathlib import Path

from cascadenced.config import Config
from cascadenced.errors import ConfigError


def has_log(config: Config) -> bool:
    """False where nothing was recorded yet. Raises ConfigError for a data folder that cannot be looked into."""
    folder = Path(config.data_dir)
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise ConfigError(f"{folder} is not a folder: choose another data_dir")
        return config.log_path.exists()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{folder} cannot be looked into: {error.strerror}") from None
