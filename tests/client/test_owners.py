"""Whose calls an engine is told of: an agent's in one conversation."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from agentbus import Agent, Call, handler
from agentbus.testing import open_bus

pytestmark = pytest.mark.anyio


class Say(BaseModel):
    """Ask the model."""

    text: str


class Writer(Agent):
    """Writes."""

    @handler
    async def say(self, say: Say, call: Call) -> str:
        return await call.generate(say.text)


async def test_an_agent_in_a_conversation_is_one_owner() -> None:
    async with open_bus() as bus:
        engine = await bus.script("m", [" Yes."] * 6)
        for name in ("ann", "bob"):
            await bus.spawn(Writer, name=name, model="m")
        context = bus.context().document("The tide tables.")
        for text in ("Tides?", "Rain?"):
            said = context
            for agent in ("ann", "bob", "ann"):
                answer = await bus.call(agent, Say(text=text), context=said, returns=str)
                assert answer.context is not None
                said = answer.context
    owners = [request.owner for request in engine.requests]
    assert owners[0] == owners[2] and owners[3] == owners[5]
    assert len(set(owners)) == 4
    assert [owner.partition("/")[0] for owner in owners] == ["ann", "bob", "ann"] * 2


async def test_what_an_agent_s_prompt_says_again_elsewhere_is_in_the_account() -> None:
    async with open_bus() as bus:
        await bus.script("m", [" Yes."] * 2)
        await bus.spawn(Writer, name="ann", model="m")
        said = bus.context().user("We write about tides.")
        tides, ports = "High water is late. " * 40, "Brest is a port. " * 40
        first = await bus.call(
            "ann", Say(text="Well?"), context=said.document(tides).document(ports)
        )
        other = await bus.call(
            "ann", Say(text="Well?"), context=said.document(ports).document(tides)
        )
        assert first.account.model.lost_tokens == 0
        lost = other.account.model.lost_tokens
        assert 200 < lost <= other.account.model.prefilled_tokens
        counted = {agent.name: agent.lost_tokens for agent in bus.report().agents}
        assert counted == {"ann": lost, "$model.m": lost}
