"""Two agents read the same records: one as they are, the other in fewer tokens."""

import asyncio
import json

from agentbus import Agent, BusSettings, Call, FilterRule, handler
from agentbus.testing import open_bus

RECORDS = [{"flight": f"AB{n}", "from": "Rome", "to": "Oslo", "free": n % 7} for n in range(30)]


class Reader(Agent):
    """You look for free seats."""

    @handler
    async def look(self, question: str, call: Call) -> list[str]:
        call.context = call.empty_context().tool_result("search", json.dumps(RECORDS, indent=1))
        await call.generate(question)
        made = await call.receipts()
        return [
            f"{one.kind.replace('_', ' ')} of {one.sender}: {one.filters or 'as it is'}"
            for one in made
        ]


async def main() -> None:
    rules = (FilterRule(use=("lossless",), senders=("search",), readers=("brief",)),)
    async with open_bus(settings=BusSettings(filters=rules)) as bus:
        await bus.script("small", ["AB6.", "AB6."])
        for name in ("plain", "brief"):
            await bus.spawn(Reader, name=name, model="small")
            reply = await bus.call(name, "Which has seats?", returns=list[str])
            saved = reply.account.model.saved_tokens
            print(f"{name}: {saved} of the scripted model's tokens saved", *reply.value, sep="\n  ")


asyncio.run(main())
