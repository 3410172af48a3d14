"""The settings: read once, from command line, environment and file, into one frozen value.

Precedence: command line > environment > YAML > default. The YAML file is the one named on the command line or by
`CASCADENCE_CONFIG`, else `cascadence.yml` in the working folder if there is one. An empty variable counts as not set,
save where empty says something (`Key.keeps_empty`). Relative paths start in the working folder, `~` is the home folder.

`Config` is the list of all settings with defaults, units and rules; `load` reports every mistake at once.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import msgspec

from cascadenced.errors import ConfigError

FILE_NAME = "cascadence.yml"
MAX_FILE_BYTES = 1 << 20
MAX_SOCKET_PATH_BYTES = 100  # the system's bound is 104 (macOS) or 108 with a closing zero
MASK = "********"
_MAX_YAML_DEPTH = 8
_MAX_LISTED = 100  # of the mistakes in a file that is none of ours
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"  # identifiers with dots between


class _Wrong(Exception):
    """A value is refused. `{value}` in the text stands for it, or for the mask; hint goes into brackets at the end."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


# --- what a value may be ----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """check: a typed value (from YAML or the program) → the value to keep, or raises _Wrong.

    parse: text (from the environment or the command line) → a typed value for `check`, or raises _Wrong.
    """

    check: Callable[[Any], object]
    parse: Callable[[str], object] = str


class Key(NamedTuple):
    """How one setting is spelled and checked.

    unit: what a number counts.  env: its variables, `CASCADENCE_<KEY>` when empty.  aliases: other YAML keys.
    secret: never shown.  keeps_empty: an empty variable is a value, not "not set".
    """

    kind: Kind
    unit: str = ""
    env: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    secret: bool = False
    keeps_empty: bool = False


def _number(low: float, high: float, *, whole: bool) -> Kind:
    types: tuple[type, ...] = (int,) if whole else (int, float)
    must = f"must be a {'whole ' if whole else ''}number from {low} to {high}, not {{value}}"

    def check(value: Any) -> object:
        if type(value) not in types or not low <= value <= high:
            raise _Wrong(must)
        return value if whole else float(value)

    def parse(text: str) -> object:
        # Narrower than int() and float(), which also take "1_000", "inf" and the digits of every script.
        if not re.fullmatch(r"[+-]?[0-9]{1,18}" + ("" if whole else r"(\.[0-9]{1,9})?"), text.strip()):
            raise _Wrong(must)
        return int(text) if whole else float(text)

    return Kind(check, parse)


def _check_boolean(value: Any) -> object:
    if not isinstance(value, bool):
        raise _Wrong("must be true or false, not {value}", "YAML 1.2 has no other words for them")
    return value


def _parse_boolean(text: str) -> object:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("", "0", "false", "no", "off"):
        return False
    raise _Wrong("must be one of true, yes, on, 1, false, no, off, 0, not {value}")


def _text(what: str, pattern: str = r".+") -> Kind:
    def check(value: Any) -> object:
        if not isinstance(value, str):
            raise _Wrong(f"must be {what}, not {{value}}", "put it in quotes")
        if not value.isprintable() or not re.fullmatch(pattern, value):
            raise _Wrong(f"must be {what}, not {{value}}")
        return value

    return Kind(check)


def _one_of(*words: str, later: tuple[str, ...] = ()) -> Kind:
    """later: words that a future version will know; saying so beats calling them unknown."""

    def check(value: Any) -> object:
        if value in later:
            raise _Wrong("{value} is not supported by this version", f"use {' or '.join(words)}")
        if value not in words:
            raise _Wrong(f"must be {' or '.join(words)}, not {{value}}")
        return value

    return Kind(check, lambda text: text.strip().lower())


def _check_timezone(value: Any) -> object:
    if value == "UTC":  # spares every command the import
        return value
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(value)
    except (TypeError, AttributeError, ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        zones = zoneinfo.available_timezones()
        hint = _closest(str(value), zones) if zones else "this machine knows no time zones: install tzdata"
        raise _Wrong("must be an IANA time zone such as Europe/Berlin, not {value}", hint) from None
    return value


def _check_nats_url(value: Any) -> object:
    hint = ""
    if isinstance(value, str) and "://" not in value and "@" not in value:
        is_attribute = re.fullmatch(r"[\w.]+:[A-Za-z_]\w*", value)
        hint = (
            "a connection as module:attr is not supported by this version"
            if is_attribute
            else f"did you mean nats://{value}?"
        )
    if not isinstance(value, str) or not all(_is_nats_url(url) for url in value.split(",")):
        raise _Wrong("must be a nats:// or tls:// URL, or several with commas between, not {value}", hint)
    return value


def _is_nats_url(url: str) -> bool:
    from urllib.parse import urlsplit

    if not url.isprintable() or " " in url:
        return False  # urlsplit would drop a line break and carry on
    try:
        parts = urlsplit(url)
        return parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        return False


def _check_plugin_paths(value: Any) -> object:
    if not isinstance(value, list | tuple) or not all(isinstance(path, str) for path in value):
        raise _Wrong("must be a list of 'module:Class', not {value}")
    for path in value:
        if not re.fullmatch(rf"{_DOTTED}:{_DOTTED}", path):
            raise _Wrong(f"path must be 'module:Class', not {_shown(path)}", "exactly one colon")
    return tuple(value)


_BOOLEAN = Kind(_check_boolean, _parse_boolean)
_FLAG = Key(_BOOLEAN, keeps_empty=True)
_PATH = _text("a path")
_INSTANCE = _text("1–64 of the characters A–Z a–z 0–9 _ -", r"[A-Za-z0-9_-]{1,64}")
_SUBJECT = _text("a subject without wildcards, such as ume", r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_HOST = _text("a host name or IP address without scheme, brackets or port", r"[A-Za-z0-9._:%-]+")
_TOKEN = _text("printable ASCII without spaces", r"[!-~]+")
_SECRET = _text("printable text", r".*")
_NAME_OR_NOTHING = _text("a task's name, or empty", r".{0,256}")
_PLUGIN_PATHS = Kind(_check_plugin_paths, lambda text: [path.strip() for path in text.split(",") if path.strip()])


def _whole(low: int, high: int, unit: str = "") -> Key:
    return Key(_number(low, high, whole=True), unit)


def _seconds(low: int, high: int) -> Key:
    return Key(_number(low, high, whole=False), "seconds")


# --- the settings -----------------------------------------------------------------------------------------------------


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, with its default and unit. `repr` masks secrets; `show` also names where each value came from."""

    data_dir: Annotated[str, Key(_PATH)] = "~/.cascadence"
    """Absolute once constructed. Everything the daemon remembers lives there."""
    instance_id: Annotated[str | None, Key(_INSTANCE)] = None
    """None: the instance makes a name at its first start and remembers it."""
    timezone: Annotated[str, Key(Kind(_check_timezone))] = "UTC"
    log_level: Annotated[str, Key(_one_of("debug", "info", "warning", "error"))] = "info"

    nats_url: Annotated[
        str | None, Key(Kind(_check_nats_url), env=("NATS_URL", "UME_NATS_CONN"), aliases=("ume_nats_conn",))
    ] = None
    """May hold credentials. None: a server of our own, started as a child."""
    nats_server: Annotated[str | None, Key(_PATH)] = None
    """The server's binary. None: searched beside the interpreter, then on PATH."""
    ume_nats_subject: Annotated[str, Key(_SUBJECT, env=("UME_NATS_SUBJECT",))] = "ume"
    """Prefix of every subject."""
    ume_broadcast_pointers: Annotated[
        bool, Key(_BOOLEAN, env=("UME_BROADCAST_POINTERS",), aliases=("broadcast_pointers",), keeps_empty=True)
    ] = False
    stream_max_age_s: Annotated[int, _whole(120, 315_360_000, "seconds")] = 604_800
    """At least the two minutes in which the broker notices duplicates; it refuses a stream with less."""
    stream_max_bytes: Annotated[int, _whole(1 << 20, 1 << 50, "bytes")] = 1 << 30

    http_host: Annotated[str, Key(_HOST)] = "127.0.0.1"
    http_port: Annotated[int, _whole(0, 65_535)] = 8000
    """0: any free port."""
    http_token: Annotated[str | None, Key(_TOKEN, secret=True)] = None
    """Required when `http_host` is not this machine's loopback."""

    hash_secret: Annotated[str | None, Key(_SECRET, secret=True)] = None
    """None: generated into the data folder. Empty only with `hash_compat`, as the predecessor's default was."""
    hash_compat: Annotated[str | None, Key(_one_of("sha256"))] = None
    emit_raw_user_id: Annotated[bool, _FLAG] = False
    erase_inbound: Annotated[bool | None, _FLAG] = None
    """Overwrite consumed messages in the broker. None: on our own server only."""

    backend: Annotated[
        str,
        Key(
            _one_of("base", "cron", later=("dag", "temporal", "cronyx")),
            env=("CASCADENCE_SCHEDULER",),
            aliases=("scheduler",),
        ),
    ] = "cron"
    plugin_paths: Annotated[tuple[str, ...], Key(_PLUGIN_PATHS, keeps_empty=True)] = ()
    """Tasks the operator approves beside those of entry points: `module:Class`."""
    plugin_entry_points: Annotated[bool, _FLAG] = True
    follow_up_task: Annotated[str | None, Key(_NAME_OR_NOTHING, keeps_empty=True)] = "capability_follow_up"
    """Runs after a run failed for good. Empty or null: nothing does."""
    follow_up_max_depth: Annotated[int, _whole(0, 10, "follow-ups of follow-ups")] = 3

    max_concurrent_runs: Annotated[int, _whole(1, 10_000, "runs")] = 100
    max_queued_runs: Annotated[int, _whole(1, 10_000_000, "runs")] = 100_000
    max_threads: Annotated[int, _whole(1, 1024, "threads")] = 32
    """For plain functions of tasks; coroutines need none."""
    stop_grace_s: Annotated[float, _seconds(0, 3600)] = 10.0
    """How long running stages may take to end when the daemon stops."""
    lock_wait_s: Annotated[float, _seconds(0, 3600)] = 10.0
    """How long to wait for another process that holds the data folder."""

    sources: Mapping[str, str] = {}
    """Where each value that is not a default came from: `cascadence.yml:12`, `environment NAME`, `command line`."""

    def __post_init__(self) -> None:
        for name in ("data_dir", "nats_server"):
            if given := getattr(self, name):
                msgspec.structs.force_setattr(self, name, os.path.abspath(os.path.expanduser(given)))

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{setting.key}={setting.value!r}' for setting in show(self))})"

    def _inside(self, name: str) -> Path:
        return Path(self.data_dir, name)

    @property
    def log_path(self) -> Path:
        return self._inside("log.db")

    @property
    def vault_path(self) -> Path:
        return self._inside("vault.db")

    @property
    def vault_key_path(self) -> Path:
        return self._inside("vault.key")

    @property
    def hash_secret_path(self) -> Path:
        return self._inside("hash.secret")

    @property
    def lock_path(self) -> Path:
        return self._inside("lock")

    @property
    def nats_key_path(self) -> Path:
        """What the server of our own encrypts its store with, 64 hex digits."""
        return self._inside("nats.key")

    @property
    def nats_dir(self) -> Path:
        return self._inside("nats")

    @property
    def daemon_json_path(self) -> Path:
        return self._inside("daemon.json")

    @property
    def daemon_log_path(self) -> Path:
        return self._inside("daemon.log")

    @property
    def socket_path(self) -> Path:
        """The Unix socket: `socket` in the data folder, or a short path elsewhere when that one is too long to bind.

        The folder of the short one is the user's own; make it with `private_files.exclusive_folder` before binding.
        """
        inside = self._inside("socket")
        if len(os.fsencode(inside)) <= MAX_SOCKET_PATH_BYTES:
            return inside
        # Not TMPDIR: a service and a shell often have different ones, and on macOS it is itself half the limit.
        digest = hashlib.sha256(os.fsencode(os.path.realpath(self.data_dir))).hexdigest()[:16]
        return Path(f"/tmp/cascadence-{os.getuid()}", f"{digest}.socket")  # noqa: S108 -- see the docstring


