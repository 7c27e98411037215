"""What a prompt leaves out is had back where a context came by reference, in another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentbus import Bus
from agentbus.context import reference

from .processes import agent, broker, running, worker

pytestmark = pytest.mark.anyio

LOG = "\n".join(f"step {number}" for number in range(1, 20_001))


async def test_the_receiver_of_a_context_has_what_it_holds(socket_dir: Path) -> None:
    async with broker(socket_dir) as (url, _):
        workers = running(worker(url, agent("finder", "Finder")))
        async with workers, Bus.open(url, name="program") as bus:
            context = bus.context().user("What happened?").tool_result("run", LOG)
            ref = reference(context.segments()[1], context)
            found = ["found", "step 41", "step 42"]
            assert await bus.request("finder", ref, context=context, deadline=30) == found
            # By reference: the other process has it already, and gets what is new.
            reply = await bus.call("finder", ref, context=context.user("And then?"), deadline=30)
            assert reply.value == found
            assert reply.account.sent_bytes < 512
            assert await bus.request("finder", "ctx:00000000", context=context) == ["never", ""]


async def test_what_a_summary_stands_for_is_asked_for(socket_dir: Path) -> None:
    async with broker(socket_dir) as (url, _):
        workers = running(worker(url, agent("finder", "Finder")))
        async with workers, Bus.open(url, name="program") as bus:
            context = bus.context().tool_result("run", LOG)
            ref = reference(context.segments()[0], context)
            short = context.summarize("It ran.", keep=0)
            assert await bus.request("finder", ref, context=short, deadline=30) == ["expired", ""]
            bus.contexts.retain(context)
            found = ["found", "step 41", "step 42"]
            assert await bus.request("finder", ref, context=short, deadline=30) == found
