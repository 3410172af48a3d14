"""What a class asks for under a name that is nearly that of a hook or an option: silently it would not be so."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from cascadenced.pipeline.model import STAGES
from cascadenced.pipeline.policy import Policy

_OPTIONS = tuple(option for option in Policy.__struct_fields__ if option != "limits")
"""Without `limits`, and `name`, which are too like what else there may be."""
_NEARLY = 0.84


def misspelt(cls: type) -> Mapping[str, str]:
    """By name in the class, what it is nearly called."""
    found: dict[str, str] = {}
    for name, value in vars(cls).items():
        known = STAGES if callable(value) else _OPTIONS
        if name.startswith("_") or name in known:
            continue
        near = get_close_matches(name, known, n=1, cutoff=_NEARLY)
        if near and not (callable(value) and name.startswith(near[0])):  # `plans` is a word of its own
            found[name] = near[0]
    return found
