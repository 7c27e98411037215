"""The same agents in one process and in several: the same results, contexts by reference."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentbus import Bus, Context
from agentbus.errors import HandlerFailed, NoHandler, NoResponder

from .agents import Adder, Ask, Count, Fail, Speaker, Sum, Total
from .processes import agent, broker, running, worker

pytestmark = pytest.mark.anyio

MODEL = "fake:team"


@asynccontextmanager
async def one_process(folder: Path) -> AsyncGenerator[Bus, None]:
    async with Bus.open() as bus:
        for name in ("left", "right"):
            await bus.spawn(Adder, name=name)
        for name in ("first", "second"):
            await bus.spawn(Speaker, name=name, model=MODEL)
        yield bus


@asynccontextmanager
async def several_processes(folder: Path) -> AsyncGenerator[Bus, None]:
    async with broker(folder) as (url, _):
        workers = running(
            worker(url, "--serve", MODEL),
            worker(url, "--model", MODEL, agent("left", "Adder"), agent("first", "Speaker")),
            worker(url, "--model", MODEL, agent("right", "Adder"), agent("second", "Speaker")),
        )
        async with workers, Bus.open(url, name="program") as bus:
            yield bus


async def errors(bus: Bus) -> list[Any]:
    found: list[Any] = []
    for target, payload in (
        ("nobody", Sum(numbers=[])),
        ("left", 1.5),
        ("left", Fail(text="over the edge")),
        ("right", Ask(to="nobody", numbers=[])),
    ):
        with pytest.raises((NoResponder, NoHandler, HandlerFailed)) as raised:
            await bus.request(target, payload, deadline=30)
        found.append((type(raised.value), vars(raised.value)))
    return found


async def said(bus: Bus) -> tuple[Context, list[Any]]:
    """Let two agents speak in turn; each reads what the other said."""
    context = bus.context().role("first", "Begin.").role("second", "Go on.").document("d " * 2000)
    found: list[Any] = []
    for turn in range(6):
        target = ("first", "second")[turn % 2]
        reply = await bus.call(target, f"turn {turn}", returns=str, context=context, deadline=30)
        assert reply.context is not None
        context = reply.context
        model = reply.account.model
        found.append((reply.value, model.prompt_tokens, model.reused_tokens, model.decoded_tokens))
    return context, found


async def results(bus: Bus) -> list[Any]:
    found: list[Any] = [await bus.request("left", Sum(numbers=[1, 2]), returns=Total)]
    found.append(await bus.request("left", Ask(to="right", numbers=[3, 4]), returns=Total))
    async with bus.stream("right", Count(upto=500)) as parts:
        found.append([part async for part in parts])
    async with bus.subscribe("said.*") as messages:
        reply = await bus.call("left", "tides", context=bus.context().user("Of the sea."))
        assert reply.context is not None
        found += [reply.value, reply.context.root, [s.text for s in reply.context.segments()]]
        with anyio.fail_after(30):
            message = await anext(messages)
        found.append((message.topic, message.value, message.source))
    context, answers = await said(bus)
    return [*found, *await errors(bus), context.root, *answers]


async def test_one_process_and_several_give_the_same_results(socket_dir: Path) -> None:
    async with one_process(socket_dir) as bus:
        alone = await results(bus)
    async with several_processes(socket_dir) as bus:
        together = await results(bus)
    assert together == alone
    assert alone[:2] == [Total(total=3, by="left"), Total(total=7, by="right")]
    reused = [answer[2] for answer in alone[-6:]]
    assert reused[0] == 0
    assert all(before < after for before, after in pairwise(reused))


async def test_a_model_is_asked_by_reference(socket_dir: Path) -> None:
    """What goes to the engine's process is what is new to it, however long the context is."""
    async with several_processes(socket_dir) as bus:
        context = bus.context().role("first", "Speak.").document("d" * 50_000)
        sizes = []
        for turn in range(8):
            reply = await bus.call("first", f"turn {turn}", context=context, deadline=30)
            assert reply.context is not None
            context = reply.context
            sizes.append((reply.account.sent_bytes, reply.account.model.sent_bytes))
    assert all(50_000 < size < 51_000 for size in sizes[0])
    assert all(size < 512 for pair in sizes[1:] for size in pair), sizes
