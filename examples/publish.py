"""Publish to topics; `*` stands for one token of a topic, `>` for all that follow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agentbus import Agent, Bus, Call, handler


@dataclass(frozen=True)
class Level:
    metres: float


class Gauge(Agent):
    @handler
    async def measured(self, metres: float, call: Call) -> None:
        await call.publish(f"sea.level.{self.name}", Level(metres))


async def main() -> None:
    async with Bus.open() as bus:
        await bus.spawn(Gauge(), name="brest")
        await bus.spawn(Gauge(), name="dover")
        async with bus.subscribe("sea.level.*") as levels, bus.subscribe("sea.>") as everything:
            await bus.request("brest", 4.2)
            await bus.request("dover", 6.1)
            await bus.publish("sea.state", "calm")
            for _ in range(2):
                message = await anext(levels)
                print(f"{message.source}: {message.value.metres} m")
            print([(await anext(everything)).topic for _ in range(3)])


asyncio.run(main())
