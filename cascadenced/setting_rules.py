"""What a setting may be: one small rule per kind of value, for text and for typed values alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"  # identifiers with dots between


class Wrong(Exception):
    """A value is refused. `{value}` in the text stands for it, or for the mask; hint goes into brackets at the end."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


class Kind(NamedTuple):
    """check: a typed value (from YAML or the program) → the value to keep, or raises Wrong.

    parse: text (from the environment or the command line) → a typed value for `check`, or raises Wrong.
    """

    check: Callable[[Any], object]
    parse: Callable[[str], object] = str


class Key(NamedTuple):
    """How one setting is spelled and checked.

    unit: what a number counts.  env: its variables, `CASCADENCE_<KEY>` when empty.  aliases: other YAML keys.
    secret: never shown.  credentials: a URL, of whose user and password the same is true.
    keeps_empty: an empty variable is a value, not "not set".
    live: a running daemon takes a new value on when it reads its configuration again.
    """

    kind: Kind
    unit: str = ""
    env: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    secret: bool = False
    credentials: bool = False
    keeps_empty: bool = False
    live: bool = False


def _number(low: float, high: float, *, whole: bool) -> Kind:
    types: tuple[type, ...] = (int,) if whole else (int, float)
    must = f"must be a {'whole ' if whole else ''}number from {low} to {high}, not {{value}}"

    def check(value: Any) -> object:
        if type(value) not in types or not low <= value <= high:
            raise Wrong(must)
        return value if whole else float(value)

    def parse(text: str) -> object:
        # Narrower than int() and float(), which also take "1_000", "inf" and the digits of every script.
        if not re.fullmatch(r"[+-]?[0-9]{1,18}" + ("" if whole else r"(\.[0-9]{1,9})?"), text.strip()):
            raise Wrong(must)
        return int(text) if whole else float(text)

    return Kind(check, parse)


def _check_boolean(value: Any) -> object:
    if not isinstance(value, bool):
        raise Wrong("must be true or false, not {value}", "YAML 1.2 has no other words for them")
    return value


def _parse_boolean(text: str) -> object:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("", "0", "false", "no", "off"):
        return False
    raise Wrong("must be one of true, yes, on, 1, false, no, off, 0, not {value}")


def text(what: str, pattern: str = r".+") -> Kind:
    def check(value: Any) -> object:
        if not isinstance(value, str):
            raise Wrong(f"must be {what}, not {{value}}", "put it in quotes")
        if not value.isprintable() or not re.fullmatch(pattern, value):
            raise Wrong(f"must be {what}, not {{value}}")
        return value

    return Kind(check)


def one_of(*words: str, later: tuple[str, ...] = ()) -> Kind:
    """later: words that a future version will know; saying so beats calling them unknown."""

    def check(value: Any) -> object:
        if value in later:
            raise Wrong("{value} is not supported by this version", f"use {' or '.join(words)}")
        if value not in words:
            raise Wrong(f"must be {' or '.join(words)}, not {{value}}")
        return value

    return Kind(check, lambda text: text.strip().lower())


def check_timezone(value: Any) -> object:
    if value == "UTC":  # spares every command the import
        return value
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(value)
    except (TypeError, AttributeError, ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        zones = zoneinfo.available_timezones()
        hint = closest(str(value), zones) if zones else "this machine knows no time zones: install tzdata"
        raise Wrong("must be an IANA time zone such as Europe/Berlin, not {value}", hint) from None
    return value


def check_nats_url(value: Any) -> object:
    hint = ""
    if isinstance(value, str) and "://" not in value and "@" not in value:
        is_attribute = re.fullmatch(r"[\w.]+:[A-Za-z_]\w*", value)
        hint = (
            "a connection as module:attr is not supported by this version"
            if is_attribute
            else f"did you mean nats://{value}?"
        )
    if not isinstance(value, str) or not all(_is_nats_url(url) for url in value.split(",")):
        raise Wrong("must be a nats:// or tls:// URL, or several with commas between, not {value}", hint)
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


def check_http_url(value: Any) -> object:
    """The URL without the slash at its end."""
    if not isinstance(value, str) or not _is_http_url(value):
        is_bare = isinstance(value, str) and "://" not in value and "@" not in value
        hint = f"did you mean http://{value}?" if is_bare else ""
        raise Wrong("must be an http:// or https:// URL, not {value}", hint)
    return value.rstrip("/")


def _is_http_url(url: str) -> bool:
    from urllib.parse import urlsplit

    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_whole and not parts.query and not parts.fragment


def _check_plugin_paths(value: Any) -> object:
    if not isinstance(value, list | tuple) or not all(isinstance(path, str) for path in value):
        raise Wrong("must be a list of 'module:Class' or 'module:function', not {value}")
    for path in value:
        if not re.fullmatch(rf"{_DOTTED}:{_DOTTED}", path):
            raise Wrong(f"path must be 'module:Class' or 'module:function', not {shown(path)}", "exactly one colon")
    return tuple(value)


BOOLEAN = Kind(_check_boolean, _parse_boolean)
FLAG = Key(BOOLEAN, keeps_empty=True)
PATH = text("a path")
INSTANCE = text("1–64 of the characters A–Z a–z 0–9 _ -", r"[A-Za-z0-9_-]{1,64}")
SUBJECT = text("a subject without wildcards, such as ume", r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
HOST = text("a host name or IP address without scheme, brackets or port", r"[A-Za-z0-9._:%-]+")
TOKEN = text("printable ASCII without spaces", r"[!-~]+")
SECRET = text("printable text", r".*")
NAME_OR_NOTHING = text("a task's name, or empty", r".{0,256}")
PLUGIN_PATHS = Kind(_check_plugin_paths, lambda text: [path.strip() for path in text.split(",") if path.strip()])


def whole(low: int, high: int, unit: str = "", *, live: bool = False) -> Key:
    return Key(_number(low, high, whole=True), unit, live=live)


def seconds(low: int, high: int, *, live: bool = False) -> Key:
    return Key(_number(low, high, whole=False), "seconds", live=live)


def shown(value: object) -> str:
    """`value` as an error message quotes it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def closest(word: str, known: Any) -> str:
    """`did you mean …?`, or nothing."""
    from difflib import get_close_matches

    matches = get_close_matches(word, list(known), n=1)
    return f"did you mean {matches[0]}?" if matches else ""
