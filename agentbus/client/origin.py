"""On whose behalf a request is made."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Origin"]


@dataclass(slots=True)
class Origin:
    """On whose behalf a request is made, and what is left of its budget."""

    source: str
    deadline_at: float
    """By the loop's clock."""
    hops_left: int
    trace: bytes
