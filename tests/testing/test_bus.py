"""The bus for tests notes what is handled, and sees what a test leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
from pydantic import BaseModel

from agentbus import Agent, Call, handler
from agentbus.errors import (
    EngineFailed,
    ModelNotFound,
    NameTaken,
    PeerLost,
    RequestCancelled,
    UnknownEngine,
)
from agentbus.testing import Handled, Reply, ScriptedEngine, open_bus

pytestmark = pytest.mark.anyio


class Draft(BaseModel):
    text: str


class Review(BaseModel):
    verdict: str


class Reviewer(Agent):
    """You review drafts."""

    @handler
    async def review(self, draft: Draft, call: Call) -> Review:
        return Review(verdict=await call.generate(draft.text, max_tokens=40))


class Editor(Agent):
    """You have drafts reviewed."""

    def __init__(self) -> None:
        self.release = anyio.Event()

    @handler
    async def edit(self, text: str, call: Call) -> str:
        review = await call.request("reviewer", Draft(text=text), returns=Review)
        return review.verdict

    @handler
    async def count(self, upto: int, call: Call) -> AsyncIterator[int]:
        for number in range(upto):
            yield number

    @handler
    async def hold(self, seconds: float, call: Call) -> str:
        await self.release.wait()
        return "released"


@pytest.fixture(params=[False, True], ids=["passed", "encoded"])
def encoded(request: pytest.FixtureRequest) -> bool:
    """Whether objects are passed, or go through the codec."""
    flag: bool = request.param
    return flag


async def test_a_team_with_a_script(encoded: bool) -> None:
    async with open_bus(encoded=encoded) as bus:
        engine = await bus.script("writer", ["Weak.", "Better."])
        await bus.spawn(Reviewer, name="reviewer", model="writer")
        await bus.spawn(Editor, name="editor")
        assert await bus.request("editor", "Tides.") == "Weak."
        reply = await bus.call("editor", "Tides turn.")
        assert reply.value == "Better."
        assert reply.account.transport == ("unix" if encoded else "inproc")
        assert bus.handled == [
            Handled("editor", "", "Tides."),
            Handled("reviewer", "editor", Draft(text="Tides.")),
            Handled("editor", "", "Tides turn."),
            Handled("reviewer", "editor", Draft(text="Tides turn.")),
        ]
        assert engine.prompts == [
            "system: You review drafts.\nuser: editor: Tides.",
            "system: You review drafts.\nuser: editor: Tides turn.",
        ]
        assert engine.unused == 0
        with pytest.raises(EngineFailed, match="2 replies, and this is one more"):
            await bus.request("editor", "Once more.")


async def test_a_script_says_when_it_waits_and_how_it_fails() -> None:
    gate = anyio.Event()
    async with open_bus() as bus:
        replies = [Reply(text="Slow.", gate=gate), Reply(error=RuntimeError("burnt"))]
        await bus.script("writer", replies)
        await bus.spawn(Reviewer, name="reviewer", model="writer")
        async with anyio.create_task_group() as group:
            group.start_soon(bus.request, "reviewer", Draft(text="a"))
            assert (await bus.seen("reviewer", Draft)).text == "a"
            gate.set()
        with pytest.raises(EngineFailed, match="burnt"):
            await bus.request("reviewer", Draft(text="b"))
        with pytest.raises(NameTaken):
            await bus.script("writer", [])


class Judge(Agent):
    """You judge."""

    @handler
    async def judge(self, text: str, call: Call) -> bool:
        return await call.generate_as(bool, text)


async def test_a_reply_that_is_no_json_is_given_to_who_asks_in_words() -> None:
    async with open_bus() as bus:
        engine = await bus.script("judge", ["I do not know.", "```\ntrue\n```", "false"])
        await bus.spawn(Judge, name="judge", model="judge")
        assert await bus.request("judge", "Is it?") is True
        assert engine.unused == 1
        assert await bus.request("judge", "And now?") is False
        assert engine.unused == 0
        assert [request.schema is None for request in engine.requests] == [False, True, True, False]


async def test_no_real_model_is_run(encoded: bool) -> None:
    async with open_bus(encoded=encoded) as bus:
        with pytest.raises(ModelNotFound, match=r"bus\.script"):
            await bus.spawn(Reviewer, name="reviewer", model="smollm2")
        await bus.spawn(Reviewer, name="reviewer", model="fake:echo")
    async with open_bus(encoded=encoded, allow_models=True) as bus:
        with pytest.raises(UnknownEngine):  # it was let through, to where engines are opened
            await bus.spawn(Reviewer, name="reviewer", model="oracle:delphi")


async def test_waiting_for_a_message(encoded: bool) -> None:
    async with open_bus(encoded=encoded) as bus:
        await bus.spawn(Editor, name="editor")
        async with anyio.create_task_group() as group:
            group.start_soon(_read, bus.stream("editor", 3))
            assert await bus.seen("editor", int) == 3
        await _read(bus.stream("editor", 4))
        assert await bus.seen("editor", int, count=2) == 4
        with pytest.raises(AssertionError, match=r"2 of 3 int within 0\.01 s; handled: editor: in"):
            await bus.seen("editor", int, count=3, deadline=0.01)


async def _read(stream: AsyncIterator[int]) -> None:
    async with stream as parts:  # type: ignore[attr-defined]
        async for _ in parts:
            pass


async def test_a_request_that_is_left_is_named(encoded: bool) -> None:
    editor, ended = Editor(), anyio.Event()

    async def ask_and_wait() -> None:
        try:
            await bus.request("editor", 0.5)
        finally:
            ended.set()

    with pytest.raises(
        AssertionError, match="left behind: requests or streams made here that have not ended: 1"
    ):
        async with open_bus(encoded=encoded) as bus:
            await bus.spawn(editor, name="editor")
            task = asyncio.ensure_future(ask_and_wait())
            await bus.seen("editor", float)
    with pytest.raises((PeerLost, RequestCancelled)):
        await task
    assert ended.is_set()


async def test_a_task_that_is_left_is_named() -> None:
    with pytest.raises(AssertionError, match=r"left behind: task stray: Event\.wait"):
        async with open_bus():
            task = asyncio.create_task(asyncio.Event().wait(), name="stray")
    task.cancel()


async def test_the_tests_own_failure_is_not_hidden(encoded: bool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_bus(encoded=encoded):
            task = asyncio.create_task(asyncio.Event().wait())
            raise ZeroDivisionError
    task.cancel()


async def test_an_engine_without_a_bus() -> None:
    engine = ScriptedEngine(["one"])
    assert (engine.prompts, engine.unused) == ([], 1)
