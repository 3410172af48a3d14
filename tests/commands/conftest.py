"""The command line as a user has it: an empty folder, a clean environment, no daemon, no NATS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cascadenced
from cascadenced.cli import main
from tests.commands.stub import StubDaemon

REPO = Path(cascadenced.__file__).parent.parent
WHO = ("--user-id", "alice", "--group-id", "eng")

TASKS = '''
import os, time
from cascadenced import CronTask
from cascadenced.workflows import dispatch

class Loud(CronTask):
    name = "loud"
    def run(self):
        print("printed by the task")
        return {"args": self.args}

class Boom(CronTask):
    name = "boom"
    def run(self):
        raise RuntimeError("boom")

class Waits(CronTask):
    """Until a file appears."""
    name = "waits"
    def run(self):
        while not os.path.exists(self.args["file"]):
            time.sleep(0.01)
        return "seen"

class Patient(CronTask):
    """Waits for an event after a step."""
    name = "patient"
    def run(self):
        self.step("measure", lambda: 7)
        self.wait_for("go", timeout_s=3600)
        return self.context

class AfterPatient(CronTask):
    name = "after-patient"
    dependencies = ["patient"]
    def run(self): return "after it"

class Bills(CronTask):
    """Dies the first time, in an effect that must not happen twice."""
    name = "bills"
    delivery = "at_most_once"
    def run(self):
        if not os.path.exists("billed"):
            open("billed", "w").close()
            os._exit(9)
        return "billed"

class Part(CronTask):
    name = "part"
    def run(self):
        return self.wait_for("part.go")

class Whole(CronTask):
    name = "whole"
    def plan(self):
        return [Part(), Part()]

class First(CronTask):
    """Dies a while after it was asked for."""
    name = "first"
    def run(self):
        time.sleep(0.5)
        os._exit(9)

class Needs(CronTask):
    name = "needs"
    dependencies = ["first"]
    def run(self):
        return "done"

class Apart(CronTask):
    name = "apart"
    isolation = "process"
    def run(self):
        print("first line")
        print("second line")

class Inside(CronTask):
    name = "inside"
    def run(self):
        return dispatch("demo.greeting", {}, user_id="u")
'''


class Ran:
    """What a command printed, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, which does not exist yet."""
    for name in list(os.environ):
        if name.startswith(("CASCADENCE", "NATS_", "UME_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CASCADENCE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CASCADENCE_LOCK_WAIT_S", "0.3")
    return tmp_path / "data"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tasks above, installed from a file in the working folder."""
    (tmp_path / "own_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    paths = ",".join(
        f"own_tasks:{name}"
        for name in (
            *("Loud", "Boom", "Waits", "Patient", "AfterPatient", "Bills", "Part", "Whole", "Inside", "Apart"),
            *("First", "Needs"),
        )
    )
    monkeypatch.setenv("CASCADENCE_PLUGIN_PATHS", paths)
    yield
    sys.modules.pop("own_tasks", None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """A command line in this process."""

    def call(*args: object) -> Ran:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Ran(code, *capsys.readouterr())

    return call


def spawn(*args: object, **environment: str) -> subprocess.Popen[str]:
    """The same as a process of its own, through the real entry point."""
    return subprocess.Popen(
        [sys.executable, "-m", "cascadenced", *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(REPO), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> Ran:
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()  # of one that hangs, nothing is left to other tests
        process.wait()
    return Ran(process.returncode, out, err)


@pytest.fixture
def daemon(folder: Path) -> Iterator[StubDaemon]:
    """Something that answers on the folder's socket as a daemon would."""
    with StubDaemon(folder) as stub:
        yield stub
