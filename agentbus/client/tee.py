"""One stream for several readers: each gets every part, and none holds up another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from ..errors import StreamOverflow

__all__ = ["Tee", "TeeReader"]

T = TypeVar("T")


class TeeReader(Generic[T]):
    """One of several readers of a stream."""

    __slots__ = ("_tee", "behind", "lost")

    def __init__(self, tee: Tee[T]) -> None:
        self._tee = tee
        self.behind: deque[T] = deque()
        """Parts that another reader has read and this one has not."""
        self.lost = False

    def __aiter__(self) -> TeeReader[T]:
        return self

    async def __anext__(self) -> T:
        while not self.behind:
            if self.lost:
                raise StreamOverflow(self._tee.limit)
            await self._tee.pull(self)
        return self.behind.popleft()


class Tee(Generic[T]):
    """Reads a stream as fast as its quickest reader does.

    A reader that falls more than `limit` parts behind the quickest gets `StreamOverflow` once it
    has read what it was left; the others go on.
    """

    def __init__(self, source: AsyncIterator[T], count: int, limit: int) -> None:
        self._source = source
        self._turn = asyncio.Lock()
        self.limit = limit
        self.readers = tuple(TeeReader(self) for _ in range(count))
        self._ended: BaseException | None = None

    async def pull(self, reader: TeeReader[T]) -> None:
        """Read the next part for all; returns at once if another reader has done so meanwhile."""
        async with self._turn:
            if reader.behind or reader.lost:
                return
            part = await self._next()
        for each in self.readers:
            self._hand(each, part)

    async def _next(self) -> Any:
        """Return the source's next part, or raise its end for each reader alike."""
        if self._ended is not None:
            raise self._ended
        try:
            return await anext(self._source)
        except asyncio.CancelledError:
            raise  # this reader's own affair
        except BaseException as end:
            self._ended = end
            raise

    def _hand(self, reader: TeeReader[T], part: T) -> None:
        if len(reader.behind) >= self.limit:
            reader.lost = True
        elif not reader.lost:
            reader.behind.append(part)
