"""What a prompt leaves out is had back: by a handler, by its model, and from other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentbus import Agent, Bus, Call, Context, handler
from agentbus.client import originals
from agentbus.context import (
    CONTEXT_TOOL_NAMES,
    CONTEXT_TOOLS,
    Fetched,
    SegmentKind,
    TenantKey,
    context_tools,
    reference,
)
from agentbus.engine import ToolCall
from agentbus.errors import MisuseError
from agentbus.testing import Reply

from .agents import Say
from .conftest import Pair
from .test_generate import asking
from .test_handoff import processes

pytestmark = pytest.mark.anyio

LOG = "\n".join(f"step {number:03} done" for number in range(1, 201))


class Finder(Agent):
    """You find what was left out."""

    def __init__(self) -> None:
        self.found: list[Fetched] = []
        self.context: Context | None = None

    @handler
    async def find(self, say: Say, call: Call) -> str:
        found = await call.fetch_text(say.text, lines=(41, 42))
        self.found.append(found)
        self.context = call.context
        searched = await call.search_text(say.text, "STEP 090", limit=3)
        assert searched.status is found.status
        return f"{found.status} {found.text} {[one.line for one in searched.lines]}".strip()


FOUND = "found step 041 done\nstep 042 done [90]"


def logged(bus: Bus) -> tuple[Context, str]:
    """Return a context with a log in it, and the log's reference."""
    context = bus.context().user("What happened?").tool_result("run", LOG)
    return context, reference(context.segments()[1], context)


