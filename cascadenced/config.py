"""The settings: read once, from command line, environment and file, into one frozen value.

Precedence: command line > environment > YAML > default. The YAML file is the one named on the command line or by
`CASCADENCE_CONFIG`, else `cascadence.yml` in the working folder if there is one. An empty variable counts as not set,
save where empty says something (`Key.keeps_empty`). Relative paths start in the working folder, `~` is the home folder.

`Config` is the list of all settings with defaults, units and rules; `load` reports every mistake at once.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

from cascadenced.errors import ConfigError
from cascadenced.setting_rules import (
    BOOLEAN,
    FLAG,
    HOST,
    INSTANCE,
    NAME_OR_NOTHING,
    PATH,
    PLUGIN_PATHS,
    SECRET,
    SUBJECT,
    TOKEN,
    Key,
    Kind,
    Wrong,
    check_http_url,
    check_nats_url,
    check_timezone,
    closest,
    one_of,
    seconds,
    shown,
    whole,
)

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "cascadence.yml"
MAX_FILE_BYTES = 1 << 20
MAX_SOCKET_PATH_BYTES = 100  # the system's bound is 104 (macOS) or 108 with a closing zero
MASK = "********"
_MAX_LISTED = 100  # of the mistakes in a file that is none of ours


# --- the settings -----------------------------------------------------------------------------------------------------


class _Settings(NamedTuple):
    """Every setting, with its default and unit."""

    data_dir: Annotated[str, Key(PATH)] = "~/.cascadence"
    """Absolute once constructed. Everything the daemon remembers lives there."""
    instance_id: Annotated[str | None, Key(INSTANCE)] = None
    """None: the instance makes a name at its first start and remembers it."""
    timezone: Annotated[str, Key(Kind(check_timezone))] = "UTC"
    log_level: Annotated[str, Key(one_of("debug", "info", "warning", "error"), live=True)] = "info"

    nats_url: Annotated[
        str | None,
        Key(Kind(check_nats_url), env=("NATS_URL", "UME_NATS_CONN"), aliases=("ume_nats_conn",), credentials=True),
    ] = None
    """May hold credentials. None: a server of our own, started as a child."""
    nats_server: Annotated[str | None, Key(PATH)] = None
    """The server's binary. None: searched beside the interpreter, then on PATH."""
    ume_nats_subject: Annotated[str, Key(SUBJECT, env=("UME_NATS_SUBJECT",))] = "ume"
    """Prefix of every subject."""
    ume_broadcast_pointers: Annotated[
        bool, Key(BOOLEAN, env=("UME_BROADCAST_POINTERS",), aliases=("broadcast_pointers",), keeps_empty=True)
    ] = False
    stream_max_age_s: Annotated[int, whole(120, 315_360_000, "seconds")] = 604_800
    """At least the two minutes in which the broker notices duplicates; it refuses a stream with less."""
    stream_max_bytes: Annotated[int, whole(1 << 20, 1 << 50, "bytes")] = 1 << 30

    http_host: Annotated[str, Key(HOST)] = "127.0.0.1"
    http_port: Annotated[int, whole(0, 65_535)] = 8000
    """0: any free port."""
    http_token: Annotated[str | None, Key(TOKEN, secret=True, live=True)] = None
    """Required when `http_host` is not this machine's loopback."""

    hash_secret: Annotated[str | None, Key(SECRET, secret=True)] = None
    """None: generated into the data folder. Empty only with `hash_compat`, as the predecessor's default was."""
    hash_compat: Annotated[str | None, Key(one_of("sha256"))] = None
    emit_raw_user_id: Annotated[bool, FLAG] = False
    erase_inbound: Annotated[bool | None, FLAG] = None
    """Overwrite consumed messages in the broker. None: on our own server only."""

    backend: Annotated[
        str,
        Key(
            one_of("base", "cron", "dag", later=("temporal", "cronyx")),
            env=("CASCADENCE_SCHEDULER",),
            aliases=("scheduler",),
        ),
    ] = "cron"
    plugin_paths: Annotated[tuple[str, ...], Key(PLUGIN_PATHS, keeps_empty=True)] = ()
    """Tasks the operator approves beside those of entry points: `module:Class`."""
    plugin_entry_points: Annotated[bool, FLAG] = True
    schedules_path: Annotated[str | None, Key(PATH)] = None
    """The file of schedules that people edit. None: schedules.yml in the data folder."""
    ume_base_url: Annotated[str | None, Key(Kind(check_http_url), env=("UME_BASE_URL",), credentials=True)] = None
    """Where the calendar is whose nodes say when schedules are due; may hold credentials. None: there is none."""
    follow_up_task: Annotated[str | None, Key(NAME_OR_NOTHING, keeps_empty=True)] = "capability_follow_up"
    """Runs after a run failed for good. Empty or null: nothing does."""
    follow_up_max_depth: Annotated[int, whole(0, 10, "follow-ups of follow-ups")] = 3

    max_concurrent_runs: Annotated[int, whole(1, 10_000, "runs", live=True)] = 100
    max_queued_runs: Annotated[int, whole(1, 10_000_000, "runs", live=True)] = 100_000
    max_threads: Annotated[int, whole(1, 1024, "threads")] = 32
    """For plain functions of tasks; coroutines need none."""
    max_processes: Annotated[int, whole(1, 256, "processes")] = 16
    """For runs of tasks that ask for a process of their own."""
    stop_grace_s: Annotated[float, seconds(0, 3600, live=True)] = 10.0
    """How long running stages may take to end when the daemon stops."""
    lock_wait_s: Annotated[float, seconds(0, 3600)] = 10.0
    """How long to wait for another process that holds the data folder."""

    sources: Mapping[str, str] = {}
    """Where each value that is not a default came from: `cascadence.yml:12`, `environment NAME`, `command line`."""