_LATER_KEYS = frozenset(
    {
        *("cronyx_refresh", "cronyx_base_url", "cronyx_timeout", "temporal_server", "suggestions"),
        *("ume_transport", "ume_grpc_stub", "ume_grpc_method"),
        *("stages_path", "pointers_path", "tasks_path", "ideas_path", "suggestions_path", "schedules_path"),
    }
)
# The predecessor's: a machine that moves over still has them set, so they are no mistakes.
_IGNORED_VARIABLES = frozenset(
    {
        *("CASCADENCE_CONFIG", "CASCADENCE_CRONYX_REFRESH", "CASCADENCE_STAGES_PATH", "CASCADENCE_POINTERS_PATH"),
        *("CASCADENCE_TASKS_PATH", "CASCADENCE_IDEAS_PATH", "CASCADENCE_SUGGESTIONS_PATH"),
        *("CASCADENCE_SUGGESTIONS_ENABLED", "CASCADENCE_SUGGESTIONS_CATEGORIES"),
    }
)


class _Field(NamedTuple):
    name: str
    key: Key
    default: object
    nullable: bool

    @property
    def variables(self) -> tuple[str, ...]:
        return self.key.env or (f"CASCADENCE_{self.name.upper()}",)


@cache
def _fields() -> dict[str, _Field]:
    """Settings by name, in the order of `Config`."""
    hints = get_type_hints(Config, include_extras=True)
    found = {}
    for info in msgspec.structs.fields(Config):
        if info.name != "sources":
            kept, key = get_args(hints[info.name])
            found[info.name] = _Field(info.name, key, info.default, type(None) in get_args(kept))
    return found


