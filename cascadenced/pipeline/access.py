"""Who may control a run. Pure; a run that somebody may not control is, for them, not there."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """Who asks, by pseudonym; None: they did not say. is_owner: whether the data folder is theirs: they came over its
    socket, or opened it themselves."""

    user_hash: str | None = None
    group_hash: str | None = None
    is_owner: bool = False


def may_control(caller: Caller, *, user_hash: str | None, group_hash: str | None) -> bool:
    """Whether `caller` may pause, resume, cancel, signal or resolve a run of this user, asked for in this group.

    Its own user may, whatever group they act for now; everybody of its group may; the owner of the folder may always.
    """
    if caller.is_owner:
        return True
    return _is_same(caller.user_hash, user_hash) or _is_same(caller.group_hash, group_hash)


def _is_same(theirs: str | None, its: str | None) -> bool:
    """Nobody is not the same as nobody."""
    return theirs is not None and theirs == its
