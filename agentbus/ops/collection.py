"""Garbage collection of a process that serves."""

from __future__ import annotations

import gc

__all__ = ["spare_from_collection"]


def spare_from_collection() -> None:
    """Have garbage collections leave out what is there now, when serving begins: in a process with a
    model that is 200,000 objects, for which everything would stop for 75 ms each time."""
    gc.collect()
    gc.freeze()