class Config(_Settings):
    """The settings above, and what follows from them. `repr` masks secrets.

    A named tuple, because each command makes one: declared as a dataclass it takes 6 ms more.
    """

    __slots__ = ()

    def __new__(cls, **given: Any) -> "Config":
        """given: by name; what is not given is the default."""
        for name in ("data_dir", "nats_server", "schedules_path"):
            if path := given.get(name, cls._field_defaults[name]):
                given[name] = os.path.abspath(os.path.expanduser(path))
        return super().__new__(cls, **given)

    def __repr__(self) -> str:
        from cascadenced.shown_settings import show

        return f"Config({', '.join(f'{setting.key}={setting.value!r}' for setting in show(self))})"

    def inside(self, name: str) -> str:
        return os.path.join(self.data_dir, name)

    @property
    def log_path(self) -> "Path":
        return _path(self.inside("log.db"))

    @property
    def vault_path(self) -> "Path":
        return _path(self.inside("vault.db"))

    @property
    def vault_key_path(self) -> "Path":
        return _path(self.inside("vault.key"))

    @property
    def hash_secret_path(self) -> "Path":
        return _path(self.inside("hash.secret"))

    @property
    def lock_path(self) -> "Path":
        return _path(self.inside("lock"))

    @property
    def nats_key_path(self) -> "Path":
        """What the server of our own encrypts its store with, 64 hex digits."""
        return _path(self.inside("nats.key"))

    @property
    def daemon_json_path(self) -> "Path":
        return _path(self.daemon_json)

    @property
    def daemon_log_path(self) -> "Path":
        return _path(self.inside("daemon.log"))

    @property
    def schedules_file(self) -> "Path":
        return _path(self.schedules_path or self.inside("schedules.yml"))

    @property
    def socket_path(self) -> "Path":
        return _path(self.socket)

    # What a command needs to find the daemon is also there as text: importing pathlib would take a tenth of its time.

    @property
    def daemon_json(self) -> str:
        return self.inside("daemon.json")

    @property
    def socket(self) -> str:
        """The Unix socket: `socket` in the data folder, or a short path elsewhere when that one is too long to bind.

        The folder of the short one is the user's own; make it with `private_files.exclusive_folder` before binding.
        """
        inside = self.inside("socket")
        if len(os.fsencode(inside)) <= MAX_SOCKET_PATH_BYTES:
            return inside
        import hashlib

        # Not TMPDIR: a service and a shell often have different ones, and on macOS it is itself half the limit.
        digest = hashlib.sha256(os.fsencode(os.path.realpath(self.data_dir))).hexdigest()[:16]
        return f"/tmp/cascadence-{os.getuid()}/{digest}.socket"  # noqa: S108 -- see the docstring


def _path(text: str) -> "Path":
    from pathlib import Path

    return Path(text)


