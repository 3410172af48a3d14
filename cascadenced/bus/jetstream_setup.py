"""The streams and consumers that must exist: made, or brought to what we need. Idempotent.

What a server can do is what its answer shows, never what its version promises: an old one leaves out of the answer what
it does not know, a strict one refuses the whole request, and is asked again without.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import structlog

from cascadenced.bus.base import DUPLICATE_WINDOW_S, StreamUnreadable
from cascadenced.bus.jetstream_link import ApiError, Client, api
from cascadenced.errors import CascadenceError, ConfigError, Unavailable
from cascadenced.events.subjects import BOTH_WAYS, OUTWARD, token

MAX_ACK_PENDING = 10_000
_STREAM_NOT_FOUND = 10059
_CONSUMER_NOT_FOUND = 10014
_INVALID_JSON = 10025
_STORE_FAILED = 10049
_NS = 1_000_000_000
_SHORTEST_WINDOW_NS = 100_000_000

_log = structlog.get_logger("cascadenced.bus")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the streams. max_bytes: of the event stream; run requests get a quarter of it.

    ack_wait_s: how long the broker waits before it delivers again what nobody acknowledged.
    atomic_batches: let the event stream take batches as one, if the server can.
    """

    max_age_s: float = 7 * 86400
    max_bytes: int = 1 << 30
    ack_wait_s: float = 5
    atomic_batches: bool = False


class Consumer(msgspec.Struct, frozen=True):
    """One durable pull consumer: servers before 2.10 take only one filter each."""

    stream: str
    durable: str
    filter_subject: str
    shared: bool
    """Read by every instance (a work queue), else by this one alone."""


class Plan(msgspec.Struct, frozen=True):
    """All names that follow from prefix and instance."""

    events: str
    runs: str
    subjects: tuple[str, ...]
    runs_subject: str
    consumers: tuple[Consumer, ...]


class Streams(msgspec.Struct, frozen=True):
    """Both streams as the server tells of them: the answers of STREAM.INFO."""

    events: dict[str, Any]
    runs: dict[str, Any]

    @property
    def epoch(self) -> str:
        """Digest of the streams' creation times."""
        names = [f"{stream['config']['name']} {stream['created']}" for stream in (self.events, self.runs)]
        return hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]

    @property
    def max_message_bytes(self) -> int:
        """Of headers and body together; an operator may have set a bound to the stream of events."""
        bound: int = self.events["config"].get("max_msg_size", -1)
        return bound if bound > 0 else sys.maxsize

    @property
    def atomic(self) -> bool:
        """Whether the stream of events takes batches as one."""
        return bool(self.events["config"].get("allow_atomic"))


class Standing(msgspec.Struct, frozen=True):
    """How a consumer was found. delivered: messages, in its whole life."""

    consumer: Consumer
    existed: bool
    delivered: int


def plan(prefix: str, instance_id: str) -> Plan:
    """Raises ConfigError if `prefix` is not one plain token."""
    if token(prefix) != prefix:
        raise ConfigError(f"the NATS prefix {prefix!r} must be letters, digits, '_' and '-' only")
    events, runs = prefix.upper(), f"{prefix.upper()}_RUNS"
    own = f"cascadence_{plain_name(instance_id)}"
    inbound = {family: f"{prefix}.{family}.>" for family in BOTH_WAYS}
    # One token: idea, note, and families nobody knows, which are to become dead letters.
    flat = f"{prefix}.*"
    runs_subject = f"{prefix}.run.request.>"
    return Plan(
        events=events,
        runs=runs,
        subjects=(flat, *inbound.values(), *(f"{prefix}.{family}.>" for family in OUTWARD)),
        runs_subject=runs_subject,
        consumers=(
            *(Consumer(events, f"{own}_{family}", subject, False) for family, subject in inbound.items()),
            Consumer(events, f"{own}_flat", flat, False),
            Consumer(runs, "cascadence_runs", runs_subject, True),
        ),
    )


