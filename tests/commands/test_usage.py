"""What the command line takes, refuses and returns, whatever the command."""

from __future__ import annotations

import sys

import pytest

from cascadenced import __version__
from cascadenced.cli import main
from cascadenced.commands.line import COMMANDS
from tests.commands.conftest import WHO, outcome, spawn


def test_an_empty_command_line_is_a_usage_error_with_the_help(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cascadenced", "list"])  # main must not look at it
    for ran in (run(), run(*[])):
        assert ran.code == 2
        assert "Missing command" in ran.err
        assert "dispatch" in ran.err
    assert main() == 2


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(run, name):
    ran = run(name, "--help")
    assert ran.code == 0
    assert "--json" in ran.out
    assert len(ran.out.splitlines()[2].strip()) > 10


def test_the_list_of_commands_has_no_cut_off_line(run):
    listed = run("--help").out.partition("Commands:")[2]
    assert "..." not in listed
    assert all(name in listed for name in COMMANDS)


def test_the_version_is_told(run):
    assert __version__ in run("--version").out


@pytest.mark.parametrize("command", ["run", "run-async", "trigger", "dispatch"])
@pytest.mark.parametrize("missing", ["--user-id", "--group-id"])
def test_a_missing_option_is_named(run, command, missing):
    given = [word for option in ("--user-id", "--group-id") if option != missing for word in (option, "x")]
    ran = run(command, "example", *given)
    assert ran.code == 2
    assert missing in ran.err


@pytest.mark.parametrize("command", ["enable", "disable", "pause", "resume"])
def test_a_switch_needs_a_group(run, command):
    ran = run(command, "example")
    assert ran.code == 2
    assert "--group-id" in ran.err


def test_an_unknown_command_is_told_with_the_nearest(run):
    ran = run("stats")
    assert ran.code == 2
    assert "Did you mean 'status'?" in ran.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ('{"a":', "not JSON"),
        ("[1]", "must be a JSON object"),
        ("3", "must be a JSON object"),
        ('{"a": 1, "a": 2}', "the same key twice"),
        ("[" * 100, "nested more than"),
        ('{"a": "\udcff"}', "invalid UTF-8"),
    ],
)
def test_args_that_are_no_json_object_are_refused_in_a_sentence(run, args, said):
    ran = run("run", "example", *WHO, "--args", args)
    assert ran.code == 2
    assert "--args" in ran.err
    assert said in ran.err


def test_text_that_is_not_utf8_is_refused(run):
    ran = run("run", "\udcff", *WHO)
    assert (ran.code, ran.err) == (1, "error: an argument is not valid UTF-8\n")


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_shared_options_may_stand_on_either_side(run, tmp_path, where):
    shared = ["--json", "--data-dir", str(tmp_path / "other")]
    ran = run(*shared, "status") if where == "before" else run("status", *shared)
    assert ran.json["position"] == 0
    run("run", "example", *WHO, "--data-dir", str(tmp_path / "other"))
    assert (tmp_path / "other" / "log.db").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--transport", "grpc"], "--grpc-stub is required for grpc transport"),
        (["--transport", "nats"], "--nats-conn is required for nats transport"),
        (["--transport", "pigeon"], "Unknown transport: pigeon"),
        (["--transport", "grpc", "--grpc-stub", "m:a"], "not supported by this version"),
    ],
)
def test_misuse_of_the_transport_options_is_a_usage_error(run, args, said):
    ran = run(*args, "list")
    assert ran.code == 2
    assert said in ran.err


def test_a_nats_transport_is_taken_over_as_settings(run):
    ran = run("--transport", "nats", "--nats-conn", "nats://u:p@h:1", "--nats-subject", "x.y", "--json", "doctor")
    settings = {setting["key"]: setting["value"] for setting in ran.json["settings"]}
    assert settings["nats_url"] == "nats://********@h:1"
    assert settings["ume_nats_subject"] == "x.y"


def test_a_mistake_in_the_configuration_exits_78(run, monkeypatch, tmp_path):
    (tmp_path / "bad.yml").write_text("http_port: many\nnonsense: 1\n")
    ran = run("--config", "bad.yml", "list")
    assert ran.code == 78
    assert "bad.yml:1" in ran.err
    assert "bad.yml:2" in ran.err
    assert run("list", "--config", "nowhere.yml").code == 78


def test_a_data_folder_that_is_a_file_exits_78(run, tmp_path):
    (tmp_path / "file").touch()
    for command in (["list"], ["runs"], ["log", "verify"], ["run", "example", *WHO]):
        ran = run(*command, "--data-dir", str(tmp_path / "file"))
        assert ran.code == 78
        assert "not a folder" in ran.err


def test_a_fault_of_ours_is_told_in_full_and_raises_nothing(run, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("cascadenced.commands.door.call", broken)
    ran = run("list")
    assert ran.code == 1
    assert "Traceback" in ran.err
    assert "internal error: ZeroDivisionError: oops" in ran.err


def test_an_interrupt_exits_130(run, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cascadenced.commands.door.call", interrupted)
    ran = run("run", "example", *WHO)
    assert ran.code == 130
    assert "interrupted" in ran.err


@pytest.mark.slow
def test_the_real_entry_passes_arguments_and_exit_codes(folder):
    ran = outcome(spawn("list"))
    assert (ran.code, ran.err) == (0, "")
    assert "example\tenabled\n" in ran.out
    assert outcome(spawn("run", "nope", *WHO)).code == 1
    assert outcome(spawn("run", "example")).code == 2
    assert outcome(spawn("list", CASCADENCE_HTTP_PORT="x")).code == 78


@pytest.mark.slow
def test_output_that_nobody_can_take_is_no_traceback(folder):
    outcome(spawn("run", "example", *WHO))
    with open("/dev/full", "w") as full:
        process = spawn("log", "export")
        process.stdout.close()  # as `| head` does
        assert "Traceback" not in process.stderr.read()
        assert process.wait(30) == 1
        process.stderr.close()
        import os
        import subprocess

        process = subprocess.run(
            [sys.executable, "-m", "cascadenced", "list"], stdout=full, stderr=subprocess.PIPE, text=True,
            env=dict(os.environ),
        )  # fmt: skip
    assert (process.returncode, "Traceback" in process.stderr) == (74, False)
    assert "cannot be written" in process.stderr
