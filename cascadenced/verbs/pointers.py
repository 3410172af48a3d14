"""Pointers: listed, added, received."""

from __future__ import annotations

from typing import Any

import msgspec

from cascadenced.errors import Invalid
from cascadenced.events.inbound import UpdatePointer
from cascadenced.events.subjects import checked_task_name
from cascadenced.identity import checked, checked_hash
from cascadenced.instance import Instance
from cascadenced.verbs.base import Readable, hashed, reading, verb


class PointerArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Either a raw user_id or, for `pointer_receive`, a user_hash."""

    task: str
    run_id: str
    user_id: str | None = None
    user_hash: str | None = None
    group_id: str | None = None


class PointersArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Filters are raw ids; they are hashed here."""

    task: str | None = None
    user_id: str | None = None
    group_id: str | None = None
    limit: int = 100
    after: str | None = None


class PointerResult(msgspec.Struct):
    """stored: False if it was there already."""

    stored: bool


async def _pointers(instance: Readable, asked: PointersArguments) -> Any:
    return await instance.answers.pointers(
        task=asked.task,
        **hashed(instance, user_id=asked.user_id, group_id=asked.group_id),
        limit=asked.limit,
        after=asked.after,
    )


async def _pointer_add(instance: Instance, asked: PointerArguments) -> PointerResult:
    if instance.board.kind(asked.task) != "pointer":
        raise Invalid(f"'{asked.task}' is not a pointer task")
    return await _pointer(instance, asked, "cli")


async def _pointer_receive(instance: Instance, asked: PointerArguments) -> PointerResult:
    return await _pointer(instance, asked, "bus")


async def _pointer(instance: Instance, asked: PointerArguments, via: str) -> PointerResult:
    if asked.user_id is None and asked.user_hash is None:
        raise Invalid("user_id or user_hash is required")
    update = UpdatePointer(
        task=checked_task_name(asked.task),
        run_id=checked(asked.run_id, "run_id"),
        user_id=None if asked.user_id is None else checked(asked.user_id, "user_id"),
        user_hash=None if asked.user_hash is None else checked_hash(asked.user_hash, "user_hash"),
        group_id=None if asked.group_id is None else checked(asked.group_id, "group_id"),
        group_hash=None,
    )
    receipt = await instance.facts.pointer(update, via)
    return PointerResult(not receipt.duplicate)


VERBS = (
    reading("pointers", PointersArguments, _pointers, "pointers"),
    verb("pointer_add", PointerArguments, _pointer_add, "add a pointer to a pointer task", is_wish=True),
    verb(
        "pointer_receive",
        PointerArguments,
        _pointer_receive,
        "store a pointer that another instance sent",
        is_wish=True,
    ),
)
