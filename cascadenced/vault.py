"""Raw identities and the bytes of dead letters: what only the task that runs, or a person who asks, may see.

Each row is sealed with AES-256-GCM under the key in `vault.key`; what it is and under which name it lies is part of the
seal, so rows cannot be swapped. Everything else in the system carries pseudonyms, and this file is needed to undo them.

`remember` and `seal_letter` return when the rows are durable. One thread owns the database file; what callers hand in
while it commits becomes the next commit, so that a thousand of them cost a few syncs and not a thousand. It is a daemon
thread of our own: one of asyncio's pool would hold up the end of the process when the disk hangs.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from cascadenced.crashpoint import crashpoint
from cascadenced.errors import (
    CascadenceError,
    DiskError,
    Invalid,
    Unavailable,
    Unknown,
)
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.job_thread import JobThread, T
from cascadenced.vault_file import SEAL_BYTES, Named, VaultFile

MAX_LETTERS = 10_000
MAX_LETTER_BYTES = 64 << 20
MAX_KNOWN = 65_536


class Letter(msgspec.Struct, frozen=True):
    """A message that could not be read, as it came."""

    subject: str
    headers: dict[str, str]
    raw: bytes


class VaultPort(Protocol):
    """What the rest of the program needs of a vault. `Vault` keeps it in a file, `MemoryVault` does not keep it."""

    async def remember(self, identities: Iterable[Identity], pseudonyms: Pseudonyms) -> None:
        """Keep the raw ids under their pseudonyms; durable on return. Ids seen lately cost nothing.

        Raises DiskFull, DiskError; then none of these identities may be taken as kept.
        """
        ...

    def knows(self, user_hash: str, group_hash: str) -> bool:
        """Whether both were remembered lately: `remember` would have nothing to do."""
        ...

    async def reveal(self, user_hash: str, group_hash: str) -> Identity:
        """The identity behind the pseudonyms. Raises Unknown, VaultDamaged."""
        ...

    async def user(self, user_hash: str) -> str | None:
        """The raw user id, None if it was never remembered. Raises VaultDamaged."""
        ...

    async def seal_letter(self, digest: str, subject: str, headers: Mapping[str, str], raw: bytes) -> None:
        """Keep a message under its digest; durable on return. A digest already there is left as it is.

        Letters are bounded in number and bytes: the oldest drop out. Raises Invalid for one larger than the bound,
        DiskFull, DiskError.
        """
        ...

    async def open_letter(self, digest: str) -> Letter:
        """The message as it came. Raises Unknown if it dropped out or never was, VaultDamaged."""
        ...

    async def close(self) -> None:
        """Write what is queued, then close. Idempotent."""
        ...


class Vault:
    """The vault in a file. See `VaultPort`; open it with `open`, on the loop that will use it."""

    def __init__(
        self, thread: JobThread, file: VaultFile, on_fatal: Callable[[CascadenceError], None] | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._file = file
        self._on_fatal = on_fatal
        self._known = _Known()
        self._gathering: _Batch | None = None
        self._committing: _Batch | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path | str,
        key_path: Path | str,
        *,
        max_letters: int = MAX_LETTERS,
        max_letter_bytes: int = MAX_LETTER_BYTES,
        on_fatal: Callable[[CascadenceError], None] | None = None,
    ) -> Vault:
        """Open or create the file (0600) and its key (0600, random).

        on_fatal: called once when a write or sync failed; nobody new can be remembered afterwards.
        Raises ConfigError if the key is missing or another one, or the file is no vault; DiskFull, DiskError.
        """
        thread = JobThread(asyncio.get_running_loop(), "vault")
        try:
            file = await thread.do(lambda: VaultFile(Path(path), Path(key_path), max_letters, max_letter_bytes))
        except BaseException:
            thread.stop()
            raise
        return cls(thread, file, on_fatal)

    async def remember(self, identities: Iterable[Identity], pseudonyms: Pseudonyms) -> None:
        new = {
            named: raw.encode()
            for identity in identities
            for named, raw in _named(identity, pseudonyms)
            if not self._known.has(named)
        }
        if new:
            await self._durable(new, {})

    def knows(self, user_hash: str, group_hash: str) -> bool:
        return self._known.has(("user", user_hash)) and self._known.has(("group", group_hash))

    async def reveal(self, user_hash: str, group_hash: str) -> Identity:
        return await self._do(lambda: _identity(self._file.raw_id, user_hash, group_hash))

    async def user(self, user_hash: str) -> str | None:
        return await self._do(lambda: self._file.raw_id("user", user_hash))

    async def seal_letter(self, digest: str, subject: str, headers: Mapping[str, str], raw: bytes) -> None:
        letter = _letter_bytes(subject, headers, raw)
        _check_size(letter, self._file.max_letter_bytes)
        await self._durable({}, {digest: letter})

    async def open_letter(self, digest: str) -> Letter:
        return _opened(digest, await self._do(lambda: self._file.letter(digest)))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        while (batch := self._gathering or self._committing) is not None:
            await asyncio.wait([batch.done])
        await self._thread.do(self._file.close)
        self._thread.stop()

    def _do(self, job: Callable[[], T]) -> asyncio.Future[T]:
        self._refuse_if_closed()
        return self._thread.do(job)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unavailable("the vault is closed")

    def _durable(self, identities: Mapping[Named, bytes], letters: Mapping[str, bytes]) -> asyncio.Future[None]:
        """Add rows to the next commit; the future ends with it. Cancelling it does not disturb the others."""
        self._refuse_if_closed()
        if self._gathering is None:
            self._gathering = _Batch(self._loop.create_future())
            if self._committing is None:
                self._loop.call_soon(self._commit)  # not at once: whoever is ready in this turn of the loop joins
        self._gathering.identities.update(identities)
        self._gathering.letters.update(letters)
        return asyncio.shield(self._gathering.done)

    def _commit(self) -> None:
        batch, self._gathering = self._gathering, None
        self._committing = batch
        if batch is not None:
            written = self._thread.do(lambda: self._file.write(batch.identities, batch.letters))
            written.add_done_callback(lambda written: self._committed(batch, written))

    def _committed(self, batch: _Batch, written: asyncio.Future[None]) -> None:
        error = written.exception()
        if error is None:
            self._known.add(batch.identities)
            batch.done.set_result(None)
        else:
            batch.done.set_exception(error)
            if isinstance(error, DiskError) and self._on_fatal is not None:
                on_fatal, self._on_fatal = self._on_fatal, None
                on_fatal(error)
        self._commit()


class MemoryVault:
    """The double: nothing is sealed, nothing outlives it."""

    def __init__(self, *, max_letters: int = MAX_LETTERS, max_letter_bytes: int = MAX_LETTER_BYTES) -> None:
        self._raw: dict[tuple[str, str], str] = {}
        self._letters: dict[str, bytes] = {}
        self._max_letters, self._max_letter_bytes = max_letters, max_letter_bytes
        self._closed = False

    async def remember(self, identities: Iterable[Identity], pseudonyms: Pseudonyms) -> None:
        self._refuse_if_closed()
        for identity in identities:
            for named, raw in _named(identity, pseudonyms):
                self._raw.setdefault(named, raw)
        crashpoint("vault.after_write")

    def knows(self, user_hash: str, group_hash: str) -> bool:
        return ("user", user_hash) in self._raw and ("group", group_hash) in self._raw

    async def reveal(self, user_hash: str, group_hash: str) -> Identity:
        self._refuse_if_closed()
        return _identity(lambda kind, pseudonym: self._raw.get((kind, pseudonym)), user_hash, group_hash)

    async def user(self, user_hash: str) -> str | None:
        self._refuse_if_closed()
        return self._raw.get(("user", user_hash))

    async def seal_letter(self, digest: str, subject: str, headers: Mapping[str, str], raw: bytes) -> None:
        self._refuse_if_closed()
        letter = _letter_bytes(subject, headers, raw)
        _check_size(letter, self._max_letter_bytes)
        self._letters.setdefault(digest, letter)
        while len(self._letters) > self._max_letters or sum(map(len, self._letters.values())) > self._max_letter_bytes:
            del self._letters[next(iter(self._letters))]

    async def open_letter(self, digest: str) -> Letter:
        self._refuse_if_closed()
        return _opened(digest, self._letters.get(digest))

    async def close(self) -> None:
        self._closed = True

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unavailable("the vault is closed")


class _Batch:
    """What gathers for one commit.  done: resolved when it is durable, or failed."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.identities: dict[Named, bytes] = {}
        self.letters: dict[str, bytes] = {}


