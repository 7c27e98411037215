"""Agents hand a conversation on, by reference; the model reads only what is new to it.

Runs on a scripted engine. For a real model: python examples/chain.py smollm2
"""

from __future__ import annotations

import asyncio
import sys

from agentbus import Agent, Bus, Call, handler

TEAM = {"planner": "Plan an answer.", "writer": "Write the answer.", "editor": "Shorten it."}
MODEL = sys.argv[1] if len(sys.argv) > 1 else "fake:echo"


class Member(Agent):
    @handler
    async def turn(self, rest: list[str], call: Call) -> str:
        text = await call.generate(TEAM[self.name], max_tokens=24, then=tuple(rest[:1]))
        cost = call.cost
        print(f"{self.name}: {cost.reused_tokens} tokens reused, {cost.prefilled_tokens} new")
        if not rest:
            return text
        return await call.request(rest[0], rest[1:], returns=str, context=call.context)


async def main() -> None:
    async with Bus.open() as bus:
        context = bus.context()
        for name in TEAM:
            await bus.spawn(Member(), name=name, model=MODEL)
            context = context.role(name, f"You are the {name} of a team that explains the sea.")
        context = context.user("Why does the tide turn twice a day? " * 8)
        first, *rest = TEAM
        print(await bus.request(first, rest, context=context))


asyncio.run(main())
