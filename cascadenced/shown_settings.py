"""The settings in force as people may see them: where each came from, secrets masked."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from cascadenced.config import MASK, Config, Field, fields


class Setting(msgspec.Struct, frozen=True):
    """A value in force, safe to print.

    source: `default`, `<file>:<line>`, `environment <NAME>` or `command line`.  unit: empty where there is none.
    """

    key: str
    value: bool | int | float | str | tuple[str, ...] | None
    source: str
    unit: str = ""


def show(config: Config) -> list[Setting]:
    """Every setting in the order of `Config`, secrets masked."""
    return [
        Setting(name, _masked(field, getattr(config, name)), config.sources.get(name, "default"), field.key.unit)
        for name, field in fields().items()
    ]


def _masked(field: Field, value: Any) -> Any:
    if field.key.secret and value is not None:
        return MASK
    if field.key.credentials and value is not None:
        return re.sub(r"//[^/]*@", f"//{MASK}@", value)
    return value
