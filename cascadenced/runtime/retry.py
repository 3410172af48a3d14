"""How long to wait before trying again, as a pure function of how often it was tried."""

from __future__ import annotations

FIRST_S = 0.2
FACTOR = 2.0
LONGEST_S = 5.0


def backoff_s(attempt: int) -> float:
    """Seconds before attempt `attempt` + 1: 0.2, 0.4, 0.8 … at most 5."""
    return min(FIRST_S * FACTOR ** min(attempt - 1, 16), LONGEST_S)
