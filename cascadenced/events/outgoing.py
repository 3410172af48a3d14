"""A message to publish, its headers spelled as NATS has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import msgspec

from cascadenced.errors import BadMessage

_END = "\r\n"


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """lines: `name: value` and a line break for each header. They are spelled where all that is in them is known to be
    harmless, because every message passes there; `with_headers` looks first."""

    subject: str
    body: bytes
    lines: str = ""

    @classmethod
    def with_headers(cls, subject: str, body: bytes, headers: Mapping[str, str]) -> Self:
        """Raises BadMessage for a header with a line break."""
        lines = "".join([f"{name}: {value}{_END}" for name, value in headers.items()])
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise BadMessage("a message cannot be published: a header has a line break", code="invalid")
        return cls(subject, body, lines)

    @property
    def headers(self) -> dict[str, str]:
        """Name → value."""
        pairs = (line.partition(": ") for line in self.lines.split(_END) if line)
        return {name: value for name, _, value in pairs}
