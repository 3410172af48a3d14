"""The configuration: what wins, what is refused, and that nothing secret is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cascadenced
from cascadenced.config import FILE_NAME, MASK, MAX_FILE_BYTES, MAX_SOCKET_PATH_BYTES, Config, load
from cascadenced.errors import ConfigError
from cascadenced.shown_settings import show

REPO = Path(cascadenced.__file__).parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in an empty folder, so that no file of the machine gets in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def yaml(text: str, name: str = FILE_NAME) -> str:
    Path(name).write_text(text)
    return name


def mistakes(text: str | None = None, environ: dict[str, str] | None = None, **overrides: object) -> list[str]:
    """The lines of the error that this configuration gives."""
    if text is not None:
        yaml(text)
    with pytest.raises(ConfigError) as caught:
        load(None, environ or {}, overrides)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    if len(lines) > 1:
        assert lines[0] == f"the configuration has {len(lines) - 1} errors:"
        return lines[1:]
    return lines


def mistake(text: str | None = None, environ: dict[str, str] | None = None, **overrides: object) -> str:
    (line,) = mistakes(text, environ, **overrides)
    return line


def setting(config: Config, key: str) -> tuple[object, str]:
    (found,) = [setting for setting in show(config) if setting.key == key]
    return found.value, found.source


# --- precedence -------------------------------------------------------------------------------------------------------


def test_without_anything_every_setting_has_its_default():
    config = load(None, {"HOME": "/home/ann"})
    assert config.data_dir == "/home/ann/.cascadence"
    assert (config.http_host, config.http_port, config.nats_url) == ("127.0.0.1", 8000, None)
    assert (config.ume_nats_subject, config.backend, config.timezone) == ("ume", "cron", "UTC")
    assert (config.stream_max_age_s, config.stream_max_bytes) == (604_800, 1_073_741_824)
    assert (config.follow_up_task, config.follow_up_max_depth) == ("capability_follow_up", 3)
    assert {setting.source for setting in show(config)} == {"default"}


def test_the_file_wins_over_defaults_the_environment_over_the_file_and_the_command_line_over_all():
    yaml("http_port: 1\nmax_threads: 1\nstop_grace_s: 1\n")
    environ = {"CASCADENCE_HTTP_PORT": "2", "CASCADENCE_MAX_THREADS": "2"}
    config = load(None, environ, {"http_port": 3, "log_level": None})
    assert setting(config, "http_port") == (3, "command line")
    assert setting(config, "max_threads") == (2, "environment CASCADENCE_MAX_THREADS")
    assert setting(config, "stop_grace_s") == (1.0, "cascadence.yml:3")
    assert setting(config, "log_level") == ("info", "default")


def test_a_file_named_on_the_command_line_wins_over_one_named_in_the_environment():
    yaml("http_port: 1", FILE_NAME)
    yaml("http_port: 2", "second.yml")
    yaml("http_port: 3", "third.yml")
    assert load(None, {}).http_port == 1
    assert load(None, {"CASCADENCE_CONFIG": "second.yml"}).http_port == 2
    assert setting(load("third.yml", {"CASCADENCE_CONFIG": "second.yml"}), "http_port") == (3, "third.yml:1")


def test_a_named_file_must_exist_and_an_unnamed_one_need_not():
    assert load(None, {"CASCADENCE_CONFIG": ""}).http_port == 8000
    assert mistake(environ={"CASCADENCE_CONFIG": "gone.yml"}) == "gone.yml: there is no such file"
    with pytest.raises(ConfigError, match="there is no such file"):
        load("gone.yml", {})


def test_a_file_that_cannot_be_read_is_an_error(folder):
    (folder / "sub").mkdir()
    assert mistake(environ={"CASCADENCE_CONFIG": "sub"}) == "sub: cannot be read: Is a directory"


def test_an_empty_variable_counts_as_not_set():
    yaml("nats_url: nats://broker:4222\nhttp_port: 9")
    config = load(None, {"NATS_URL": "", "CASCADENCE_HTTP_PORT": "", "CASCADENCE_DATA_DIR": "", "HOME": "/h"})
    assert (config.nats_url, config.http_port, config.data_dir) == ("nats://broker:4222", 9, "/h/.cascadence")


def test_an_empty_variable_is_a_value_where_empty_says_something():
    yaml("plugin_entry_points: true\nfollow_up_task: mine\nplugin_paths: [a:B]")
    environ = {
        "CASCADENCE_PLUGIN_ENTRY_POINTS": "",
        "CASCADENCE_FOLLOW_UP_TASK": "",
        "CASCADENCE_PLUGIN_PATHS": "",
        "CASCADENCE_ERASE_INBOUND": "",
    }
    config = load(None, environ)
    assert config.plugin_entry_points is False
    assert config.follow_up_task is None
    assert config.plugin_paths == ()
    assert config.erase_inbound is False


def test_null_in_the_file_is_a_value_where_there_may_be_none_and_a_mistake_elsewhere():
    yaml("follow_up_task:\nnats_url: null\nhttp_token: ~")
    config = load(None, {})
    assert (config.follow_up_task, config.nats_url, config.http_token) == (None, None, None)
    assert mistake("http_port:") == "cascadence.yml:1: http_port: has no value (remove the line to get the default)"


def test_names_of_the_predecessor_are_understood():
    yaml("scheduler: base\nbroadcast_pointers: true\nume_nats_conn: nats://a:1")
    config = load(None, {})
    assert (config.backend, config.ume_broadcast_pointers, config.nats_url) == ("base", True, "nats://a:1")
    environ = {
        "CASCADENCE_SCHEDULER": "cron",
        "UME_BROADCAST_POINTERS": "no",
        "UME_NATS_CONN": "tls://b",
        "UME_NATS_SUBJECT": "events.v1",
    }
    config = load(None, environ)
    assert (config.backend, config.ume_broadcast_pointers) == ("cron", False)
    assert (config.nats_url, config.ume_nats_subject) == ("tls://b", "events.v1")


def test_two_names_of_one_setting_must_agree_within_a_source():
    same = {"NATS_URL": "nats://a", "UME_NATS_CONN": "nats://a"}
    assert load(None, same).nats_url == "nats://a"
    assert mistake(environ={"NATS_URL": "nats://a", "UME_NATS_CONN": "nats://b"}) == (
        "environment variable UME_NATS_CONN: contradicts environment variable NATS_URL (remove one of them)"
    )
    assert mistake("backend: cron\nscheduler: base") == (
        "cascadence.yml:2: scheduler: contradicts cascadence.yml:1: backend (remove one of them)"
    )
    yaml("ume_nats_conn: nats://file")
    assert load(None, {"NATS_URL": "nats://environment"}).nats_url == "nats://environment"


def test_a_home_folder_comes_from_the_environment_given_and_relative_paths_become_absolute(folder):
    yaml("data_dir: data\nnats_server: ~/bin/nats-server")
    config = load(None, {"HOME": "/home/ann"})
    assert config.data_dir == str(folder / "data")
    assert config.nats_server == "/home/ann/bin/nats-server"
    assert Config(data_dir="other").data_dir == str(folder / "other")


def test_an_unknown_home_folder_is_an_error_and_no_folder_called_tilde():
    assert mistake("data_dir: ~nobody-of-that-name/x") == (
        "cascadence.yml:1: data_dir: '~nobody-of-that-name/x' names no known home folder (give an absolute path)"
    )


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["0", "false", "no", "off", "", "FALSE", "No", " off "])
def test_words_for_false(word):
    assert load(None, {"CASCADENCE_PLUGIN_ENTRY_POINTS": word}).plugin_entry_points is False


@pytest.mark.parametrize("word", ["1", "true", "yes", "on", "TRUE", "Yes"])
def test_words_for_true(word):
    assert load(None, {"CASCADENCE_EMIT_RAW_USER_ID": word}).emit_raw_user_id is True


def test_any_other_word_is_neither():
    assert mistake(environ={"CASCADENCE_EMIT_RAW_USER_ID": "2"}) == (
        "environment variable CASCADENCE_EMIT_RAW_USER_ID: must be one of true, yes, on, 1, false, no, off, 0, not '2'"
    )
    assert mistake("emit_raw_user_id: yes") == (
        "cascadence.yml:1: emit_raw_user_id: must be true or false, not 'yes' (YAML 1.2 has no other words for them)"
    )


@pytest.mark.parametrize("value", ["'80'", "80.0", "true", "-1", "65536", "[80]", "{a: 80}", "2001-01-01", "9" * 30])
def test_a_port_in_the_file_is_a_whole_number_within_its_bounds(value):
    assert mistake(f"http_port: {value}").startswith(
        "cascadence.yml:1: http_port: must be a whole number from 0 to 65535, not "
    )


@pytest.mark.parametrize("value", ["x", "80.0", "-1", "65536", "1_0", "٨٠", "0x50", "1e3", "9" * 5000])
def test_a_port_in_the_environment_is_a_whole_number_within_its_bounds(value):
    line = mistake(environ={"CASCADENCE_HTTP_PORT": value})
    assert line.startswith("environment variable CASCADENCE_HTTP_PORT: must be a whole number from 0 to 65535, not ")
    assert len(line) < 200


@pytest.mark.parametrize("value", [".nan", ".inf", "-0.5", "3601", "'1'", "true"])
def test_seconds_are_a_finite_number_within_bounds(value):
    assert "must be a number from 0 to 3600" in mistake(f"stop_grace_s: {value}")


def test_seconds_may_be_whole_or_not():
    yaml("stop_grace_s: 5")
    config = load(None, {"CASCADENCE_LOCK_WAIT_S": " 0.25 "})
    assert (config.stop_grace_s, config.lock_wait_s) == (5.0, 0.25)


def test_a_back_end_of_a_later_version_is_told_from_a_misspelt_one():
    assert mistake("backend: temporal") == (
        "cascadence.yml:1: backend: 'temporal' is not supported by this version (use base or cron or dag)"
    )
    assert mistake("backend: corn") == "cascadence.yml:1: backend: must be base or cron or dag, not 'corn'"
    assert mistake("", {"CASCADENCE_SCHEDULER": "TEMPORAL"}) == (
        "environment variable CASCADENCE_SCHEDULER: 'TEMPORAL' is not supported by this version "
        "(use base or cron or dag)"
    )


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+5"])
def test_a_time_zone_of_the_list_is_taken(zone):
    assert load(None, {"CASCADENCE_TIMEZONE": zone}).timezone == zone


@pytest.mark.parametrize("zone", ["Europe", "../../etc/passwd", "/etc/localtime", "CEST ", "a\0b", "Ünix"])
def test_a_time_zone_out_of_the_list_is_refused(zone):
    assert "must be an IANA time zone" in mistake(environ={"CASCADENCE_TIMEZONE": zone})


def test_a_misspelt_time_zone_gets_a_hint():
    assert mistake("timezone: Europe/Berlim").endswith("not 'Europe/Berlim' (did you mean Europe/Berlin?)")


@pytest.mark.parametrize("url", ["nats://h", "tls://h:4222", "nats://u:p@h:1,nats://u:p@h:2", "nats://[::1]:4222/"])
def test_a_nats_url_is_taken(url):
    assert load(None, {"NATS_URL": url}).nats_url == url


@pytest.mark.parametrize(
    "url", ["http://h", "nats://", "nats://h:x", "nats://h:99999", "nats://h,", "nats://a\nb", "[", ""]
)
def test_something_else_than_a_nats_url_is_refused(url):
    assert "must be a nats:// or tls:// URL" in mistake(nats_url=url)


@pytest.mark.parametrize("url", ["http://h", "https://u:p@h:8443/ume", "http://[::1]:80"])
def test_the_url_of_a_calendar_is_taken(url):
    assert load(None, {"UME_BASE_URL": url + "/"}).ume_base_url == url


@pytest.mark.parametrize(
    "url", ["ftp://h", "http://", "http://h:x", "http://h/?a=1", "http://h/#a", "http://a\nb", "["]
)
def test_something_else_than_the_url_of_a_calendar_is_refused(url):
    assert "must be an http:// or https:// URL" in mistake(ume_base_url=url)


def test_what_was_nearly_a_nats_url_gets_a_hint():
    assert mistake(environ={"NATS_URL": "localhost:4222"}).endswith("(did you mean nats://localhost:4222?)")
    assert mistake(environ={"UME_NATS_CONN": "bus:connection"}).endswith(
        "(a connection as module:attr is not supported by this version)"
    )


def test_plugins_are_a_list_in_the_file_and_comma_separated_in_the_environment():
    yaml("plugin_paths: ['a.b:C', d:E]")
    assert load(None, {}).plugin_paths == ("a.b:C", "d:E")
    assert load(None, {"CASCADENCE_PLUGIN_PATHS": "x:Y, z.q:W ,"}).plugin_paths == ("x:Y", "z.q:W")
    assert load(None, {}, {"plugin_paths": ("o:P",)}).plugin_paths == ("o:P",)


@pytest.mark.parametrize("path", ["nocolon", "a:b:C", ":C", "a:", "a b:C", "a..b:C", "os; x:y", "1a:B"])
def test_a_plugin_has_exactly_one_colon_between_dotted_names(path):
    assert "path must be 'module:Class'" in mistake(environ={"CASCADENCE_PLUGIN_PATHS": path})


@pytest.mark.parametrize("value", ["a:B", "[1]", "{a: B}"])
def test_plugins_in_the_file_are_a_list_of_texts(value):
    assert "must be a list of 'module:Class'" in mistake(f"plugin_paths: {value}")


@pytest.mark.parametrize("subject", ["ume.>", "*", "a..b", ".a", "a b", "$SYS", "ü"])
def test_a_subject_prefix_has_no_wildcards_and_no_empty_parts(subject):
    assert "must be a subject without wildcards" in mistake(environ={"UME_NATS_SUBJECT": subject})


def test_a_number_where_text_belongs_gets_a_hint():
    assert mistake("instance_id: 7") == (
        "cascadence.yml:1: instance_id: must be 1–64 of the characters A–Z a–z 0–9 _ -, not 7 (put it in quotes)"
    )


# --- all mistakes at once ---------------------------------------------------------------------------------------------


def test_all_mistakes_are_listed_at_once_with_their_place():
    found = mistakes(
        "# a comment\nhttp_prot: 80\nmax_threads: many\nmax_threads: 3\nbackend: temporal\n",
        {"CASCADENCE_HTTP_HSOT": "x", "CASCADENCE_LOG_LEVEL": "loud", "PATH": "/bin"},
        http_port="x",
        prot=1,
    )
    assert found == [
        "cascadence.yml:2: 'http_prot': unknown key (did you mean http_port?)",
        "cascadence.yml:3: max_threads: must be a whole number from 1 to 1024, not 'many'",
        "cascadence.yml:4: 'max_threads': is already set in line 3",
        "cascadence.yml:5: backend: 'temporal' is not supported by this version (use base or cron or dag)",
        "environment variable CASCADENCE_HTTP_HSOT: unknown (did you mean CASCADENCE_HTTP_HOST?)",
        "environment variable CASCADENCE_LOG_LEVEL: must be debug or info or warning or error, not 'loud'",
        "--http-port: must be a whole number from 0 to 65535, not 'x'",
        "--prot: unknown",
    ]


def test_the_list_of_mistakes_ends_somewhere():
    yaml("".join(f"k{number}: 1\n" for number in range(250)))
    with pytest.raises(ConfigError) as caught:
        load(None, {})
    lines = str(caught.value).splitlines()
    assert (lines[0], lines[-1]) == ("the configuration has 250 errors:", "  and 150 more")
    assert len(lines) == 102


def test_keys_whose_feature_does_not_exist_yet_are_named():
    keys = ["cronyx_refresh", "temporal_server", "ume_transport", "ume_grpc_stub", "stages_path", "suggestions"]
    text = "".join(f"{key}: {{enabled: true}}\n" for key in keys)
    assert mistakes(text) == [
        f"cascadence.yml:{line}: {key}: not supported by this version" for line, key in enumerate(keys, start=1)
    ]


def test_variables_of_the_predecessor_and_of_others_are_left_alone():
    environ = {
        "CASCADENCE_CRONYX_REFRESH": "1",
        "CASCADENCE_STAGES_PATH": "/x",
        "CASCADENCE_SUGGESTIONS_CATEGORIES": "a,b",
        "CRONYX_BASE_URL": "http://x",
        "TEMPORAL_SERVER": "x:1",
        "UME_TRANSPORT": "nats",
        "UME_GRPC_STUB": "a:b",
        "CASCADENCED_CRASH_AT": "nowhere",
    }
    assert load(None, environ) == load(None, {})


def test_a_variable_under_another_name_is_pointed_out():
    assert mistake(environ={"CASCADENCE_NATS_URL": "nats://x"}) == (
        "environment variable CASCADENCE_NATS_URL: unknown (use NATS_URL)"
    )
    assert mistake(environ={"CASCADENCE_CRONYX_BASE_URL": "x"}) == (
        "environment variable CASCADENCE_CRONYX_BASE_URL: not supported by this version"
    )


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeffhttp_port: 8000\n", "{}", "---\n...\n", "\n \n"])
def test_a_file_without_settings_gives_the_defaults(text):
    yaml(text)
    assert load(None, {}).http_port == 8000


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("a: 1\n- b\n", 2, "is not YAML: "),
        ("http_port: 1\n\thttp_host: x\n", 2, "is not YAML: "),
        ("plugin_paths:\n\t- a:B\n", 2, "is not YAML: found character '\\t' that cannot start any token"),
        ("- http_port\n", 1, "the file must be a list of `key: value` lines"),
        ("\njust words\n", 2, "the file must be a list of `key: value` lines"),
        ("http_port: &p 80\n", 1, "anchors and aliases (& and *) are not supported"),
        ("\n? [a, b]\n: 1\n", 2, "a key must be a plain word"),
        ("x: !!python/object:os.system 1\n", 1, "tags (!) are not supported"),
        ("%YAML 1.1\n---\nhttp_port: 80\n", 2, "directives (%) are not supported"),
        ("http_port: 1\n---\nhttp_port: 2\n", 2, "is not YAML: but found another document"),
        ("a: 1\nb: \x07\n", 2, "is not YAML: "),
        ("http_port: " + "[" * 100_000, 1, "is nested deeper than 8 levels"),
        ("timezone: 2001-99-99\n", 1, "'timezone': has a value that cannot be read"),
    ],
)
def test_what_the_file_may_not_be(text, line, complaint):
    assert mistakes(text)[0].startswith(f"cascadence.yml:{line}: {complaint}")


def test_a_billion_laughs_are_refused_before_anyone_laughs():
    bomb = "a: &a [x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    found = mistakes(bomb)
    assert len(found) == 9 + 16
    assert all("anchors and aliases" in line for line in found)


def test_a_file_that_is_not_text_is_refused():
    Path(FILE_NAME).write_bytes(b"http_port: 1\nname: \xff\xfe\n")
    assert mistake() == "cascadence.yml:2: is not UTF-8"


def test_a_huge_file_is_refused():
    yaml("#" * (MAX_FILE_BYTES + 1))
    assert mistake() == f"cascadence.yml: is larger than {MAX_FILE_BYTES} bytes"


# --- safety -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_the_loopback_needs_no_token(host):
    assert load(None, {"CASCADENCE_HTTP_HOST": host}).http_host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.4", "example.org", "127.0.0.1.example.org", "0"])
def test_other_machines_need_a_token(host):
    assert mistake(environ={"CASCADENCE_HTTP_HOST": host}) == (
        f"environment variable CASCADENCE_HTTP_HOST: listening on {host!r} opens the daemon to other machines, "
        "which needs http_token (set one, or use 127.0.0.1)"
    )
    assert load(None, {"CASCADENCE_HTTP_HOST": host, "CASCADENCE_HTTP_TOKEN": "t"}).http_host == host


def test_a_wrong_token_is_not_also_a_missing_one():
    (line,) = mistakes("http_host: 0.0.0.0\nhttp_token: two words")
    assert line.startswith("cascadence.yml:2: http_token: must be printable ASCII without spaces")


def test_an_empty_secret_is_accepted_only_to_reproduce_the_predecessors_hashes():
    assert mistake("hash_secret: ''") == (
        "cascadence.yml:1: hash_secret: an empty secret protects nobody (remove it, and one is generated)"
    )
    yaml("hash_secret: ''\nhash_compat: sha256")
    assert load(None, {}).hash_secret == ""


def test_secrets_are_neither_shown_nor_printed():
    yaml(
        "hash_secret: s3cret\nhttp_token: t0ken\nnats_url: nats://ann:pa55@h:1,nats://t0ps@h:2\nume_base_url: https://ann:pa55@h/"
    )
    config = load(None, {})
    shown = {setting.key: setting.value for setting in show(config)}
    assert (shown["hash_secret"], shown["http_token"]) == (MASK, MASK)
    assert shown["nats_url"] == f"nats://{MASK}@h:1,nats://{MASK}@h:2"
    assert shown["ume_base_url"] == f"https://{MASK}@h"
    for secret in ("s3cret", "t0ken", "pa55", "t0ps", "ann"):
        assert secret not in repr(config)
        assert secret not in repr(show(config))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hash_secret", 5512345),
        ("http_token", "5512345 x"),
        ("nats_url", "nats://ann:55/12345@host"),
        ("nats_url", "ann:5512345@host:4222"),
        ("nats_url", "http://ann:5512345@host"),
        ("ume_base_url", "ftp://ann:5512345@host"),
    ],
)
def test_a_refused_secret_is_not_in_the_message(key, value):
    line = mistake(**{key: value})
    assert MASK in line
    assert "12345" not in line


def test_show_lists_every_setting_once_with_its_unit():
    shown = show(load(None, {}))
    fields = [name for name in Config._fields if name != "sources"]
    assert [setting.key for setting in shown] == fields
    assert {setting.unit for setting in shown} >= {"seconds", "bytes", "runs", "threads"}


def test_the_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        load(None, {}).http_port = 1  # type: ignore[misc]


# --- derived ----------------------------------------------------------------------------------------------------------


def test_everything_lies_in_the_data_folder(folder):
    config = Config(data_dir=str(folder / "d"))
    assert config.log_path == folder / "d" / "log.db"
    assert (config.vault_path.name, config.vault_key_path.name) == ("vault.db", "vault.key")
    assert (config.hash_secret_path.name, config.lock_path.name) == ("hash.secret", "lock")
    assert (config.daemon_json_path.name, config.daemon_log_path.name) == ("daemon.json", "daemon.log")


def test_the_socket_lies_in_the_data_folder_as_long_as_its_path_can_be_bound():
    assert Config(data_dir="/var/lib/cascadence").socket_path == Path("/var/lib/cascadence/socket")
    at_the_limit = "/" + "x" * (MAX_SOCKET_PATH_BYTES - len("/" + "/socket"))
    assert str(Config(data_dir=at_the_limit).socket_path).startswith("/x")
    assert str(Config(data_dir=at_the_limit + "x").socket_path).startswith("/tmp/cascadence-")


def test_a_socket_elsewhere_has_the_same_short_path_each_time_and_for_each_name_of_the_folder(folder):
    deep = folder / ("d" * 120)
    deep.mkdir()
    (folder / ("alias" * 30)).symlink_to(deep)
    one, same = Config(data_dir=str(deep)).socket_path, Config(data_dir=str(folder / ("alias" * 30))).socket_path
    other = Config(data_dir=str(folder / ("e" * 120))).socket_path
    assert one == same != other
    assert len(os.fsencode(one)) < MAX_SOCKET_PATH_BYTES
    assert one.parent.name == f"cascadence-{os.getuid()}"


def test_without_a_file_nothing_slow_is_imported():
    code = (
        "import sys; from cascadenced.config import load; load(None, {'HOME': '/h', 'CASCADENCE_HTTP_PORT': '1'});"
        "print([name for name in ('ruamel', 'ruamel.yaml', 'zoneinfo', 'asyncio', 'cryptography', 'difflib')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
