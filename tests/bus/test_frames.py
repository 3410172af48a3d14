"""Commands to the server, as bytes."""

from __future__ import annotations

import pytest

from cascadenced.bus.frames import publication
from cascadenced.errors import BadMessage
from cascadenced.events.outgoing import Outgoing


def test_a_message_without_headers_is_a_pub_with_the_size_of_its_body() -> None:
    assert publication("ume.event.paid", b'{"a":1}') == b'PUB ume.event.paid 7\r\n{"a":1}\r\n'


def test_a_reply_subject_stands_between_subject_and_size() -> None:
    assert publication("$JS.ACK.x", b"+ACK", "_INBOX.1") == b"PUB $JS.ACK.x _INBOX.1 4\r\n+ACK\r\n"


def test_headers_are_counted_in_bytes_and_apart_from_the_body() -> None:
    head = "NATS/1.0\r\nce-id: ü\r\nce-type: x\r\n\r\n".encode()
    message = Outgoing.with_headers("a.b", b"body", {"ce-id": "ü", "ce-type": "x"})
    frame = publication(message.subject, message.body, "r", message.lines)
    assert frame == b"HPUB a.b r %d %d\r\n%bbody\r\n" % (len(head), len(head) + 4, head)


@pytest.mark.parametrize("subject", ["", "a b", "a\tb", "a\r\nPUB x 0", "a\x00b", "a\u2028b", "a\x7f"])
def test_what_is_no_subject_is_refused_and_not_sent(subject: str) -> None:
    with pytest.raises(BadMessage, match="is no subject"):
        publication(subject, b"")


@pytest.mark.parametrize("headers", [{"a": "x\r\nb: y"}, {"a\r\nb: y\r\nc": "x"}, {"a": "x\n"}, {"a": "\rx"}])
def test_a_header_cannot_bring_another_one_along(headers: dict[str, str]) -> None:
    with pytest.raises(BadMessage, match="line break"):
        Outgoing.with_headers("a", b"", headers)


def test_headers_are_read_back_as_they_were_given() -> None:
    headers = {"ce-id": "a: b", "empty": "", "X": "ü"}
    assert Outgoing.with_headers("a", b"", headers).headers == headers
    assert Outgoing("a", b"").headers == {}
