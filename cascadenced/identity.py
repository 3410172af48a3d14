"""Who asked: raw identities, their keyed pseudonyms, and keeping the first out of what people read.

A raw id lives in the vault and in memory for the task that runs. Everything else carries the pseudonym:
HMAC-SHA256(secret, domain ‖ 0 ‖ NFC(id)) as 64 hex digits, with separate domains for users and groups.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import unicodedata
from collections.abc import Callable
from contextvars import ContextVar
from functools import cached_property
from urllib.parse import quote, quote_plus

import msgspec

from cascadenced.errors import Invalid
from cascadenced.ids import GroupHash, UserHash

MAX_ID_CHARS = 256
_PLAIN_PART = re.compile("[A-Za-z0-9]+")
_QUOTES = "'" + '"'


class Identity(msgspec.Struct, frozen=True):
    """A user and the group they act for, as they named themselves."""

    user_id: str
    group_id: str


SYSTEM = Identity("system", "system")


def checked(value: str | None, field: str) -> str:
    """`value` if it may be an id: 1–256 characters, none of them a control character. Else raises Invalid."""
    if value is None or value == "":
        raise Invalid(f"{field} is required")
    if len(value) > MAX_ID_CHARS:
        raise Invalid(f"{field} has {len(value)} characters; {MAX_ID_CHARS} are allowed")
    plain = value.isascii() and value.isprintable()
    if not plain and any(unicodedata.category(char) in ("Cc", "Cs") for char in value):
        raise Invalid(f"{field} contains a control character")
    return value


def checked_hash(value: str, field: str) -> str:
    """`value` if it is 64 lower-case hex digits; else raises Invalid."""
    if not _is_hash(value):
        raise Invalid(f"{field} must be 64 lower-case hex digits")
    return value


def _is_hash(value: str) -> bool:
    try:
        # Half as long as matching. Read and written again, so that neither capitals nor white space pass.
        return len(value) == 64 and bytes.fromhex(value).hex() == value
    except ValueError:
        return False


class Pseudonyms:
    """id → pseudonym under this deployment's secret. The same secret gives the same pseudonyms on every instance."""

    def __init__(self, secret: str, *, compat_sha256: bool = False) -> None:
        """compat_sha256: plain sha256(secret + id) for both domains, as the predecessor did; for migration only."""
        self._plain_key = secret.encode() if compat_sha256 else None
        # Keyed once; a copy of the state costs half of what keying again does, and holds the interpreter lock.
        self._keyed = hmac.new(secret.encode(), digestmod="sha256")
        self.fingerprint = hmac.digest(secret.encode(), b"cascadenced/fingerprint/1", "sha256").hex()[:32]
        """Tells whether two secrets are the same, without telling them."""

    def user(self, user_id: str) -> UserHash:
        return UserHash(self._digest(b"cascadenced/user/1", user_id))

    def group(self, group_id: str) -> GroupHash:
        return GroupHash(self._digest(b"cascadenced/group/1", group_id))

    def _digest(self, domain: bytes, raw: str) -> str:
        # Not cached: a cache would keep raw ids in memory long after their runs.
        if self._plain_key is not None:
            return hashlib.sha256(self._plain_key + raw.encode()).hexdigest()
        keyed = self._keyed.copy()
        keyed.update(domain + b"\0" + unicodedata.normalize("NFC", raw).encode())
        return keyed.hexdigest()


class Redactor:
    """Replaces one run's own ids by its pseudonyms in text that people will read."""

    def __init__(self, identity: Identity, pseudonyms: Pseudonyms) -> None:
        self._identity, self._pseudonyms = identity, pseudonyms
        # SYSTEM is nobody's name, and a word of every second error message.
        self._cores = () if identity == SYSTEM else (_core(identity.user_id), _core(identity.group_id))

    @cached_property
    def _hash_of(self) -> dict[str, str]:
        """Spelling → pseudonym."""
        if not self._cores:
            return {}
        # The user last: where both have one name, the user's pseudonym is the one people look for.
        named: list[tuple[str, str]] = [
            (self._identity.group_id, self._pseudonyms.group(self._identity.group_id)),
            (self._identity.user_id, self._pseudonyms.user(self._identity.user_id)),
        ]
        return {spelling: shown for raw, shown in named for spelling in _spellings(raw)}

    @property
    def reach(self) -> int:
        """Characters of the longest spelling: as much of an id may be cut in half where a text ends."""
        return max(map(len, self._hash_of), default=0)

    def __call__(self, text: str) -> str:
        # Most texts name nobody, and working out how an id may be spelled costs far more than looking for a part of it.
        for core in self._cores:
            if core in text:
                break
        else:
            return text
        if not any(spelling in text for spelling in self._hash_of):
            return text
        return self._pattern.sub(lambda match: self._hash_of[match.group()], text)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # The longer one first: one id may contain the other.
        return re.compile("|".join(_pattern(spelling) for spelling in sorted(self._hash_of, key=len, reverse=True)))


nameless: ContextVar[Callable[[str], str]] = ContextVar("nameless", default=str)
"""The Redactor of the run that goes on in this context: for whoever writes something there that people will read."""


def _core(raw: str) -> str:
    """What every spelling of an id contains; empty when there is no such part."""
    if not raw.isascii():
        return ""
    return raw if raw.isalnum() else max(_PLAIN_PART.findall(raw), key=len, default="")


def _spellings(raw: str) -> set[str]:
    """How an id may look inside a repr, a JSON text or a URL, in either Unicode normal form.

    Whole literals, not one pattern per character: an id made of backslashes must not make the search exponential.
    """
    if raw.isascii() and raw.isalnum():
        return {raw}  # spelled the same everywhere
    spelled = set()
    for form in {raw, unicodedata.normalize("NFC", raw), unicodedata.normalize("NFD", raw)}:
        spelled |= {form, repr(form)[1:-1], ascii(form)[1:-1]}
        # Beside both kinds of quotes, repr escapes the single ones.
        spelled |= {repr(form + _QUOTES)[1:-4], ascii(form + _QUOTES)[1:-4]}
        spelled |= {json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1]}
        spelled |= {quote(form, safe=""), quote(form, safe="@"), quote_plus(form)}
    return spelled


def _pattern(spelling: str) -> str:
    # A very short id ("a", "eng") is replaced only as a word: inside other words it betrays nobody.
    escaped = re.escape(spelling)
    return rf"(?<![^\W_]){escaped}(?![^\W_])" if len(spelling) < 4 else escaped
