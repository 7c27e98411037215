"""Functions as agents."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import pytest

from agentbus import Call, agent_of
from agentbus.errors import ConfigError

from .agents import Count, Ping, Say
from .conftest import Pair

pytestmark = pytest.mark.anyio


async def shout(say: Say) -> str:
    """You shout."""
    return say.text.upper()


async def who(ping: Ping, call: Call) -> str:
    return call.agent


def where(number: int) -> str:
    return threading.current_thread().name


async def up(count: Count, call: Call) -> AsyncIterator[int]:
    for number in range(count.upto):
        yield number


async def test_functions_are_chosen_by_type(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        assert await host.spawn(agent_of(shout, who, where, up)) == "shout"
        assert await asker.request("shout", Say(text="tides")) == "TIDES"
        assert await asker.request("shout", Ping(number=1)) == "shout"
        assert await asker.request("shout", 1) != threading.current_thread().name
        async with asker.stream("shout", Count(upto=3)) as parts:
            assert [part async for part in parts] == [0, 1, 2]
        assert host.local_agents()[0].role == "You shout."


def test_what_is_no_such_function_is_refused() -> None:
    def bare(x):  # type: ignore[no-untyped-def]
        pass

    def many(a: int, b: int, c: int) -> None: ...

    def unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for wrong in (bare, many, unknown):
        with pytest.raises(ConfigError):
            agent_of(wrong)
    with pytest.raises(ConfigError):
        agent_of()
