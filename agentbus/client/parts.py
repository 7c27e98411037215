"""Parts of streams: what a handler yields, and what a model says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from .generation import Answer
from .roles import Replies

__all__ = ["join_text", "last_of", "text_alone", "write_parts"]

_YIELD_EVERY = 256
"""Parts streamed in a row before other tasks of the loop get a turn."""


class Answered(Protocol):
    """A message with who is answered, which a hand-over changes."""

    replies: Replies


async def write_parts(parts: AsyncGenerator[Any, None], delivery: Answered) -> None:
    """Send what a handler yields."""
    async with aclosing(parts):
        count = 0
        async for part in parts:
            count += 1
            if not delivery.replies.part(part):
                await delivery.replies.writable()
            elif count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)


async def join_text(parts: AsyncGenerator[str, None]) -> str:
    """Return what a model says, piece by piece, as one text."""
    async with aclosing(parts):
        return "".join([part async for part in parts])


async def text_alone(parts: AsyncGenerator[str | Answer, None]) -> AsyncGenerator[str, None]:
    """Yield what a model says, without what ends it."""
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, str):
                yield part


async def last_of(parts: AsyncGenerator[str | Answer, None]) -> Answer:
    """Return the whole answer, which comes last."""
    async with aclosing(parts):
        answers = [part async for part in parts if isinstance(part, Answer)]
    return answers[-1]
