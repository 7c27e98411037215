"""Group chat, debate and blackboard."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from agentbus import Agent, Call, handler
from agentbus.errors import ConfigError, InvalidName, NoResponder
from agentbus.patterns import Blackboard, Entry, Read, Turn, Write, debate, group_chat

from ..client.conftest import Pair

pytestmark = pytest.mark.anyio


class Member(Agent):
    """Says how many it has heard."""

    @handler
    async def speak(self, topic: str, call: Call) -> str:
        context = call.context or call.empty_context()
        text = f"{self.name} heard {len(context)}"
        call.context = context.message(self.name, text)
        return text


async def test_a_chat_goes_on_until_nobody_is_next(pair: Pair) -> None:
    order = ["a", "b", "a", "a"]

    def speakers(turns: Sequence[Turn]) -> str | None:
        return order[len(turns)] if len(turns) < len(order) else None

    async with pair.open() as (host, asker):
        for name in "ab":
            await host.spawn(Member, name=name)
        context = asker.context().user("tides")
        turns = [turn async for turn in group_chat(asker, "go", context=context, speakers=speakers)]
    assert [turn.speaker for turn in turns] == order
    assert [turn.reply.value for turn in turns] == [
        f"{name} heard {count}" for count, name in enumerate(order, 1)
    ]


async def test_debaters_hear_the_last_round_and_not_each_other(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        for name in ("a", "b", "judge"):
            await host.spawn(Member, name=name)
        context = asker.context().user("tides")
        result = await debate(
            asker, "go", context=context, debaters=["b", "a"], judge="judge", rounds=2
        )
        said = [segment.text for segment in result.context.segments()]
        assert said == [
            "tides", "b heard 1", "a heard 1", "b heard 3", "a heard 3", "judge heard 5",
        ]  # fmt: skip
        assert result.verdict.value == "judge heard 5"
        with pytest.raises(ConfigError):
            await debate(asker, "go", context=context, debaters=[], judge="judge")


async def test_a_debate_without_one_of_its_debaters_fails(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Member, name="a")
        with anyio.fail_after(5), pytest.raises(NoResponder):
            context = asker.context()
            await debate(asker, "go", context=context, debaters=["a"], judge="nobody")


async def test_a_blackboard_keeps_versions_and_tells_watchers(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Blackboard(limit=2), name="board")
        async with asker.subscribe("board.plan.>", types=(Entry,)) as watched:
            empty = await asker.request("board", Read(key="plan.one"), returns=Entry)
            assert empty == Entry(key="plan.one")
            first = await asker.request("board", Write(key="plan.one", value=[1]), returns=Entry)
            assert (first.version, first.value) == (1, [1])
            lost = Write(key="plan.one", value=[3], expected=0)
            assert await asker.request("board", lost, returns=Entry) == first
            won = Write(key="plan.one", value=[2], expected=1)
            assert (await asker.request("board", won, returns=Entry)).version == 2
            with anyio.fail_after(5):
                seen = [(await anext(watched)).value for _ in range(2)]
            assert [(entry.version, entry.value) for entry in seen] == [(1, [1]), (2, [2])]
        await asker.request("board", Write(key="two"))
        with pytest.raises(ConfigError, match="2 keys"):
            await asker.request("board", Write(key="three"))
        with pytest.raises(InvalidName):
            await asker.request("board", Write(key="plan..one"))
