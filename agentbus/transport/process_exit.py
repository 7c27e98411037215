"""Tells when another process of this host has ended, where the system lets one watch (Linux)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

__all__ = ["ProcessExit"]


class ProcessExit:
    """Calls `action` once the process has ended; soon, if it has already. May never call it."""

    def __init__(self, pid: int, action: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._action = action
        self._descriptor = -1
        self._soon: asyncio.Handle | None = None
        if sys.platform != "linux" or pid <= 0 or pid == os.getpid():
            return
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._soon = self._loop.call_soon(action)
        except OSError:  # no descriptor left, or an old kernel
            return
        else:
            self._loop.add_reader(self._descriptor, self._ended)

    def close(self) -> None:
        """Watch no longer."""
        if self._soon is not None:
            self._soon.cancel()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _ended(self) -> None:
        self.close()
        self._action()
