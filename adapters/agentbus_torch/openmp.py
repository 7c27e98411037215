"""How the threads of one torch operation wait for one another.

By default GNU's OpenMP has a thread that is done look for its next work for some milliseconds before
it sleeps. On a machine where others compute too, other engines or a user's own agents say, such a
thread keeps off the processor the one it waits for. A short look finds what comes next as well,
since operations follow each other within microseconds.

OpenMP takes its settings when it is loaded, which is when torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["short_spins"]

_NAME: Final = "GOMP_SPINCOUNT"
_SPINS: Final = "4000"
"""Looks at a flag, some 0.2 ms of them. With 2,000 decoding took a fifth longer on a machine of its
own, with 8,000 hardly faster than by default beside one other busy process."""


@contextmanager
def short_spins() -> Iterator[None]:
    """Have threads wait like that, if torch is imported within; the environment is left as it was.

    Whoever has imported torch before, or set `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY`, has decided.
    """
    if "torch" in sys.modules or os.environ.keys() & {_NAME, "OMP_WAIT_POLICY"}:
        yield
        return
    os.environ[_NAME] = _SPINS
    try:
        yield
    finally:
        os.environ.pop(_NAME, None)
