"""Messages for the bus from a seed, most of them broken; and, worked out apart from the program, what becomes of each.

sent(seed, n)     the n-th message: the same again for the same seed, whatever was asked before
fate(message)     the dead letter's possible reasons, or the type of the event it must become
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple
from urllib.parse import unquote

from croniter import croniter

from tests.hostile import grammar

NEWEST = [2026, 4, 0]
"""The schema version that is published; what calls itself newer is parked."""
MAX_PAYLOAD = 1_000_000
"""What the broker takes of a message, about."""
TASK = "telling"
"""What run requests and schedules are for: registered, and quick."""
FAMILIES = ("run.request", "event", "pointer", "schedule", "task_run", "idea", "note")
EVENTS = {
    "run.request": "run.requested",
    "event": "event.dispatched",
    "pointer": "pointer.added",
    "task_run": "run.reported",
    "idea": "idea.recorded",
    "note": "note.recorded",
}
"""What a message of each family becomes; of schedules, one of two."""


class Sent(NamedTuple):
    """how: the mutations, for whoever reads a failure.  again: sent a second time, word for word."""

    n: int
    subject: str
    headers: dict[str, str]
    body: bytes
    how: str
    again: bool = False


class Fate(NamedTuple):
    """reasons: of the dead letter, one of them.  event: the type it becomes instead.  foreign: only counted."""

    reasons: frozenset[str] = frozenset()
    event: str | None = None
    foreign: bool = False


# ── making ───────────────────────────────────────────────────────────────────────────────────────────────────


def sent(seed: int, n: int) -> Sent:
    return Maker(Random(f"{seed}/{n}"), n, f"s{seed}-{n}").make()


def valid(family: str, mark: str) -> dict[str, Any]:
    """The fields of a good message."""
    # No piece of the user's name may be a piece of the message's: the log has a pseudonym where one names the other.
    who = {"user_id": f"user-{mark.translate(_LETTERS)}", "group_id": "eng"}
    match family:
        case "run.request":
            return {**who, "args": {"n": mark}, "priority": 1}
        case "event":
            return {**who, "payload": {"n": mark}}
        case "pointer":
            return {**who, "run_id": f"run-{mark}"}
        case "schedule":
            return {**who, "expr": "0 9 * * 1", "timezone": "Europe/Berlin"}
        case "task_run":
            return {**who, "run_id": f"run-{mark}", "status": "success", "spec": {"id": mark}}
        case "idea":
            return {**who, "text": f"water the plants {mark}"}
        case _:
            return {**who, "note": f"no travel {mark}", "task_name": "example", "run_id": f"run-{mark}"}


_LETTERS = str.maketrans("s0123456789", "zabcdefghij")
_NAMES = {"run.request": ".telling", "schedule": ".telling", "event": ".storm.heard", "idea": "", "note": ""}
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 1.5, 2**31, 2**31 - 1, -(2**63), 2**64 - 1, 2**64, 10**40, 1e300),
    *("", " ", "x", "é", "\u0000", "\u0085", "\ud800", "\u202e", "٣", "x" * 256, "x" * 257, "x" * 5000),
    *("a" * 64, "A" * 64, "g" * 64, "a" * 63, "a" * 64 + "\n"),
    *([], {}, [1], {"a": 1}, [[["x"]]], {"node": "n"}, {"node": ""}, {"node": 1}, {"node": "n", "poll": 5}),
    *({"node": "n", "poll": 0}, {"node": "n", "poll": True}, {"poll": 1}, {"id": 7}, {"id": None}, {"id": "s"}),
    *("* * * * *", "@daily", "* * * *", "*/0 * * * *", "61 * * * *", "0 0 31 2 *", "UTC", "Europe/Nowhere", "../UTC"),
)
_ODD_TOKENS = (
    *("%", "%00", "%ff", "%zz", "%2E", "%2e%2e%2fetc", "q%75ick", "telling%20", "%74elling", "a" * 128, "a" * 129),
    *(
        "nowhere",
        "TELLING",
        "telling.x",
        "a.b.c",
        "<script>",
        "'--",
        '"',
        "\\",
        "$JS",
        "$SYS",
        "-",
        "_",
        "~",
        "é",
        "人",
    ),
    *("%F0%9F%98%80", "%C3%28", "%0d%0aX", "{}", "[]", "a" * 2000),
)
_ODD_SUBJECTS = (
    *("ume.unknown", "ume.event", "ume.run", "ume.pointer", "ume.schedule", "ume.IDEA", "ume.ideas", "ume.%69dea"),
    *("ume.rpc", "ume.stage", "ume.log", "ume.$", "ume.-", "ume.idea%2Ex", "ume.é"),
)
_ODD_HEADERS: tuple[dict[str, str], ...] = (
    {"traceparent": "00-zz"},
    {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
    {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01-and-more"},
    {"X": "y" * 10_000},
    {"content-type": "application/xml", "Content-Encoding": "gzip"},
    {"Status": "503", "Description": "No Responders"},
    {"Nats-Service-Error": "no", "Nats-Service-Error-Code": "500"},
    {"ce-specversion": "99", "ce-type": "x", "ce-source": "//"},
    {"Cascadence-Origin": "someone-else"},
    {"cascadence-origin": "someone-else"},
    {"Nats-Stream": "UME", "Nats-Sequence": "1"},
    {f"X-{n}": "v" for n in range(100)},
)
_VERSIONS: tuple[Any, ...] = (
    *("0", "1.0.0", "2026", "2026.4", "2026.04.0", "2026.04.1", "2026.12", "2027.01.0", "99999999", "999999999"),
    *("", "x", "2027.x", "-1", "٣", "٩٩٩٩", "9" * 50, "2026.04.0.0", 9999, None, [9], {"major": 9}),
)


class Maker:
    """One message. mark: what makes its content its own."""

    def __init__(self, random: Random, n: int, mark: str) -> None:
        self.random, self.n, self.mark = random, n, mark
        self.family = random.choice(FAMILIES)
        self.value: Any = valid(self.family, mark)
        if self.family == "schedule" and random.random() < 0.2:
            self.value["expr"] = None  # which removes it
        self.subject = f"ume.{self.family}{_NAMES.get(self.family, '.storm')}"
        self.headers: dict[str, str] = {"Nats-Msg-Id": mark}
        self.again = False

    def make(self) -> Sent:
        random, how = self.random, []
        for mutate in random.choices(*_OF_VALUES, k=random.choice((0, 1, 1, 1, 2))):
            how.append(mutate.__name__)
            mutate(self)
        body = self.spelled()
        for change in random.choices(*_OF_BYTES, k=random.choice((0, 1, 1, 2))):
            how.append(change.__name__)
            body = change(self, body)
        return Sent(self.n, self.subject, self.headers, body[:MAX_PAYLOAD], "+".join(how), self.again)

    def spelled(self) -> bytes:
        random = self.random
        text = json.dumps(
            self.value,
            ensure_ascii=random.random() < 0.5,
            separators=random.choice(((",", ":"), (", ", ": "), (" ,\n", " :\t"))),
        )
        return text.encode(errors="surrogatepass")

    # of the value, before it is spelled

    def as_it_is(self) -> None:
        pass

    def odd_value(self) -> None:
        if isinstance(self.value, dict):
            known = (*valid(self.family, ""), "user_id", "user_hash", "group_hash", "idempotency_key", "calendar_event")
            key = self.random.choice((*known, "poll", "started_at", "spec", "recurrence", "surprise", "schema_version"))
            self.value[key] = self.random.choice(_ODD_VALUES)

    def without_a_field(self) -> None:
        if isinstance(self.value, dict) and self.value:
            del self.value[self.random.choice(list(self.value))]

    def no_object(self) -> None:
        self.value = self.random.choice(([], [self.value], None, True, 0, "text", 1.5))

    def other_family(self) -> None:
        self.value = valid(self.random.choice(FAMILIES), self.mark)

    def other_schema(self) -> None:
        if isinstance(self.value, dict):
            self.value["schema_version"] = self.random.choice(_VERSIONS)

    def nested(self) -> None:
        value: Any = self.random.choice((1, "x", None))
        for _ in range(self.random.choice((5, 60, 61, 62, 63, 64, 65, 70, 90))):
            value = [value] if self.random.random() < 0.5 else {"a": value}
        if isinstance(self.value, dict):
            self.value[self.random.choice(("args", "payload", "surprise", "recurrence"))] = {"a": value}

    def odd_name(self) -> None:
        if self.family not in ("idea", "note"):
            self.subject = f"ume.{self.family}.{self.random.choice(_ODD_TOKENS)}"

    def odd_family(self) -> None:
        self.subject = self.random.choice(_ODD_SUBJECTS)

    def odd_headers(self) -> None:
        self.headers = {**self.headers, **self.random.choice(_ODD_HEADERS)}

    def nameless(self) -> None:
        self.headers, self.again = {}, False

    def long_name(self) -> None:
        self.headers, self.again = {"Nats-Msg-Id": self.mark + "x" * self.random.choice((1000, 1030, 4000))}, False

    def sent_twice(self) -> None:
        # By this header only we notice: the broker has its own, and swallows the second one.
        self.headers, self.again = {"ce-id": self.mark}, True

    # of the bytes

    def unchanged(self, body: bytes) -> bytes:
        return body

    def cut(self, body: bytes) -> bytes:
        return body[: self.random.randrange(len(body) + 1)]

    def flipped(self, body: bytes) -> bytes:
        changed = bytearray(body)
        for _ in range(self.random.choice((1, 1, 2, 8))):
            if changed:
                changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def with_a_hole(self, body: bytes) -> bytes:
        at = self.random.randrange(len(body) + 1)
        return body[:at] + body[at + self.random.randrange(1, 9) :]

    def repeated(self, body: bytes) -> bytes:
        at = self.random.randrange(len(body) + 1)
        end = at + self.random.randrange(1, 40)
        return body[:end] + body[at:]

    def with_noise(self, body: bytes) -> bytes:
        at = self.random.randrange(len(body) + 1)
        return body[:at] + self.random.randbytes(self.random.randrange(1, 6)) + body[at:]

    def with_a_piece(self, body: bytes) -> bytes:
        at = self.random.randrange(len(body) + 1)
        pieces = (b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"9" * 40, b"\xff", b"\xed\xa0\x80", b",", b"}", b"{", b'"')
        return body[:at] + self.random.choice(pieces) + body[at:]

    def key_twice(self, body: bytes) -> bytes:
        key = self.random.choice((b'"user_id":"a",', b'"user_id":"a","user_id":"b",', b'"x":1,"x":1,', b'"x":1,'))
        return body.replace(b"{", b"{" + key, 1)

    def giant_number(self, body: bytes) -> bytes:
        number = self.random.choice(
            (b"1" * 19, b"1" * 20, b"9" * 20, b"1" * 400, b"1e400", b"-" + b"9" * 19, b"1e-400")
        )
        return body.replace(b"{", b'{"surprise":' + number + b",", 1)

    def other_encoding(self, body: bytes) -> bytes:
        try:
            text = body.decode()
            return text.encode(self.random.choice(("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "cp500")))
        except UnicodeError:
            return body

    def noise(self, body: bytes) -> bytes:
        return self.random.randbytes(self.random.randrange(400))

    def brackets(self, body: bytes) -> bytes:
        return self.random.choice((b"[", b'{"a":', b"{", b"]", b'"[', b"[{")) * self.random.choice(
            (64, 65, 1000, 20_000)
        )

    def many_brackets(self, body: bytes) -> bytes:
        return self.random.choice((b"[", b'{"a":', b'"[')) * 5_000

    def too_large(self, body: bytes) -> bytes:
        return body + b" " * (grammar.MAX_BYTES - len(body) + self.random.choice((0, 1, 100_000)))


_VALUE_WEIGHTS: dict[Callable[[Maker], None], int] = {
    Maker.as_it_is: 3,
    Maker.odd_value: 12,
    Maker.without_a_field: 6,
    Maker.no_object: 4,
    Maker.other_family: 4,
    Maker.other_schema: 3,
    Maker.nested: 3,
    Maker.odd_name: 8,
    Maker.odd_family: 3,
    Maker.odd_headers: 5,
    Maker.nameless: 2,
    Maker.long_name: 1,
    Maker.sent_twice: 2,
}
_BYTE_WEIGHTS: dict[Callable[[Maker, bytes], bytes], int] = {
    Maker.unchanged: 20,
    Maker.cut: 60,
    Maker.flipped: 60,
    Maker.with_a_hole: 40,
    Maker.repeated: 40,
    Maker.with_noise: 40,
    Maker.with_a_piece: 50,
    Maker.key_twice: 40,
    Maker.giant_number: 40,
    Maker.other_encoding: 30,
    Maker.noise: 30,
    Maker.brackets: 30,
    Maker.many_brackets: 1,
    Maker.too_large: 1,
}


_OF_VALUES = list(_VALUE_WEIGHTS), list(_VALUE_WEIGHTS.values())
_OF_BYTES = list(_BYTE_WEIGHTS), list(_BYTE_WEIGHTS.values())


# ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────


class _No(Exception):
    """The reason it is refused."""


_TEXT, _TEXT_OR_NULL = (str,), (str, type(None))
_SHAPES: dict[str, dict[str, tuple[tuple[type, ...], bool]]] = {
    # field: (types, whether it must be there)
    "run.request": {
        "user_id": (_TEXT, True),
        "group_id": (_TEXT, True),
        "args": ((dict,), False),
        "idempotency_key": (_TEXT_OR_NULL, False),
        "priority": ((int,), False),
    },
    "event": {"user_id": (_TEXT, True), "group_id": (_TEXT_OR_NULL, False), "payload": ((dict,), False)},
    "pointer": {"run_id": (_TEXT, True), "task_name": (_TEXT_OR_NULL, False)},
    "schedule": {
        "expr": (_TEXT_OR_NULL, False),
        "calendar_event": ((str, dict, type(None)), False),
        "timezone": (_TEXT_OR_NULL, False),
        "poll": ((int, float, type(None)), False),
        "user_id": (_TEXT_OR_NULL, False),
        "group_id": (_TEXT_OR_NULL, False),
    },
    "task_run": {
        "run_id": (_TEXT, True),
        "status": (_TEXT, True),
        "spec": ((dict, type(None)), False),
        "started_at": (_TEXT_OR_NULL, False),
        "finished_at": (_TEXT_OR_NULL, False),
    },
    "idea": {"text": (_TEXT, True)},
    "note": {"note": (_TEXT, True), "task_name": (_TEXT_OR_NULL, False), "run_id": (_TEXT_OR_NULL, False)},
}
_SOMEBODY = dict.fromkeys(("user_id", "user_hash", "group_id", "group_hash"), (_TEXT_OR_NULL, False))
for _family in ("pointer", "task_run", "idea", "note"):
    _SHAPES[_family].update(_SOMEBODY)

_PART = "[A-Za-z0-9_-]+"


def fate(message: Sent, *, tasks: frozenset[str] = frozenset({TASK})) -> Fate:
    """What must become of `message`, by the promises of the published contract."""
    if "Cascadence-Origin" in message.headers and message.subject.startswith(("ume.run.request.", "ume.event.")):
        return Fate(foreign=True)
    try:
        return Fate(event=_event(message, tasks))
    except _No as no:
        (reasons,) = no.args
        return Fate(frozenset(reasons))


def _event(message: Sent, tasks: frozenset[str]) -> str:
    family, name = _address(message.subject)
    if reasons := grammar.reasons(message.body):
        raise _No(reasons)
    value = json.loads(message.body)
    if isinstance(value, dict) and _is_future(value.get("schema_version")):
        raise _No({"future_schema"})
    if not isinstance(value, dict) or not _fits(value, _SHAPES[family]):
        raise _No({"invalid"})
    _check(_is_sound(family, name, value))
    if family in ("run.request", "schedule") and name not in tasks:
        raise _No({"unknown_task"})
    if family == "schedule":
        _check(_can_be_scheduled(value))
        if value.get("expr") is None and value.get("calendar_event") is None:
            return "schedule.removed"
        return "schedule.set"
    return EVENTS[family]


def _check(holds: bool) -> None:
    if not holds:
        raise _No({"invalid"})


def _address(subject: str) -> tuple[str, str]:
    for family in FAMILIES:
        full = f"ume.{family}"
        if family in ("idea", "note"):
            if subject == full:
                return family, ""
        elif subject.startswith(f"{full}."):
            tokens = subject.removeprefix(f"{full}.").split(".")
            if family == "event" or len(tokens) == 1:
                return family, ".".join("" if token == "%" else unquote(token) for token in tokens)
    raise _No({"unknown_family"})


def _is_future(version: object) -> bool:
    if not isinstance(version, str) or not re.fullmatch(r"\d{1,8}(\.\d{1,8})*", version):
        return False
    return [int(part) for part in version.split(".")] > NEWEST


def _fits(value: dict[str, Any], shape: dict[str, tuple[tuple[type, ...], bool]]) -> bool:
    for field, (types, required) in shape.items():
        if field not in value:
            if required:
                return False
        elif type(value[field]) not in types:
            return False
    return True


def _is_sound(family: str, name: str, value: dict[str, Any]) -> bool:
    ids = [value[field] for field in ("user_id", "group_id") if value.get(field) is not None]
    hashes = [value[field] for field in ("user_hash", "group_hash") if value.get(field) is not None]
    match family:
        case "run.request":
            key = value.get("idempotency_key")
            fits = (key is None or 1 <= len(key) <= 256) and abs(value.get("priority", 0)) < 2**31
            return fits and all(map(_is_id, ids))
        case "event":
            group = value.get("group_id") or value["user_id"]
            return _is_name(name) and _is_id(value["user_id"]) and _is_id(group)
        case "schedule":
            return _is_sound_schedule(value)
    if family == "pointer" and value.get("user_id") is None and value.get("user_hash") is None:
        return False
    if family in ("pointer", "task_run"):
        ids += [value[field] for field in ("run_id", "status") if field in _SHAPES[family]]
        if not _is_name(name):
            return False
    if family == "task_run" and type((value.get("spec") or {}).get("id")) not in _TEXT_OR_NULL:
        return False
    return all(map(_is_id, ids)) and all(re.fullmatch("[0-9a-f]{64}", spelled) for spelled in hashes)


def _is_sound_schedule(value: dict[str, Any]) -> bool:
    if "expr" not in value and "calendar_event" not in value:
        return False
    user, calendar = value.get("user_id"), value.get("calendar_event")
    if user is not None and not (_is_id(user) and _is_id(value.get("group_id") or user)):
        return False
    if calendar is None:
        return True
    node, poll = (
        (calendar, value.get("poll")) if isinstance(calendar, str) else (calendar.get("node"), calendar.get("poll"))
    )
    if not isinstance(node, str) or not node:
        return False
    return poll is None or (type(poll) in (int, float) and poll > 0)


def _can_be_scheduled(value: dict[str, Any]) -> bool:
    if value.get("expr") is None and value.get("calendar_event") is None:
        return True
    if value.get("calendar_event") is not None:
        return False  # no calendar is configured
    words = value["expr"].split()
    text = " ".join(words)
    if not text or len(text) > 256 or (len(words) != 5 and not text.startswith("@")) or not croniter.is_valid(text):
        return False
    return (value.get("timezone") or "UTC") in ("UTC", "Europe/Berlin")


def _is_id(text: str) -> bool:
    return 1 <= len(text) <= 256 and not re.search("[\u0000-\u001f\u007f-\u009f\ud800-\udfff]", text)


def _is_name(name: str) -> bool:
    return re.fullmatch(rf"{_PART}(\.{_PART})*", name) is not None and len(name) <= 128
