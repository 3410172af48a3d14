"""What could not be read: its bytes sealed, its reason recorded; and reading it again, after an upgrade or a fix."""

from __future__ import annotations

from hashlib import sha256

import structlog

from cascadenced.bus.base import Delivery
from cascadenced.errors import BadMessage, Invalid, Unknown
from cascadenced.eventlog.base import Change, EventLog, Receipt
from cascadenced.events.base import Context
from cascadenced.events.dead_letter import MessageDeadLettered, MessageRedriven
from cascadenced.events.inbound import decode
from cascadenced.events.streams import DEAD_LETTERS_STREAM
from cascadenced.events.subjects import printable
from cascadenced.projections.dead_letters import dead_letter, parked
from cascadenced.runtime.counting import RefusalCounter
from cascadenced.runtime.ingest import Commands, Message
from cascadenced.vault import Letter, VaultPort

_log = structlog.get_logger(__name__)

_PREFIX = "dead:"


class DeadLetters:
    """Seals letters, records them, opens them again."""

    def __init__(
        self, log: EventLog, vault: VaultPort, prefix: str, commands: Commands, refusals: RefusalCounter
    ) -> None:
        self._log, self._vault, self._prefix, self._commands = log, vault, prefix, commands
        self._refusals = refusals

    async def record(self, delivery: Delivery, message: Message, error: BadMessage) -> Receipt:
        """`dead_letter` of runtime/ingest.py. One that is too large for the vault is recorded without its bytes."""
        digest, detail = sha256(delivery.data).hexdigest(), str(error)
        try:
            await self._vault.seal_letter(digest, delivery.subject, delivery.headers, delivery.data)
        except Invalid as too_large:
            detail = f"{detail}; its bytes are lost: {too_large}"
        event = MessageDeadLettered(
            subject=printable(delivery.subject),
            reason=error.code,
            detail=detail,
            n_bytes=len(delivery.data),
            digest=digest,
        )
        context = Context(traceparent=message.traceparent)
        # A source of its own: the same message, mended and sent again under its id, is still to be applied.
        return await self._log.append(
            [Change(DEAD_LETTERS_STREAM, [event], None, context)], source=_PREFIX + message.source
        )

    async def open(self, position: int) -> Letter:
        """The sealed message. Raises Unknown: no such letter, or its bytes have dropped out of the vault."""
        row = await dead_letter(self._log.tables, position)
        return await self._vault.open_letter(row.digest)

    async def redrive(self, position: int) -> None:
        """Read the letter again, as if it had just come. Raises BadMessage if it still cannot be read."""
        letter = await self.open(position)
        original = (await self._log.read(position - 1, 1))[0]
        source = original.source or ""
        message = Message(
            # As the message itself, which may come once more. In older logs that source is the letter's own.
            source=source.removeprefix(_PREFIX) if source.startswith(_PREFIX) else f"redrive:{position}",
            stamp=original,
            origin=letter.headers.get("Cascadence-Origin"),
            traceparent=original.traceparent,
        )
        outcome = await self._commands.batch()(decode(self._prefix, letter.subject, letter.raw), message)
        if outcome.duplicate:
            self._refusals.count("duplicate", letter.subject.removeprefix(f"{self._prefix}."))
        event = MessageRedriven(position=position, subject=printable(letter.subject))
        await self._log.append([Change(DEAD_LETTERS_STREAM, [event], None, Context(cause=original.id))])

    async def redrive_parked(self) -> int:
        """Read again what a newer version had written, after an upgrade; returns how many could be read now."""
        n_read = 0
        for position in await parked(self._log.tables):
            try:
                await self.redrive(position)
            except (BadMessage, Unknown) as error:
                _log.info("letter_stays_parked", position=position, reason=str(error))
            except Exception:  # noqa: BLE001 -- a letter is no reason not to start: the next start tries again
                _log.exception("letter_stays_parked", position=position)
            else:
                n_read += 1
        return n_read
