"""The layout in which an agent's model reads: as the bus is set, and never another's private role."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from agentbus import Agent, BusSettings, Call, handler
from agentbus.config import LayoutSetting
from agentbus.errors import ConfigError
from agentbus.testing import open_bus

pytestmark = pytest.mark.anyio

DOCUMENT = "The tide tables of the year. " * 60


class Say(BaseModel):
    """Ask the model."""

    text: str


class Judge(Agent):
    """A hidden rubric."""

    @handler
    async def say(self, say: Say, call: Call) -> list[str]:
        await call.generate(say.text)
        assert call.reading is not None
        return [call.reading.layout, *(one.layout for one in call.reading.predictions)]


class Critic(Judge):
    """A secret standard."""


@pytest.mark.parametrize(
    ("layout", "read"),
    [
        ("by_role", ["role_first"]),
        ("shared_first", ["shared_first"]),
        ("auto", ["shared_first", "roster_first", "shared_first", "role_first"]),
    ],
)
async def test_agents_read_as_the_bus_is_set(layout: LayoutSetting, read: list[str]) -> None:
    async with open_bus(settings=BusSettings(layout=layout)) as bus:
        engine = await bus.script("m", [" Fair.", " Poor."])
        await bus.spawn(Judge, name="judge", model="m")
        await bus.spawn(Critic, name="critic", model="m")
        context = bus.context().document(DOCUMENT).message("writer", " Done.")
        first = await bus.call("judge", Say(text="Judge."), context=context, returns=list[str])
        second = await bus.call(
            "critic", Say(text="Judge too."), context=first.context, returns=list[str]
        )
        assert first.value == second.value == read
        one, two = engine.prompts
        assert "A hidden rubric." in one and "A secret standard." not in one
        assert "A secret standard." in two and "A hidden rubric." not in two
        assert second.context is not None
        assert "rubric" not in str(second.context.segments())
        reused = second.account.model.reused_tokens
        assert (reused > len(DOCUMENT.split()) // 2) == (layout != "by_role")


async def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ConfigError, match="layout: must be one of by_role, auto"):
        BusSettings(layout="haphazard")  # type: ignore[arg-type]
