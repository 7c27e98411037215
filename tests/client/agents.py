"""Agents that the client's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from pydantic import BaseModel

from agentbus import Agent, Call, handler


class Ping(BaseModel):
    number: int
    text: str = ""


class Pong(BaseModel):
    number: int
    by: str


class Count(BaseModel):
    upto: int


class Relay(BaseModel):
    to: str
    number: int


class Boom(BaseModel):
    text: str


class Hold(BaseModel):
    """Ask to be held until released or cancelled."""


class Say(BaseModel):
    text: str


class Echo(Agent):
    """You repeat what you hear."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.held = anyio.Event()
        self.cancelled = anyio.Event()
        self.release = anyio.Event()

    @handler
    async def ping(self, ping: Ping, call: Call) -> Pong:
        self.seen.append(ping.number)
        return Pong(number=ping.number, by=self.name)

    @handler
    async def count(self, count: Count, call: Call) -> AsyncIterator[int]:
        for number in range(count.upto):
            yield number

    @handler
    async def relay(self, relay: Relay, call: Call) -> Pong:
        return await call.request(relay.to, Ping(number=relay.number), returns=Pong)

    @handler
    async def circle(self, boom: Boom, call: Call) -> str:
        raise ValueError(boom.text)

    @handler
    async def hold(self, hold: Hold, call: Call) -> str:
        self.held.set()
        try:
            await self.release.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise
        return "released"

    @handler
    async def say(self, say: Say, call: Call) -> str:
        """Append to the context what was said, without a model."""
        context = call.context or call.empty_context()
        call.context = context.message(self.name, say.text)
        return say.text


class Wheel(Agent):
    """Calls the next agent, which calls the next, and so on."""

    concurrency = 128

    @handler
    async def roll(self, to: str, call: Call) -> str:
        answer: str = await call.request(self.name, to)
        return answer
