"""The streams and consumers that must exist: made, or brought to what we need. Idempotent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from cascadenced.bus.jetstream_link import ApiError, Client, api
from cascadenced.errors import ConfigError
from cascadenced.events.subjects import token

MAX_ACK_PENDING = 10_000
_STREAM_NOT_FOUND = 10059
_CONSUMER_NOT_FOUND = 10014
_NS = 1_000_000_000
_DUPLICATE_WINDOW_S = 120  # or less: it may not be longer than max_age

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


class Found(msgspec.Struct, frozen=True):
    """What the server has now. epoch: digest of the streams' creation times. atomic: takes batches as one."""

    epoch: str
    atomic: bool


_BOTH_WAYS = ("event", "pointer", "schedule", "task_run")
_OUTWARD = ("task_spec", "stage", "audit", "followup", "dead")


def plan(prefix: str, instance_id: str) -> Plan:
    """Raises ConfigError if `prefix` is not one plain token."""
    if token(prefix) != prefix:
        raise ConfigError(f"the NATS prefix {prefix!r} must be letters, digits, '_' and '-' only")
    events, runs = prefix.upper(), f"{prefix.upper()}_RUNS"
    own = f"cascadence_{plain_name(instance_id)}"
    inbound = {family: f"{prefix}.{family}.>" for family in _BOTH_WAYS}
    # One token: idea, note, and families nobody knows, which are to become dead letters.
    flat = f"{prefix}.*"
    runs_subject = f"{prefix}.run.request.>"
    return Plan(
        events=events,
        runs=runs,
        subjects=(flat, *inbound.values(), *(f"{prefix}.{family}.>" for family in _OUTWARD)),
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


async def ensure(client: Client, names: Plan, limits: Limits) -> Found:
    """Make everything in `names` exist. Raises ConfigError, Unavailable."""
    events = await _ensure_stream(
        client,
        {
            "name": names.events,
            "subjects": list(names.subjects),
            "retention": "limits",
            "discard": "old",
            "max_age": round(limits.max_age_s * _NS),
            "max_bytes": limits.max_bytes,
            "duplicate_window": round(min(_DUPLICATE_WINDOW_S, limits.max_age_s) * _NS),
            # Servers before 2.12 ignore it, which their answer shows.
            **({"allow_atomic": True} if limits.atomic_batches else {}),
        },
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
            "duplicate_window": _DUPLICATE_WINDOW_S * _NS,
        },
    )
    last_seq = {names.events: events["state"]["last_seq"], names.runs: runs["state"]["last_seq"]}
    for consumer in names.consumers:
        await _ensure_consumer(client, consumer, limits, last_seq[consumer.stream])
    created = f"{names.events} {events['created']} {names.runs} {runs['created']}"
    return Found(
        epoch=hashlib.sha256(created.encode()).hexdigest()[:16],
        atomic=limits.atomic_batches and bool(events["config"].get("allow_atomic")),
    )


async def _ensure_stream(client: Client, wanted: Mapping[str, Any]) -> dict[str, Any]:
    name = wanted["name"]
    try:
        found = await api(client, f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.err_code != _STREAM_NOT_FOUND:
            raise _misfit(name, error) from None
        try:
            return await api(client, f"STREAM.CREATE.{name}", {**wanted, "storage": "file", "num_replicas": 1})
        except ApiError as refusal:
            raise _misfit(name, refusal) from None
    config = found["config"]
    for fixed, value in (("storage", "file"), ("retention", wanted["retention"])):
        if config[fixed] != value:
            raise ConfigError(
                f"the stream {name} has {fixed} {config[fixed]!r} instead of {value!r}. That cannot be changed: "
                "remove the stream, or choose another prefix (ume_nats_subject)"
            )
    if all(_same(config.get(key), value) for key, value in wanted.items()):
        return found
    try:
        # Everything we have no opinion on (replicas, placement, …) stays as the operator set it.
        updated = await api(client, f"STREAM.UPDATE.{name}", {**config, **wanted})
    except ApiError as refusal:
        raise _misfit(name, refusal) from None
    _log.info("stream_updated", stream=name)
    return updated


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return sorted(found or []) == sorted(wanted)
    # A server that does not know an option leaves it out; asking again would not help.
    return bool(found == wanted or (wanted is True and found is None))


def _misfit(name: str, error: ApiError) -> ConfigError:
    return ConfigError(
        f"the stream {name} is not as it must be and cannot be made so: {error.description}. "
        "Mend or remove it with `nats stream`, or choose another prefix (ume_nats_subject)"
    )


async def _ensure_consumer(client: Client, consumer: Consumer, limits: Limits, last_seq: int) -> None:
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
        info = await api(client, make, body)
    except ApiError as error:
        if consumer.shared:
            raise ConfigError(f"the consumer {consumer.durable} of {consumer.stream} cannot be made: {error}") from None
        info = None
    if info is not None and info["delivered"]["stream_seq"] <= last_seq:
        return
    if info is not None:
        # The broker lost the end of the stream and counts on from before it: this consumer would skip what is new.
        _log.warning("stream_lost_its_end", stream=consumer.stream, last_seq=last_seq, consumer=consumer.durable)
    try:
        await api(client, f"CONSUMER.DELETE.{where}")
    except ApiError as error:
        if error.err_code != _CONSUMER_NOT_FOUND:
            raise ConfigError(
                f"the consumer {consumer.durable} of {consumer.stream} cannot be replaced: {error}"
            ) from None
    try:
        await api(client, make, body)
    except ApiError as error:
        raise ConfigError(f"the consumer {consumer.durable} of {consumer.stream} cannot be made: {error}") from None