async def test_what_came_with_a_message_is_found(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        agent = Finder()
        await host.spawn(agent, name="finder")
        context, ref = logged(asker)
        later = context.user("And then?")
        assert await asker.request("finder", Say(text=ref), context=later) == FOUND
        assert agent.context is not None
        assert agent.context.fetch(ref, lines=(41, 42)) == agent.found[0]
        for wrong in ("ctx:00000000", "no reference", "\x00" * 100):
            assert await asker.request("finder", Say(text=wrong), context=later) == "never  []"
        assert await asker.request("finder", Say(text=ref)) == "never  []"


async def test_who_asks_is_the_reader(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Finder(), name="finder")
        context = asker.context().role("finder", LOG, private=True)
        context = context.role("other", LOG, private=True).note("n")
        own, other, note = (reference(one, context) for one in context.segments())
        assert await asker.request("finder", Say(text=own), context=context) == FOUND
        for ref in (other, note):
            said = await asker.request("finder", Say(text=ref), context=context)
            assert said == "forbidden  []"


async def test_what_a_summary_stands_for_comes_from_who_keeps_it(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Finder(), name="finder")
        context, ref = logged(asker)
        short = context.user("And then?").summarize("It ran.", keep=1)
        said = await asker.request("finder", Say(text=ref), context=short)
        assert said == "expired  []"
        asker.contexts.retain(context)
        assert await asker.request("finder", Say(text=ref), context=short) == FOUND
        # Now this process keeps it, too.
        asker.contexts.release(context)
        if host is not asker:
            asker.contexts.collect()
        assert await asker.request("finder", Say(text=ref), context=short) == FOUND
        said = await asker.request("finder", Say(text="ctx:00000000"), context=short)
        assert said == "never  []"


async def test_a_summary_of_summaries_is_followed(socket_dir: Path) -> None:
    async with processes(socket_dir) as (asker, host, _):
        await host.spawn(Finder(), name="finder")
        context, ref = logged(asker)
        for turn in range(4):
            context = context.user(f"turn {turn}")
            asker.contexts.retain(context)
            context = context.summarize(f"Up to {turn}.", keep=0)
        assert await asker.request("finder", Say(text=ref), context=context) == FOUND


async def test_what_was_replaced_comes_from_what_is_kept(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Finder(), name="finder")
        first = asker.context().document(LOG)
        ref = reference(first.segments()[0], first)
        second = first.supersede(first.segments()[0], "newer")
        third = second.supersede(second.segments()[1], "newest").compacted()
        said = await asker.request("finder", Say(text=ref), context=third)
        assert said == "expired  []"
        await asker.request("finder", Say(text=ref), context=second)
        asker.contexts.retain(second)
        assert await asker.request("finder", Say(text=ref), context=third) == FOUND


async def test_a_context_full_of_summaries_asks_for_a_few(socket_dir: Path) -> None:
    async with processes(socket_dir) as (asker, host, _):
        await host.spawn(Finder(), name="finder")
        context, ref = logged(asker)
        asker.contexts.retain(context)
        bad = asker.context()
        for number in range(1, originals._ASKS + 1):
            bad = bad.add(SegmentKind.SUMMARY, "", "?", refers=number.to_bytes(32, "little"))
        bad = bad.summary("It ran.", of=context)
        assert await asker.request("finder", Say(text=ref), context=bad) == "expired  []"
        good = asker.context().join([asker.context().summary("It ran.", of=context), bad])
        assert await asker.request("finder", Say(text=ref), context=good) == FOUND


async def test_what_is_no_range_is_the_handlers_mistake() -> None:
    class Wrong(Agent):
        @handler
        async def find(self, say: Say, call: Call) -> None:
            with pytest.raises(MisuseError, match="a range has a first"):
                await call.fetch_text(say.text, lines=(2, 1))
            with pytest.raises(MisuseError, match="takes 1 to"):
                await call.search_text(say.text, " ")

    async with Bus.open() as bus:
        await bus.spawn(Wrong(), name="wrong")
        context, ref = logged(bus)
        await bus.request("wrong", Say(text=ref), context=context)


# --- the tool


def asks(name: str, **arguments: object) -> Reply:
    return Reply(calls=(ToolCall(name, arguments),))


async def test_a_model_gets_lines_back(pair: Pair) -> None:
    async def script(call: Call) -> Any:
        call.context = call.empty_context().tools(CONTEXT_TOOLS).tool_result("run", LOG)
        answer = await call.answer("Which step?", tools=context_tools())
        while answer.tool_calls:
            for asked in answer.tool_calls:
                assert await call.answer_tool(asked)
            answer = await call.answer(tools=context_tools())
        return answer.text, call.context

    log = TenantKey().segment(SegmentKind.TOOL_RESULT, "run", LOG)
    ref = reference(log, TenantKey().empty())
    replies = (
        asks("context_search", ref=ref, query="step 090"),
        asks("context_get", ref=ref, lines="89-91"),
        asks("context_get", ref="nonsense"),
        " Step 90.",
    )
    async with asking(pair, script, *replies) as (engine, run, _):
        text, context = await run()
    assert text == " Step 90."
    results = [one for one in context.segments() if one.author in CONTEXT_TOOL_NAMES]
    assert {one.kind for one in results} == {SegmentKind.TOOL_RESULT}
    assert [one.text.splitlines()[1:] for one in results] == [
        ["90: step 090 done"],
        ["step 089 done", "step 090 done", "step 091 done"],
        [],
    ]
    assert "ref is missing" in results[2].text
    assert all(one.text in engine.prompts[-1] for one in results)
    for prompt in engine.prompts:
        assert prompt.count(CONTEXT_TOOLS[1:-1]) == 1


async def test_the_tool_answers_whatever_comes_of_it() -> None:
    answers: list[str] = []

    class Using(Agent):
        @handler
        async def use(self, say: Say, call: Call) -> None:
            asked = ToolCall("context_get", {"ref": say.text})
            before = 0 if call.context is None else call.context.length
            assert await call.answer_tool(asked)
            assert call.context is not None
            assert call.context.length == before + 1
            last = call.context.last
            assert last is not None
            assert (last.kind, last.author) == (SegmentKind.TOOL_RESULT, "context_get")
            answers.append(last.text)

        @handler
        async def other(self, number: int, call: Call) -> None:
            assert not await call.answer_tool(ToolCall("tide", {"ref": "ctx:00000000"}))
            assert call.context is None

    async with Bus.open() as bus:
        await bus.spawn(Using(), name="using")
        context, ref = logged(bus)
        secret = context.role("other", "x", private=True)
        for text, within in (
            (ref, context),
            (ref, context.summarize("It ran.", keep=0)),
            (ref, None),
            (reference(secret.segments()[2], secret), secret),
            ("\ud800", context),
        ):
            await bus.request("using", Say(text=text), context=within)
        await bus.request("using", 1)
    found, expired, never, forbidden, malformed = answers
    assert found == f"[{ref} lines 1-200 of 200]\n{LOG}"
    assert expired == f"[nothing that is kept has the reference {ref}: go on with what stands here]"
    assert never.startswith("[nothing in this conversation has the reference")
    assert forbidden.endswith("is not for you to read]")
    assert malformed.startswith("[ref is missing")