# --- reading them -----------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """One setting as somebody wrote it.  where: begins its error message.  source: what `show` says."""

    value: object
    where: str
    source: str
    is_text: bool


def load(path: str | None, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> Config:
    """Read the configuration.

    path: the YAML file named on the command line.  overrides: settings given there; None counts as not given.
    Raises ConfigError that lists every mistake, one per line.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    origins: dict[str, _Entry] = {}
    failed: set[str] = set()
    for layer in (
        _file_entries(path, environ, problems),
        _environment_entries(environ, problems),
        _override_entries(overrides or {}, problems),
    ):
        given_here: dict[str, _Entry] = {}
        for name, entry in layer:
            field = _fields()[name]
            try:
                value = _read(field, entry)
                if name in given_here and values[name] != value:
                    raise _Wrong(f"contradicts {given_here[name].where}", "remove one of them")
            except _Wrong as wrong:
                problems.append(_sentence(field, entry, wrong))
                failed.add(name)
            else:
                values[name], origins[name] = value, entry
                given_here[name] = entry

    for name in ("data_dir", "nats_server"):
        if given := values.get(name, _fields()[name].default):
            values[name] = _from_home(given, environ)
    problems += _contradictions(values, origins, failed)
    if problems:
        raise ConfigError(_all_of(problems))
    return Config(**values, sources={name: entry.source for name, entry in origins.items()})


def _read(field: _Field, entry: _Entry) -> object:
    """The value of an entry, checked. Raises _Wrong."""
    value = entry.value
    if value is None:
        if not field.nullable:
            raise _Wrong("has no value", "remove the line to get the default")
        return None
    if entry.is_text and isinstance(value, str):
        value = field.key.kind.parse(value)
    checked = field.key.kind.check(value)
    return None if field.name == "follow_up_task" and checked == "" else checked


def _contradictions(values: Mapping[str, Any], origins: Mapping[str, _Entry], failed: set[str]) -> Iterator[str]:
    """Rules about several settings; one that already failed by itself is not judged again."""

    def where(name: str) -> str:
        return origins[name].where if name in origins else name

    host = values.get("http_host", "127.0.0.1")
    if not _is_loopback(host) and values.get("http_token") is None and "http_token" not in failed:
        yield (
            f"{where('http_host')}: listening on {host!r} opens the daemon to other machines, which needs http_token "
            "(set one, or use 127.0.0.1)"
        )
    if values.get("hash_secret") == "" and not values.get("hash_compat") and "hash_compat" not in failed:
        yield f"{where('hash_secret')}: an empty secret protects nobody (remove it, and one is generated)"
    if values["data_dir"].startswith("~"):
        yield f"{where('data_dir')}: {values['data_dir']!r} names no known home folder (give an absolute path)"


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _from_home(path: str, environ: Mapping[str, str]) -> str:
    home = environ.get("HOME")
    if home and (path == "~" or path.startswith("~/")):
        return home + path[1:]
    return os.path.expanduser(path)


def _environment_entries(environ: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, _Entry]]:
    known = {variable: field for field in _fields().values() for variable in field.variables}
    for variable in sorted(environ):
        field, text = known.get(variable), environ[variable]
        if field is None:
            if variable.startswith("CASCADENCE_") and variable not in _IGNORED_VARIABLES:
                problems.append(f"environment variable {variable}: {_unknown_variable(variable, known)}")
        elif text or field.key.keeps_empty:
            where, source = f"environment variable {variable}", f"environment {variable}"
            yield field.name, _Entry(text, where, source, True)


def _unknown_variable(variable: str, known: Mapping[str, _Field]) -> str:
    key = variable.removeprefix("CASCADENCE_").lower()
    if key in _LATER_KEYS:
        return "not supported by this version"
    field = _by_yaml_key().get(key)
    hint = f"use {field.variables[0]}" if field else _closest(variable, known)
    return "unknown" + _bracketed(hint)


def _override_entries(overrides: Mapping[str, object], problems: list[str]) -> Iterator[tuple[str, _Entry]]:
    for name, value in overrides.items():
        option = f"--{name.replace('_', '-')}"
        if name not in _fields():
            problems.append(f"{option}: unknown{_bracketed(_closest(name, _fields()))}")
        elif value is not None:
            yield name, _Entry(value, option, "command line", isinstance(value, str))


def _file_entries(path: str | None, environ: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, _Entry]]:
    named = path or environ.get("CASCADENCE_CONFIG")
    shown = named or FILE_NAME
    try:
        with open(_from_home(shown, environ), "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if named:
            problems.append(f"{shown}: there is no such file")
        return
    except (OSError, ValueError) as error:
        problems.append(f"{shown}: cannot be read: {getattr(error, 'strerror', None) or error}")
        return
    if len(data) > MAX_FILE_BYTES:
        problems.append(f"{shown}: is larger than {MAX_FILE_BYTES} bytes")
        return

    def report(line: int, problem: str) -> None:
        problems.append(f"{shown}:{line}: {problem}")

    known = _by_yaml_key()
    for key, value, line in _yaml_entries(data, report):
        field = known.get(key)
        if field is not None:
            yield field.name, _Entry(value, f"{shown}:{line}: {key}", f"{shown}:{line}", False)
        elif key in _LATER_KEYS:
            report(line, f"{key}: not supported by this version")
        else:
            report(line, f"{_shown(key)}: unknown key{_bracketed(_closest(key, known))}")


def _by_yaml_key() -> dict[str, _Field]:
    return {key: field for field in _fields().values() for key in (field.name, *field.key.aliases)}


# --- YAML 1.2, the plain part of it -----------------------------------------------------------------------------------


def _yaml_entries(data: bytes, report: Callable[[int, str], None]) -> Iterator[tuple[str, object, int]]:
    """(key, value, line) of the mapping that the file is; what it may not contain is reported instead."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        report(data.count(b"\n", 0, error.start) + 1, "is not UTF-8")
        return
    if not text.strip():
        return
    # Imported only when there is a file: it takes as long as everything else here together.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode

    yaml = YAML(typ="safe", pure=True)
    try:
        if not _is_plain(YAML(typ="safe", pure=True).parse(text), report):
            return
        root = yaml.compose(text)
    except YAMLError as error:
        report(_line_of(error, text), f"is not YAML: {_reason(error)}")
        return
    if isinstance(root, MappingNode):
        yield from _pairs(root, yaml, report)
    elif root is not None and root.tag != "tag:yaml.org,2002:null":
        report(root.start_mark.line + 1, "the file must be a list of `key: value` lines")


def _pairs(root: Any, yaml: Any, report: Callable[[int, str], None]) -> Iterator[tuple[str, object, int]]:
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import ScalarNode

    line_of: dict[str, int] = {}
    for key_node, value_node in root.value:
        line, key = key_node.start_mark.line + 1, key_node.value
        if not isinstance(key_node, ScalarNode):
            report(line, "a key must be a plain word")
            continue
        if key in line_of:
            report(line, f"{_shown(key)}: is already set in line {line_of[key]}")
            continue
        line_of[key] = line
        try:
            value = yaml.constructor.construct_object(value_node, deep=True)
        except (YAMLError, ValueError, OverflowError):
            report(line, f"{_shown(key)}: has a value that cannot be read")
        else:
            yield key, value, line


def _is_plain(events: Any, report: Callable[[int, str], None]) -> bool:
    """Whether the file does without what a list of settings does not need, and what can make a small file huge.

    Works on parser events, which need no recursion, so that a thousand brackets hurt nobody.
    """
    from ruamel.yaml import events as kinds

    depth, plain = 0, True
    for event in events:
        line = event.start_mark.line + 1
        complaint = None
        if isinstance(event, kinds.AliasEvent) or getattr(event, "anchor", None):
            complaint = "anchors and aliases (& and *) are not supported (write the value out)"
        elif getattr(event, "tag", None):
            complaint = "tags (!) are not supported (write the plain value)"
        elif isinstance(event, kinds.DocumentStartEvent) and (event.version or event.tags):
            complaint = "directives (%) are not supported (remove the line)"
        if complaint:
            report(line, complaint)
            plain = False
        if isinstance(event, kinds.CollectionStartEvent):
            depth += 1
            if depth > _MAX_YAML_DEPTH:
                report(line, f"is nested deeper than {_MAX_YAML_DEPTH} levels")
                return False
        elif isinstance(event, kinds.CollectionEndEvent):
            depth -= 1
    return plain


def _line_of(error: Any, text: str) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    return text.count("\n", 0, getattr(error, "position", 0)) + 1


def _reason(error: Any) -> str:
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    return f"{reason} (indent with spaces)" if "\\t" in reason else str(reason)


# --- words for people -------------------------------------------------------------------------------------------------


class Setting(msgspec.Struct, frozen=True):
    """A value in force, safe to print.

    source: `default`, `<file>:<line>`, `environment <NAME>` or `command line`.  unit: empty where there is none.
    """

    key: str
    value: bool | int | float | str | tuple[str, ...] | None
    source: str
    unit: str = ""


def show(config: Config) -> list[Setting]:
    """Every setting in the order of `Config`, secrets masked."""
    return [
        Setting(name, _masked(field, getattr(config, name)), config.sources.get(name, "default"), field.key.unit)
        for name, field in _fields().items()
    ]


def _masked(field: _Field, value: Any) -> Any:
    if field.key.secret and value is not None:
        return MASK
    if field.name == "nats_url" and value is not None:
        return re.sub(r"//[^/]*@", f"//{MASK}@", value)
    return value


def _sentence(field: _Field, entry: _Entry, wrong: _Wrong) -> str:
    # An @ may follow a password, in a URL or in what was to become one.
    hidden = field.key.secret or (field.name == "nats_url" and "@" in str(entry.value))
    problem = str(wrong).replace("{value}", MASK if hidden else _shown(entry.value))
    return f"{entry.where}: {problem}{_bracketed(wrong.hint)}"


def _all_of(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    more = [f"and {len(problems) - _MAX_LISTED} more"] if len(problems) > _MAX_LISTED else []
    return "\n  ".join([f"the configuration has {len(problems)} errors:", *problems[:_MAX_LISTED], *more])


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _bracketed(hint: str) -> str:
    return f" ({hint})" if hint else ""


def _closest(word: str, known: Any) -> str:
    """`did you mean …?`, or nothing."""
    from difflib import get_close_matches

    matches = get_close_matches(word, list(known), n=1)
    return f"did you mean {matches[0]}?" if matches else ""
