"""The search for raw identities finds them wherever somebody might put one."""

from __future__ import annotations

import base64
import gzip
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.hostile.traces import PEOPLE, Person, in_bytes, in_folder

PEOPLE_BY_NAME = {"argvalues": PEOPLE.values(), "ids": list(PEOPLE)}

HIDING: dict[str, Callable[[str], bytes]] = {
    "as it is": lambda raw: raw.encode(),
    "UTF-16": lambda raw: raw.encode("utf-16"),
    "JSON": lambda raw: json.dumps({"x": raw}).encode(),
    "JSON, not only ASCII": lambda raw: json.dumps({"x": raw}, ensure_ascii=False).encode(),
    "JSON in JSON": lambda raw: json.dumps(json.dumps([raw])).encode(),
    "repr": lambda raw: f"ValueError({raw!r})".encode(),
    "URL": lambda raw: f"/x?y={quote(raw, safe='')}&z".encode(),
    "hex": lambda raw: raw.encode().hex().upper().encode(),
    "base64 after one": lambda raw: base64.b64encode(b"a" + raw.encode() + b"z"),
    "base64 after two": lambda raw: base64.b64encode(b"ab" + raw.encode() + b"z"),
    "base64 after three": lambda raw: base64.urlsafe_b64encode(b"abc" + raw.encode() + b"z"),
    "shouted": lambda raw: raw.swapcase().encode(),
}


@pytest.mark.parametrize("hide", HIDING.values(), ids=list(HIDING))
@pytest.mark.parametrize("person", **PEOPLE_BY_NAME)
def test_an_identity_is_found_however_it_is_spelled(person: Person, hide: Callable[[str], bytes]) -> None:
    for raw in person:
        if hide(raw) == raw.swapcase().encode() and raw.swapcase().lower() != raw.lower():
            continue  # ß becomes SS: another name
        assert in_bytes(b"\x00\xff before " + hide(raw) + b" after \xfe")


def test_nobody_is_found_where_nobody_is() -> None:
    assert in_bytes(b"the system said: error, for user and group alike. " + bytes(range(256)) * 50) == []
    assert in_bytes(json.dumps({"user_hash": "ab" * 32, "error": "no luck"})) == []


def test_nobody_is_mistaken_for_somebody_else() -> None:
    for name, person in PEOPLE.items():
        others = {other: value for other, value in PEOPLE.items() if other != name}
        assert in_bytes(f"{person.user_id} {person.group_id}", people=others) == []


def test_a_folder_is_searched_to_the_last_byte(tmp_path: Path) -> None:
    user = PEOPLE["plain"].user_id
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / ".hidden").write_bytes(bytes(1_000_000) + user.encode())
    (tmp_path / "packed.gz").write_bytes(gzip.compress(user.encode() * 3))
    (tmp_path / user).touch()
    (tmp_path / "clean").write_text("nothing here")
    with sqlite3.connect(tmp_path / "log.db") as database:
        # At the end of the first page of a long value: half of it lies on the next one.
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [("x" * n + user + "x" * 9000,) for n in range(4000, 4100)])
    database.close()
    found, n_files = in_folder(tmp_path)
    assert n_files == 5
    places = {trace.where for trace in found}
    deep, packed, name = tmp_path / "deep" / "er" / ".hidden", tmp_path / "packed.gz", tmp_path / user
    assert {str(deep), f"inside {packed}", f"the name of {name}", f"the rows of {tmp_path / 'log.db'}"} <= places
    assert str(tmp_path / "clean") not in places
