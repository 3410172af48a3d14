"""Which bytes are a JSON value that may come in. Written from RFC 8259 and our bounds, not from the program's parser.

A regular expression finds the tokens, a stack of open brackets checks their order; nothing here recurses.
"""

from __future__ import annotations

import json
import math
import re

MAX_BYTES = 512 * 1024
MAX_DEPTH = 64

_TOKEN = re.compile(
    r"""[ \t\n\r]*+ (?:
        (?P<string> "(?: [^"\\\x00-\x1f] | \\["\\/bfnrt] | \\u[0-9a-fA-F]{4} )*+" )
      | (?P<number> -? (?: 0 | [1-9][0-9]*+ ) (?: \.[0-9]++ )?+ (?: [eE][+-]?[0-9]++ )?+ )
      | (?P<word> true | false | null )
      | (?P<mark> [\[\]{}:,] )
      | (?P<end> \Z )
    )""",
    re.VERBOSE,
)
_CLOSES = {"]": "[", "}": "{"}


def reasons(data: bytes) -> frozenset[str]:
    """Why `data` may not come in, as reasons of dead letters; empty if it may. Several: any of them will do."""
    if len(data) > MAX_BYTES:
        return frozenset({"too_large"})
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return frozenset({"undecodable"})
    found = _Reader(text).read()
    if "undecodable" in found and text.count("[") + text.count("{") > MAX_DEPTH:
        # Nonsense with many brackets may be called either: which is noticed first is nobody's business.
        found.add("too_deep")
    return frozenset(found)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.open: list[str] = []
        self.keys: list[set[str]] = []
        self.found: set[str] = set()

    def read(self) -> set[str]:
        # What may come next: a value, a value or `]`, a key, a key or `}`, `:`, `,` or a closing bracket, the end.
        expected = "value"
        while (match := _TOKEN.match(self.text, self.at)) is not None:
            self.at = match.end()
            kind, token = match.lastgroup, match.group().lstrip(" \t\n\r")
            if kind == "end":
                if expected != "end":
                    break
                return self.found
            following = self._after(expected, kind, token)
            if len(self.open) > MAX_DEPTH:
                return self.found | {"too_deep"}  # whatever comes
            if following is None:
                break
            expected = following
        return self.found | {"undecodable"}

    def _after(self, expected: str, kind: str | None, token: str) -> str | None:
        if expected.startswith("key") and kind == "string":
            key = self._string(token)
            if key in self.keys[-1]:
                self.found.add("undecodable")
            self.keys[-1].add(key)
            return "colon"
        if expected == "colon":
            return "value" if token == ":" and kind == "mark" else None
        if kind == "mark" and token in _CLOSES and expected in ("more", "value or ]", "key or }"):
            return self._close(token) if expected == "more" or expected.endswith(token) else None
        if expected == "more":
            return None if token != "," or kind != "mark" else "key" if self.open[-1] == "{" else "value"
        if not expected.startswith("value"):
            return None
        return self._value(kind, token)

    def _value(self, kind: str | None, token: str) -> str | None:
        if kind == "mark":
            if token not in "[{":
                return None
            self.open.append(token)
            self.keys.append(set())
            return "key or }" if token == "{" else "value or ]"
        if kind == "string":
            self._string(token)
        elif kind == "number":
            self._number(token)
        return "more" if self.open else "end"

    def _close(self, token: str) -> str | None:
        if self.open.pop() != _CLOSES[token]:
            return None
        self.keys.pop()
        return "more" if self.open else "end"

    def _string(self, token: str) -> str:
        if "\\" not in token:
            return token[1:-1]
        value: str = json.loads(token)
        if any("\ud800" <= char <= "\udfff" for char in value):
            self.found.add("undecodable")
        return value

    def _number(self, token: str) -> None:
        if re.fullmatch("-?[0-9]+", token):
            fits = len(token) <= 20 and -(2**63) <= int(token) < 2**64
        else:
            fits = math.isfinite(float(token))
        if not fits:
            self.found.add("undecodable")
