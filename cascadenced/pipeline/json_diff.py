"""Where two JSON values differ, by paths. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cascadenced.events.base import Json

_SIMPLE_KEY_CHARS = 60


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """path: `.orders[2].total`, empty for the value itself.  left, right: unset where there is nothing."""

    path: str
    left: Json | msgspec.UnsetType = msgspec.UNSET
    right: Json | msgspec.UnsetType = msgspec.UNSET


def differences(left: Json, right: Json, path: str = "") -> Iterator[Difference]:
    """The smallest parts that are not the same, in the order of `left`. 1, 1.0 and true are three different values.

    Items of lists are compared by their places.
    """
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            yield from _part(left.get(key, msgspec.UNSET), right.get(key, msgspec.UNSET), path + _step(key))
    elif isinstance(left, list) and isinstance(right, list):
        for n in range(max(len(left), len(right))):
            yield from _part(_item(left, n), _item(right, n), f"{path}[{n}]")
    elif type(left) is not type(right) or left != right:
        yield Difference(path, left, right)


def same(left: Json, right: Json) -> bool:
    return next(differences(left, right), None) is None


def _part(left: Json | msgspec.UnsetType, right: Json | msgspec.UnsetType, path: str) -> Iterator[Difference]:
    if left is msgspec.UNSET or right is msgspec.UNSET:
        yield Difference(path, left, right)
    else:
        yield from differences(left, right, path)


def _item(items: list[Json], n: int) -> Json | msgspec.UnsetType:
    return items[n] if n < len(items) else msgspec.UNSET


def _step(key: str) -> str:
    """`.name`, or `["a b"]` where a dot would not say it."""
    return (
        f".{key}" if key.isidentifier() and len(key) <= _SIMPLE_KEY_CHARS else f"[{msgspec.json.encode(key).decode()}]"
    )
