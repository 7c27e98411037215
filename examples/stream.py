"""Read an answer part by part; to stop listening is to stop the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from agentbus import Agent, Bus, Call, handler


class Counter(Agent):
    @handler
    async def count(self, upto: int, call: Call) -> AsyncIterator[str]:
        try:
            for number in range(1, upto + 1):
                yield f"{number} of {upto}"
                await asyncio.sleep(0)
        finally:
            print(f"  the counter ends at {number}")


async def main() -> None:
    async with Bus.open() as bus:
        await bus.spawn(Counter, name="counter")
        async with bus.stream("counter", 3) as parts:
            async for part in parts:
                print(part)
        async with bus.stream("counter", 1_000_000) as parts:
            print(await anext(parts), "is enough")


asyncio.run(main())
