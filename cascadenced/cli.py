"""argv → one function in commands/; every error → a line on stderr and an exit code."""

from __future__ import annotations
