"""The verbs over bytes: JSON in, JSON out. Served as a micro service on NATS and on the Unix socket."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import structlog

from cascadenced.bus.base import Reply, Responder
from cascadenced.errors import BadMessage, CascadenceError, Invalid
from cascadenced.events.base import Json
from cascadenced.events.strict import scan
from cascadenced.instance import Instance
from cascadenced.refusals import Answer, ErrorBody, answer, is_only_counted
from cascadenced.verbs import VERBS, is_duplicate, perform
from cascadenced.verbs.base import Verb

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


async def call(
    instance: Instance, verb: Verb[msgspec.Struct], body: bytes, *, via: str | None
) -> tuple[int, bytes, Answer | None]:
    """(status as in HTTP, JSON, the refusal if it is one). Never raises.

    Wishes that were refused, or made before, are counted where no event says so.
    """
    try:
        result = await perform(verb, instance, _scanned(body), via=via)
        if is_duplicate(result):
            instance.refusals.count("duplicate", f"rpc.{verb.name}")
        return 200, _encode(result), None
    except CascadenceError as error:
        refused = answer(error)
        if verb.is_wish and is_only_counted(error):
            instance.refusals.count(error.code, f"rpc.{verb.name}")
    except Exception:  # noqa: BLE001 -- a fault of ours; the daemon goes on serving
        _log.exception("verb_failed", verb=verb.name)
        refused = Answer(500, ErrorBody("an internal error; the daemon's log has the details", "internal"))
    return refused.status, _encode(refused.body), refused


def responders(instance: Instance) -> Mapping[str, Responder]:
    """The verbs for `Bus.serve`. Refusals are headers, as the micro service protocol has them."""

    def responder(verb: Verb[msgspec.Struct]) -> Responder:
        async def respond(body: bytes, _headers: Mapping[str, str]) -> Reply:
            status, reply, refused = await call(instance, verb, body, via="bus")
            if refused is None:
                return reply, {}
            sentence = " ".join(refused.body.detail.split())  # a header is one line
            return reply, {"Nats-Service-Error": sentence, "Nats-Service-Error-Code": str(status)}

        return respond

    return {name: responder(verb) for name, verb in VERBS.items()}


def _scanned(body: bytes) -> Json:
    if not body.strip():
        return {}
    try:
        return scan(body)
    except BadMessage as error:
        raise Invalid(str(error), code=error.code) from None
