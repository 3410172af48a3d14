"""Whether a file is still where it was opened.

Who deletes, moves or replaces a data folder under a running daemon leaves it writing into files that nobody will find
again. SQLite does not notice. Only names are looked at: nothing is opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from cascadenced.errors import DataFolderGone


class Place:
    """Of one file, from when it was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = os.stat(path)
        self._inode = found.st_dev, found.st_ino

    def check(self) -> None:
        """Raises DataFolderGone if the name is gone, or another file's by now."""
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise DataFolderGone(
                f"{self._path} is gone ({error.strerror}): the data folder was deleted, moved or unmounted under the "
                "running daemon; put it back and start again"
            ) from None
        if (found.st_dev, found.st_ino) != self._inode:
            raise DataFolderGone(
                f"{self._path} is another file than the one that was opened: the data folder was replaced under the "
                "running daemon; start again to use the new one"
            )
