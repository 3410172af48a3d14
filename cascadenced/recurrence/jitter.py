"""A delay of its own for each instant, the same whoever asks and whenever: nothing is stored, and nothing drawn."""

from __future__ import annotations

from hashlib import blake2b

from cascadenced.recurrence.walls import SECOND_US


def jitter_us(name: str, at_us: int, jitter_s: float) -> int:
    """From 0 to less than `jitter_s` seconds, in µs, for the schedule `name` at the instant it is due."""
    limit_us = round(jitter_s * SECOND_US)
    if limit_us <= 0:
        return 0
    digest = blake2b(f"{name}\0{at_us}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) * limit_us >> 64
