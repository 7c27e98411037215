"""Agents that the system tests start in processes of their own."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
from pydantic import BaseModel

from agentbus import Agent, Call, handler

STARTED = "started"
"""Topic on which a holding agent says that it holds."""


class Sum(BaseModel):
    numbers: list[int]


class Total(BaseModel):
    total: int
    by: str


class Ask(BaseModel):
    """Ask another agent for a sum."""

    to: str
    numbers: list[int]


class Count(BaseModel):
    upto: int


class Fail(BaseModel):
    text: str


class Hold(BaseModel):
    """Ask to be held for ever."""


class Adder(Agent):
    """You add numbers."""

    @handler
    async def add(self, what: Sum, call: Call) -> Total:
        return Total(total=sum(what.numbers), by=self.name)

    @handler
    async def ask(self, what: Ask, call: Call) -> Total:
        return await call.request(what.to, Sum(numbers=what.numbers), returns=Total)

    @handler
    async def count(self, what: Count, call: Call) -> AsyncIterator[int]:
        for number in range(what.upto):
            yield number

    @handler
    async def fail(self, what: Fail, call: Call) -> str:
        raise ValueError(what.text)

    @handler
    async def say(self, text: str, call: Call) -> int:
        """Say something in the conversation; answer with its length."""
        context = call.context or call.empty_context()
        call.context = context.message(self.name, text)
        await call.publish(f"said.{self.name}", text)
        return call.context.length


class Collected(Agent):
    """You say what garbage collections leave out."""

    @handler
    async def spared(self, what: str, call: Call) -> int:
        return gc.get_freeze_count()


class Holder(Agent):
    """You hold what you get."""

    @handler
    async def hold(self, what: Hold, call: Call) -> str:
        await call.publish(STARTED, os.getpid())
        await anyio.sleep_forever()
        return "never"

    @handler
    async def stream(self, what: Count, call: Call) -> AsyncIterator[int]:
        yield os.getpid()
        await anyio.sleep_forever()


class Relay(Agent):
    """You let another agent hold what you get."""

    @handler
    async def relay(self, to: str, call: Call) -> str:
        return await call.request(to, Hold(), returns=str)


class Gate(Agent):
    """You hold what you get until you are opened. For the test's own process."""

    def __init__(self) -> None:
        self.held = anyio.Event()
        self.opened = anyio.Event()

    @handler
    async def hold(self, what: Hold, call: Call) -> str:
        self.held.set()
        await self.opened.wait()
        return "opened"


class Slow(Agent):
    """You never come to life."""

    async def started(self) -> None:
        await anyio.sleep_forever()

    @handler
    async def take(self, text: str, call: Call) -> str:
        return text


class Finder(Agent):
    """You find lines 41 and 42 of what a reference names."""

    @handler
    async def find(self, ref: str, call: Call) -> list[str]:
        found = await call.fetch_text(ref, lines=(41, 42))
        return [found.status, *found.text.split("\n")]


class Speaker(Agent):
    """You speak through a model."""

    @handler
    async def speak(self, text: str, call: Call) -> str:
        return await call.generate(text, max_tokens=16)


class Teller(Agent):
    """You tell stories through a model."""

    concurrency = 8

    @handler
    async def tell(self, tokens: int, call: Call) -> AsyncIterator[str]:
        story = call.generate_stream("Tell.", max_tokens=tokens, ignore_end=True)
        async with aclosing(story) as parts:
            async for part in parts:
                yield part


class Needy(Agent):
    """You cannot be made without an argument."""

    def __init__(self, what: str) -> None:
        self.what = what

    @handler
    async def take(self, text: str, call: Call) -> str:
        return self.what


NOT_AN_AGENT = Sum
