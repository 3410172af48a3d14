"""Raw identities in every spelling, and the search for them in texts, files and databases.

PEOPLE                  pairs of a user and a group, each strange in another way
in_bytes(data)          what of them is found in these bytes
in_folder(folder)       … in all files of a folder, and in the rows of its databases
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, quote_plus


class Person(NamedTuple):
    user_id: str
    group_id: str


PEOPLE: dict[str, Person] = {
    "plain": Person("zyxwv-user-4711", "qponm-group-0815"),
    "mail": Person("Zacharias.Quux+tag@secret.example", "Xylo Partners & Sons"),
    "quoted": Person('O\'Quxx "the" back\\slash', "grp'Xylo\"Vq\\n"),
    "accented": Person("Zoë-Jürgenqß", "Ärzte-Qvøx"),
    "taken apart": Person("Zoe\u0308qqx-nfd", "A\u0308xqq-nfd"),
    "far away": Person("王小明-密碼-甲乙", "Группа-Ъыьщ"),
    "beyond the plane": Person("𝔘𝔰𝔢𝔯-𝔵𝔮", "👩‍🚀-crew-xqv"),
    "percent": Person("bqx%2Fz%20u%41-7f3", "grp%2Bqv%00x"),
    "base64": Person("cXV4LXNlY3JldC1pZC00Nw==", "eHlsby1ncnAtOTk5"),
    "hexadecimal": Person("7A79787776-DEADBEEF-4242", "0xC0FFEE99AA"),
    "mixed case": Person("MiXeDcAsE-Wvut-USER", "ALLCAPSGROUPXQ"),
    "number": Person("4915112345678901", "9900001111222233"),
    "markup": Person("<b onload=qvx(1)>U</b>", "grp</script>&amp;qvx"),
    "escape": Person("\\u0041qvx-\\x41-user", "%s{qvx}$(grp)`"),
    "long": Person("Lqx" * 85, "Gvq" * 85),
    "like a word": Person("systemqvx", "errorqvx"),
}

_LONG_NOTHING = re.compile(rb"\0{64,}")
_DATABASE = b"SQLite format 3\0"


class Found(NamedTuple):
    """A trace of somebody. where: a file or whatever was searched.  around: the bytes at that place."""

    where: str
    who: str
    spelling: str
    around: bytes


@cache
def spellings(raw: str) -> dict[str, bytes]:
    """How `raw` may lie in bytes: the name of the spelling → the bytes, in lower case."""
    found: dict[str, bytes] = {}
    forms = {"": raw, "NFC ": unicodedata.normalize("NFC", raw), "NFD ": unicodedata.normalize("NFD", raw)}
    for form, text in forms.items():
        data = text.encode()
        texts = {
            "as it is": text,
            "JSON": json.dumps(text)[1:-1],
            "JSON, not only ASCII": json.dumps(text, ensure_ascii=False)[1:-1],
            "JSON in JSON": json.dumps(json.dumps(text))[3:-3],
            "repr": repr(text)[1:-1],
            "ascii": ascii(text)[1:-1],
            "repr in JSON": json.dumps(repr(text))[2:-2],
            "URL": quote(text, safe=""),
            "URL path": quote(text),
            "URL query": quote_plus(text),
            "URL, every byte": "".join(f"%{byte:02x}" for byte in data),
            "HTML": html.escape(text),
            "HTML, double quotes only": html.escape(text, quote=False),
            "hex": data.hex(),
            "hex of UTF-16": text.encode("utf-16-le").hex(),
        }
        for name, spelled in texts.items():
            found[form + name] = spelled.lower().encode()
        for encoding in ("utf-16-le", "utf-16-be"):
            found[form + encoding] = text.encode(encoding).lower()
            found[f"{form}{encoding}, in lower case"] = text.lower().encode(encoding)
        for name, inside in _base64(data):
            found[form + name] = inside
    unique: dict[bytes, str] = {}
    for name, spelled_bytes in found.items():
        unique.setdefault(spelled_bytes, name)
    return {name: spelled_bytes for spelled_bytes, name in unique.items()}


def _base64(data: bytes) -> Iterator[tuple[str, bytes]]:
    """As it looks inside a longer text: at each of three offsets, without the characters that neighbours change."""
    for offset in range(3):
        first = -(-offset * 8 // 6)
        last = (offset + len(data)) * 8 // 6
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            yield f"{name} at {offset}", encode(bytes(offset) + data)[first:last].lower()


def in_bytes(data: bytes | str, where: str = "", people: dict[str, Person] | None = None) -> list[Found]:
    """Every trace of `people` (None: all of them) in `data`, letters of either case."""
    raw = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    # Only ASCII letters change: bytes.lower knows no other. What else has case is looked for in lower case as well.
    text = _LONG_NOTHING.sub(b"\0" * 64, raw).lower()
    lower = text.decode(errors="surrogateescape").lower().encode(errors="surrogateescape")
    found = []
    for who, person in (PEOPLE if people is None else people).items():
        for field, value in zip(person._fields, person, strict=True):
            for name, spelled in spellings(value).items():
                inside = text if spelled.isascii() or spelled in text else lower
                at = inside.find(spelled)
                if at >= 0:
                    found.append(Found(where, f"{who} {field}", name, inside[max(0, at - 80) : at + 160]))
    return found


def in_folder(folder: Path, people: dict[str, Person] | None = None) -> tuple[list[Found], int]:
    """(every trace in the files under `folder`, how many files there are).

    Searched are the bytes of each, the rows of databases, which may be spread over several pages, and what is packed
    with gzip. No other process may be using the databases; a server that is just ending may remove files of its own.
    """
    found, n_files = [], 0
    for root, _, names in os.walk(folder):
        for path in sorted(Path(root, name) for name in names):
            if path.is_socket():
                continue
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            n_files += 1
            found += _in_file(path, data, people)
    return found, n_files


def _in_file(path: Path, data: bytes, people: dict[str, Person] | None) -> list[Found]:
    found = in_bytes(data, str(path), people)
    found += in_bytes(path.name, f"the name of {path}", people)
    if data.startswith(b"\x1f\x8b"):
        found += in_bytes(gzip.decompress(data), f"inside {path}", people)
    if data.startswith(_DATABASE):
        found += in_bytes("\n".join(_rows(path)), f"the rows of {path}", people)
    return found


def _rows(path: Path) -> Iterator[str]:
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    connection.text_factory = lambda data: data.decode(errors="surrogateescape")
    try:
        tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        for name, sql in tables:
            yield f"{name} {sql}"
            for row in connection.execute(f'SELECT * FROM "{name}"'):
                for value in row:
                    yield value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
    finally:
        connection.close()
