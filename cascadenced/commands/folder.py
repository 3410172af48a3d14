"""Whether there is a log to read, said before anything is made of it."""

from __future__ import annotations

import stat
from pathlib import Path

from cascadenced.config import Config
from cascadenced.errors import ConfigError
from cascadenced.eventlog.at_rest import is_complete


def has_log(config: Config) -> bool:
    """False where nothing was recorded yet; also while another process is just making the file.

    Raises ConfigError for a data folder that cannot be looked into, Unavailable for a file that cannot be read.
    """
    folder = Path(config.data_dir)
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise ConfigError(f"{folder} is not a folder: choose another data_dir")
        if not config.log_path.exists():
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{folder} cannot be looked into: {error.strerror}") from None
    return is_complete(config.log_path)