class _Known:
    """The names of rows seen lately; never the raw ids."""

    def __init__(self) -> None:
        self._names: OrderedDict[Named, None] = OrderedDict()

    def has(self, named: Named) -> bool:
        if named not in self._names:
            return False
        self._names.move_to_end(named)
        return True

    def add(self, names: Iterable[Named]) -> None:
        for named in names:
            self._names[named] = None
        while len(self._names) > MAX_KNOWN:
            self._names.popitem(last=False)


def _named(identity: Identity, pseudonyms: Pseudonyms) -> tuple[tuple[Named, str], tuple[Named, str]]:
    user = ("user", pseudonyms.user(identity.user_id)), identity.user_id
    group = ("group", pseudonyms.group(identity.group_id)), identity.group_id
    return user, group


def _identity(raw_id: Callable[[str, str], str | None], user_hash: str, group_hash: str) -> Identity:
    user_id, group_id = raw_id("user", user_hash), raw_id("group", group_hash)
    if user_id is None:
        raise Unknown(f"no raw identity is kept for the user {user_hash}")
    if group_id is None:
        raise Unknown(f"no raw identity is kept for the group {group_hash}")
    return Identity(user_id, group_id)


class _StoredLetter(msgspec.Struct, frozen=True, array_like=True):
    """A Letter whose texts are bytes: what could not be read may hold surrogates, which no encoder takes."""

    subject: bytes
    headers: list[tuple[bytes, bytes]]
    raw: bytes


def _letter_bytes(subject: str, headers: Mapping[str, str], raw: bytes) -> bytes:
    named = [(_to_bytes(name), _to_bytes(value)) for name, value in headers.items()]
    return msgspec.msgpack.encode(_StoredLetter(_to_bytes(subject), named, raw))


def _opened(digest: str, letter: bytes | None) -> Letter:
    if letter is None:
        raise Unknown(f"no message is kept under {digest}; only the newest are")
    stored = msgspec.msgpack.decode(letter, type=_StoredLetter)
    headers = {_to_text(name): _to_text(value) for name, value in stored.headers}
    return Letter(_to_text(stored.subject), headers, stored.raw)


def _check_size(letter: bytes, limit_bytes: int) -> None:
    room = limit_bytes - SEAL_BYTES
    if len(letter) > room:
        raise Invalid(f"a message of {len(letter)} bytes is too large to keep; {room} is the limit")


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _to_text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
