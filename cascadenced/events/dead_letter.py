"""Messages that could not be read. Stream `dead-letters`. The raw bytes are sealed in the vault under `digest`."""

from __future__ import annotations

from cascadenced.events.base import Event


class MessageDeadLettered(Event, tag="message.dead_lettered", frozen=True, kw_only=True):
    """A message that could not be read.

    reason: one word for machines.  detail: a sentence for people, without the message's content.

    digest: SHA-256 of the raw bytes, hex.  headers are sealed together with the bytes.
    """

    subject: str
    reason: str
    detail: str
    n_bytes: int
    digest: str


class MessageRedriven(Event, tag="message.redriven", frozen=True, kw_only=True):
    """The dead letter at `position` was read again, this time well."""

    position: int
    subject: str