_LATER_KEYS = frozenset(
    {
        *("cronyx_refresh", "cronyx_base_url", "cronyx_timeout", "temporal_server", "suggestions"),
        *("ume_transport", "ume_grpc_stub", "ume_grpc_method"),
        *("stages_path", "pointers_path", "tasks_path", "ideas_path", "suggestions_path"),
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


class Field(NamedTuple):
    name: str
    key: Key
    default: object
    nullable: bool

    @property
    def variables(self) -> tuple[str, ...]:
        return self.key.env or (f"CASCADENCE_{self.name.upper()}",)


@cache
def fields() -> dict[str, Field]:
    """Settings by name, in the order of `Config`."""
    found = {}
    for name, annotated in _Settings.__annotations__.items():
        if name != "sources":
            kept, key = get_args(annotated)
            found[name] = Field(name, key, _Settings._field_defaults[name], type(None) in get_args(kept))
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
            field = fields()[name]
            try:
                value = _read(field, entry)
                if name in given_here and values[name] != value:
                    raise Wrong(f"contradicts {given_here[name].where}", "remove one of them")
            except Wrong as wrong:
                problems.append(_sentence(field, entry, wrong))
                failed.add(name)
            else:
                values[name], origins[name] = value, entry
                given_here[name] = entry

    for name in ("data_dir", "nats_server"):
        if given := values.get(name, fields()[name].default):
            values[name] = _from_home(given, environ)
    problems += _contradictions(values, origins, failed)
    if problems:
        raise ConfigError(_all_of(problems))
    return Config(**values, sources={name: entry.source for name, entry in origins.items()})


class Reread(NamedTuple):
    """What a running daemon makes of its configuration, read again.

    config: what is in force now.  changed: settings that are new in it.  waiting: settings that change at a restart.
    """

    config: Config
    changed: tuple[str, ...]
    waiting: tuple[str, ...]


def reread(running: Config, found: Config) -> Reread:
    """Take over from `found` what can change while the daemon runs. Raises ConfigError where that does not fit."""
    differs = [name for name in fields() if getattr(running, name) != getattr(found, name)]
    changed = tuple(name for name in differs if fields()[name].key.live)
    values = {name: getattr(found if name in changed else running, name) for name in fields()}
    problems = list(_contradictions(values, {}, set()))
    if problems:
        raise ConfigError(_all_of([f"{problem}; other settings change at a restart only" for problem in problems]))
    kept = {name: source for name, source in running.sources.items() if name not in changed}
    sources = kept | {name: source for name, source in found.sources.items() if name in changed}
    return Reread(Config(**values, sources=sources), changed, tuple(name for name in differs if name not in changed))


def _read(field: Field, entry: _Entry) -> object:
    """The value of an entry, checked. Raises Wrong."""
    value = entry.value
    if value is None:
        if not field.nullable:
            raise Wrong("has no value", "remove the line to get the default")
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
    if host in ("127.0.0.1", "localhost"):
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _from_home(path: str, environ: Mapping[str, str]) -> str:
    home = environ.get("HOME")
    if home and (path == "~" or path.startswith("~/")):
        return home + path[1:]
    return os.path.expanduser(path)


def _environment_entries(environ: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, _Entry]]:
    known = {variable: field for field in fields().values() for variable in field.variables}
    for variable in sorted(environ):
        field, text = known.get(variable), environ[variable]
        if field is None:
            if variable.startswith("CASCADENCE_") and variable not in _IGNORED_VARIABLES:
                problems.append(f"environment variable {variable}: {_unknown_variable(variable, known)}")
        elif text or field.key.keeps_empty:
            where, source = f"environment variable {variable}", f"environment {variable}"
            yield field.name, _Entry(text, where, source, True)


def _unknown_variable(variable: str, known: Mapping[str, Field]) -> str:
    key = variable.removeprefix("CASCADENCE_").lower()
    if key in _LATER_KEYS:
        return "not supported by this version"
    field = _by_yaml_key().get(key)
    hint = f"use {field.variables[0]}" if field else closest(variable, known)
    return "unknown" + _bracketed(hint)


def _override_entries(overrides: Mapping[str, object], problems: list[str]) -> Iterator[tuple[str, _Entry]]:
    for name, value in overrides.items():
        option = f"--{name.replace('_', '-')}"
        if name not in fields():
            problems.append(f"{option}: unknown{_bracketed(closest(name, fields()))}")
        elif value is not None:
            yield name, _Entry(value, option, "command line", isinstance(value, str))


def _file_entries(path: str | None, environ: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, _Entry]]:
    named = path or environ.get("CASCADENCE_CONFIG")
    file_name = named or FILE_NAME
    try:
        with open(_from_home(file_name, environ), "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if named:
            problems.append(f"{file_name}: there is no such file")
        return
    except (OSError, ValueError) as error:
        problems.append(f"{file_name}: cannot be read: {getattr(error, 'strerror', None) or error}")
        return
    if len(data) > MAX_FILE_BYTES:
        problems.append(f"{file_name}: is larger than {MAX_FILE_BYTES} bytes")
        return

    def report(line: int, problem: str) -> None:
        problems.append(f"{file_name}:{line}: {problem}")

    from cascadenced.plain_yaml import entries

    known = _by_yaml_key()
    for key, value, line in entries(data, report):
        field = known.get(key)
        if field is not None:
            yield field.name, _Entry(value, f"{file_name}:{line}: {key}", f"{file_name}:{line}", False)
        elif key in _LATER_KEYS:
            report(line, f"{key}: not supported by this version")
        else:
            report(line, f"{shown(key)}: unknown key{_bracketed(closest(key, known))}")


def _by_yaml_key() -> dict[str, Field]:
    return {key: field for field in fields().values() for key in (field.name, *field.key.aliases)}


# --- words for people -------------------------------------------------------------------------------------------------


def _sentence(field: Field, entry: _Entry, wrong: Wrong) -> str:
    # An @ may follow a password, in a URL or in what was to become one.
    hidden = field.key.secret or (field.key.credentials and "@" in str(entry.value))
    problem = str(wrong).replace("{value}", MASK if hidden else shown(entry.value))
    return f"{entry.where}: {problem}{_bracketed(wrong.hint)}"


def _all_of(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    more = [f"and {len(problems) - _MAX_LISTED} more"] if len(problems) > _MAX_LISTED else []
    return "\n  ".join([f"the configuration has {len(problems)} errors:", *problems[:_MAX_LISTED], *more])


def _bracketed(hint: str) -> str:
    return f" ({hint})" if hint else ""