def plain_name(name: str) -> str:
    """`name` as part of a consumer's name: letters, digits, `_` and `-`. A percent sign would do, but nats-server 2.9
    delivers nothing to a consumer that has one (measured)."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    return plain if plain == name else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


async def ensure_streams(client: Client, names: Plan, limits: Limits) -> Streams:
    """Make both streams exist, as they must be. Raises ConfigError, Unavailable."""
    events = await _ensure_stream(
        client,
        {
            "name": names.events,
            "subjects": list(names.subjects),
            "retention": "limits",
            "discard": "old",
            "max_age": round(limits.max_age_s * _NS),
            "max_bytes": limits.max_bytes,
            # It may not be longer than max_age.
            "duplicate_window": round(min(DUPLICATE_WINDOW_S, limits.max_age_s) * _NS),
        },
        {"allow_atomic": True} if limits.atomic_batches else {},
    )
    runs = await _ensure_stream(
        client,
        {
            "name": names.runs,
            "subjects": [names.runs_subject],
            "retention": "workqueue",
            # A request that was accepted is never pushed out by a newer one: the newer one is refused.
            "discard": "new",
            "max_age": 0,
            "max_bytes": max(limits.max_bytes // 4, 1),
            "duplicate_window": DUPLICATE_WINDOW_S * _NS,
        },
        {},
    )
    return Streams(events, runs)


async def look_at_streams(client: Client, names: Plan) -> Streams:
    """Both streams as they are; what an operator has set meanwhile is left alone. Raises ApiError, Unavailable."""
    return Streams(
        await api(client, f"STREAM.INFO.{names.events}"),
        await api(client, f"STREAM.INFO.{names.runs}"),
    )


async def ensure_consumers(
    client: Client, names: Plan, limits: Limits, streams: Streams, anew: Collection[str] = ()
) -> list[Standing]:
    """Make all consumers exist. anew: names of streams whose consumers are to start from the beginning.

    Raises ConfigError, Unavailable.
    """
    last_seq = {names.events: streams.events["state"]["last_seq"], names.runs: streams.runs["state"]["last_seq"]}
    return [
        await _ensure_consumer(client, consumer, limits, last_seq[consumer.stream], anew=consumer.stream in anew)
        for consumer in names.consumers
    ]


async def shortest_window(client: Client, name: str) -> bool:
    """Have the stream forget all message ids it knows, by a moment with the shortest window. False if it refuses.

    The caller puts the window right again, with `ensure_streams`.
    """
    try:
        found = await api(client, f"STREAM.INFO.{name}")
        await api(client, f"STREAM.UPDATE.{name}", {**found["config"], "duplicate_window": _SHORTEST_WINDOW_NS})
    except ApiError:
        return False
    return True


async def discard(client: Client, name: str, upto: int | None) -> None:
    """Purge what cannot be read of a stream, up to that sequence, or all of it."""
    for body in ([] if upto is None else [{"seq": upto + 1}]) + [{}]:
        try:
            await api(client, f"STREAM.PURGE.{name}", body)
        except ApiError as error:
            # It may stumble over the very damage ("partial cache", nats-server 2.9); emptying it takes no reading.
            _log.warning("stream_not_purged", stream=name, error=str(error))
        else:
            return


async def _ensure_stream(client: Client, wanted: Mapping[str, Any], wished: Mapping[str, Any]) -> dict[str, Any]:
    """wished: what is only asked for; the answer shows whether it was granted."""
    name = wanted["name"]
    try:
        found = await api(client, f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.err_code != _STREAM_NOT_FOUND:
            raise _misfit(name, error) from None
        try:
            fixed = {**wanted, "storage": "file", "num_replicas": 1}
            return await _asked_for(client, f"STREAM.CREATE.{name}", fixed, wished)
        except ApiError as refusal:
            raise _misfit(name, refusal) from None
    config = found["config"]
    for fixed_key, value in (("storage", "file"), ("retention", wanted["retention"])):
        if config[fixed_key] != value:
            raise ConfigError(
                f"the stream {name} has {fixed_key} {config[fixed_key]!r} instead of {value!r}. That cannot be "
                "changed: remove the stream, or choose another prefix (ume_nats_subject)"
            )
    if all(_same(config.get(key), value) for key, value in {**wanted, **wished}.items()):
        return found
    try:
        # Everything we have no opinion on (replicas, placement, …) stays as the operator set it.
        updated = await _asked_for(client, f"STREAM.UPDATE.{name}", {**config, **wanted}, wished)
    except ApiError as refusal:
        raise _misfit(name, refusal) from None
    if updated["config"] != config:
        _log.info("stream_updated", stream=name)
    return updated


async def _asked_for(client: Client, verb: str, config: Mapping[str, Any], wished: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return await api(client, verb, {**config, **wished})
    except ApiError as error:
        if not wished or error.err_code != _INVALID_JSON:
            raise
        return await api(client, verb, config)


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return sorted(found or []) == sorted(wanted)
    return bool(found == wanted)


def _misfit(name: str, error: ApiError) -> CascadenceError:
    if error.err_code == _STORE_FAILED:
        return StreamUnreadable(name, error.description)
    if error.status >= 500:
        return Unavailable(f"the server fails at the stream {name} just now: {error.description} ({error.err_code})")
    return ConfigError(
        f"the stream {name} is not as it must be and cannot be made so: {error.description}. "
        "Mend or remove it with `nats stream`, or choose another prefix (ume_nats_subject)"
    )


async def _ensure_consumer(
    client: Client, consumer: Consumer, limits: Limits, last_seq: int, *, anew: bool
) -> Standing:
    config: dict[str, Any] = {
        "durable_name": consumer.durable,
        "filter_subject": consumer.filter_subject,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": round(limits.ack_wait_s * _NS),
        "max_deliver": -1,
        "max_ack_pending": MAX_ACK_PENDING,
    }
    if not consumer.shared:
        # An instance that never comes back leaves nothing behind for longer than its messages would have lasted.
        config["inactive_threshold"] = round(limits.max_age_s * _NS)
    where = f"{consumer.stream}.{consumer.durable}"
    make = f"CONSUMER.DURABLE.CREATE.{where}"
    body = {"stream_name": consumer.stream, "config": config}
    try:
        found = await _consumer(client, where)
        if found is not None and not anew:
            standing = Standing(consumer, True, found["delivered"]["consumer_seq"])
            if not await _is_ahead(client, consumer.stream, found["delivered"]["stream_seq"], last_seq):
                if all(found["config"].get(key) == value for key, value in config.items()) or (
                    await _updated(client, make, body, must=consumer.shared)
                ):
                    return standing
            else:
                # The broker lost the end of the stream and counts on from before it: it would skip what is new.
                _log.warning("stream_lost_its_end", stream=consumer.stream, consumer=consumer.durable)
        if found is not None:
            await api(client, f"CONSUMER.DELETE.{where}")
        made = await api(client, make, body)
        if made["delivered"]["consumer_seq"] > 0:
            # A server that took over the files of a stream it did not know takes over what its consumers had delivered
            # as well, which is about other messages by now.
            await api(client, f"CONSUMER.DELETE.{where}")
            await api(client, make, body)
    except ApiError as error:
        raise _unmade(consumer, error) from None
    return Standing(consumer, found is not None, 0)


async def _is_ahead(client: Client, stream: str, delivered: int, last_seq: int) -> bool:
    """Whether a consumer stands behind its stream's end. last_seq: where that was; it may have grown since."""
    if delivered <= last_seq:
        return False
    info = await api(client, f"STREAM.INFO.{stream}")
    return bool(delivered > info["state"]["last_seq"])


async def _consumer(client: Client, where: str) -> dict[str, Any] | None:
    try:
        return await api(client, f"CONSUMER.INFO.{where}")
    except ApiError as error:
        if error.err_code != _CONSUMER_NOT_FOUND:
            raise
        return None


async def _updated(client: Client, make: str, body: Mapping[str, Any], *, must: bool) -> bool:
    """Whether the server gives the consumer another configuration. must: else it is an error."""
    try:
        await api(client, make, body)
    except ApiError:
        if must:
            raise
        return False
    return True


def _unmade(consumer: Consumer, error: ApiError) -> CascadenceError:
    kind = Unavailable if error.status >= 500 else ConfigError
    return kind(f"the consumer {consumer.durable} of {consumer.stream} cannot be made: {error}")
