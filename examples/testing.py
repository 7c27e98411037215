"""Agents under test: a model that says what it is told, and a network that breaks."""

import asyncio

from agentbus import Agent, Bus, BusSettings, Call, handler
from agentbus.errors import PeerLost
from agentbus.testing import Fault, FaultKind, fault_proxy, open_bus


class Writer(Agent):
    """You write about the sea."""

    @handler
    async def write(self, text: str, call: Call) -> str:
        return await call.generate(text)


async def main() -> None:
    async with open_bus(encoded=True) as bus:  # fails if a request or a task is left
        model = await bus.script("small", ["Salt, mostly."])
        await bus.spawn(Writer, name="writer", model="small")
        print(await bus.request("writer", "What is in it?"))
        print(model.prompts[0])
        print(f"handled: {bus.handled[0].payload}")

        alone = BusSettings(rejoin_timeout=0)  # what it joined is not looked for again
        async with fault_proxy(bus.host_url) as proxy, Bus.open(proxy.url, settings=alone) as far:
            proxy.inject(Fault(FaultKind.CUT, after_bytes=20))  # in the midst of the request
            try:
                await far.request("writer", "And further out?")
            except PeerLost as error:
                print(type(error).__name__, len(bus.handled))


if __name__ == "__main__":
    asyncio.run(main())
