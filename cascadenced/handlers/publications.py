"""What the bus is told about a batch of events. Raw user ids only where the operator asked for them."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from cascadenced.errors import VaultDamaged
from cascadenced.events.base import Recorded
from cascadenced.events.outbound import messages
from cascadenced.events.outgoing import Outgoing
from cascadenced.vault import VaultPort

_log = structlog.get_logger(__name__)


class Publications:
    """`translate` of runtime/outbox.py.

    vault: given only with `emit_raw_user_id`; then every body names its user in clear.
    """

    def __init__(self, prefix: str, *, broadcast_pointers: bool, vault: VaultPort | None) -> None:
        self._prefix, self._broadcast_pointers, self._vault = prefix, broadcast_pointers, vault

    async def __call__(self, batch: Sequence[Recorded]) -> list[Outgoing]:
        names: dict[str | None, str | None] = {}
        if self._vault is not None:
            for user_hash in {recorded.user_hash for recorded in batch} - {None}:
                names[user_hash] = await self._name(self._vault, user_hash or "")
        return [
            message
            for recorded in batch
            for message in messages(
                recorded, self._prefix, broadcast_pointers=self._broadcast_pointers, reveal=names.get
            )
        ]

    @staticmethod
    async def _name(vault: VaultPort, user_hash: str) -> str | None:
        try:
            return await vault.user(user_hash)
        except VaultDamaged as error:
            _log.warning("published_without_a_name", user_hash=user_hash, error=str(error))
            return None
