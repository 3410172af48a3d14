"""A virtual environment for each peer, made at its first use, with the versions that are compared."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from bench.apart import ROOT

REQUIREMENTS: Mapping[str, Sequence[str]] = {
    "dbos": ("dbos==3.4.0",),
    "huey": ("huey==3.5.4",),
    "apscheduler": ("apscheduler==3.11.3",),
    # The same client library as ours, so that only what stands on it differs.
    "faststream": ("faststream[nats]==0.7.8", f"nats-py=={metadata.version('nats-py')}"),
}
_KEPT = ROOT / ".bench" / "peers"


def python_of(peer: str) -> str:
    """The Python that has `peer` installed."""
    requirements = REQUIREMENTS[peer]
    digest = hashlib.sha256(" ".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    folder = _KEPT / f"{peer}-{digest}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        print(f"making an environment with {' '.join(requirements)} in {folder.relative_to(ROOT)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(install, check=True)
        ready.touch()
    return str(Path(python))
