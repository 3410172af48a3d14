"""What `deploy/` offers is accepted by whoever is to read it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cascadenced
from cascadenced import config

DEPLOY = Path(cascadenced.__file__).parent.parent / "deploy"
SAMPLE = (DEPLOY / "cascadence.yml").read_text()


def settings_in(text: str) -> config.Config:
    path = Path("cascadence.yml")
    path.write_text(text)
    return config.load(str(path), {})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_sample_configuration_is_valid_and_changes_no_more_than_the_data_folder() -> None:
    assert settings_in(SAMPLE) == config.Config(data_dir="/var/lib/cascadence", sources=settings_in(SAMPLE).sources)


def test_every_setting_stands_in_the_sample_with_its_default() -> None:
    everything = re.sub(r"^#(?=\w+:)", "", SAMPLE, flags=re.MULTILINE)
    found = settings_in(everything)
    assert set(found.sources) == set(config.Config._fields) - {"sources"}
    assert found == config.Config(data_dir="/var/lib/cascadence", sources=found.sources)


def test_the_sample_marks_the_settings_that_a_reload_changes() -> None:
    marked = {line[1:].partition(":")[0] for line in SAMPLE.splitlines() if "# live" in line}
    assert marked == {name for name, field in config.fields().items() if field.key.live}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_finds_nothing_wrong_with_the_unit() -> None:
    unit = (DEPLOY / "cascadenced.service").read_text()
    here = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", unit)
    here = re.sub(r"(?m)^(User|Group)=.*", r"\1=root", here)
    Path("cascadenced.service").write_text(here)
    checked = subprocess.run(["systemd-analyze", "verify", "./cascadenced.service"], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_unit_knows_the_exit_code_of_a_wrong_configuration_and_leaves_room_for_a_stop() -> None:
    unit = (DEPLOY / "cascadenced.service").read_text()
    assert "RestartPreventExitStatus=78\n" in unit
    (stop_s,) = re.findall(r"TimeoutStopSec=(\d+)", unit)
    assert int(stop_s) > config.Config().stop_grace_s + 10
