"""Ask an agent: a typed message in, a typed answer out, and the account of what it cost."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from agentbus import Agent, Bus, Call, handler
from agentbus.errors import NoResponder


class Draft(BaseModel):
    text: str


class Review(BaseModel):
    verdict: str


class Reviewer(Agent):
    @handler
    async def review(self, draft: Draft, call: Call) -> Review:
        words = draft.text.split()
        return Review(verdict=f"{len(words)} words, the longest: {max(words, key=len)}")


async def main() -> None:
    async with Bus.open() as bus:
        await bus.spawn(Reviewer, name="reviewer")
        reply = await bus.call("reviewer", Draft(text="The tide turns twice daily"), deadline=5)
        print(f"{reply.value.verdict} (in {reply.account.wall_s * 1e6:.0f} µs)")
        try:
            await bus.request("editor", Draft(text="…"))
        except NoResponder as error:
            print(error)


asyncio.run(main())
