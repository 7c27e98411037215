"""Models read contexts through filters; what agents hold stays as it was said."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentbus import Agent, Bus, BusSettings, Call, EngineSettings, handler
from agentbus.client import ModelAgent, model_agent_name
from agentbus.client.generation import Generate
from agentbus.config import FilterRule
from agentbus.context import Context
from agentbus.errors import InvalidMessage
from agentbus.filters.plan import Use
from agentbus.testing import ScriptedEngine

from .conftest import Pair

pytestmark = pytest.mark.anyio

LOSSLESS = BusSettings(filters=(FilterRule(use=("lossless",)),))
RECORDS = json.dumps([{"id": f"f-{n}", "city": "Rome", "free": n} for n in range(30)], indent=2)
MORE = json.dumps([{"id": f"f-{n}", "city": "Rome", "free": n} for n in range(31)], indent=2)

Script = Callable[[Call], Awaitable[Any]]


class Reader(Agent):
    """You answer."""

    def __init__(self, script: Script) -> None:
        self._script = script

    @handler
    async def run(self, ask: str, call: Call) -> str:
        return str(await self._script(call))


class Counting(ScriptedEngine):
    """Notes in which threads it counted."""

    def __init__(self, replies: tuple[str, ...]) -> None:
        super().__init__(replies, model="m")
        self.threads: set[int] = set()
        self.counted = 0

    def count(self, text: str) -> int:
        self.counted += 1
        self.threads.add(threading.get_ident())
        return super().count(text)


@asynccontextmanager
async def reading(
    pair: Pair, script: Script, *replies: str, settings: BusSettings = LOSSLESS
) -> AsyncIterator[tuple[Counting, Callable[[], Any]]]:
    engine = Counting(replies)
    async with pair.open(settings) as (host, asker):
        await host.spawn(ModelAgent(engine), name=model_agent_name("m"))
        await asker.spawn(Reader(script), name="reader", model="m")

        async def run() -> Any:
            return await asker.call("reader", "go", context=asker.context().user("Flights?"))

        yield engine, run


def prompts(engine: ScriptedEngine) -> list[list[str]]:
    return [[turn.text for turn in request.prompt.turns] for request in engine.requests]  # type: ignore[union-attr]


def with_result(call: Call, text: str) -> Context:
    assert call.context is not None
    return call.context.tool_result("search", text)


async def test_a_model_reads_less_and_the_agent_keeps_all(pair: Pair) -> None:
    async def script(call: Call) -> str:
        call.context = with_result(call, RECORDS)
        await call.generate("Which?")
        call.context = with_result(call, MORE)
        await call.generate("And now?")
        return "".join(s.text for s in call.context.segments())

    async with reading(pair, script, " One.", " Two.") as (engine, run):
        reply = await run()
    assert RECORDS in reply.value and MORE in reply.value
    first, second = prompts(engine)
    assert second[: len(first)] == first
    assert all(len(text) < len(RECORDS) * 0.7 for text in second)
    cost = reply.account.model
    assert cost.saved_tokens > 200
    assert cost.left_out_tokens == 0
    assert cost.filter_s > 0


async def test_without_rules_a_model_reads_what_was_said(pair: Pair) -> None:
    async def script(call: Call) -> str:
        call.context = with_result(call, RECORDS)
        return await call.generate("Which?")

    async with reading(pair, script, " One.", settings=BusSettings()) as (engine, run):
        reply = await run()
    assert RECORDS in "".join(prompts(engine)[0])
    assert reply.account.model.saved_tokens == 0
    assert not engine.threads


async def test_rules_are_for_their_readers_and_senders(pair: Pair) -> None:
    rules = (
        FilterRule(use=(), senders=("search",)),
        FilterRule(use=("json",), readers=("reader",), kinds=("tool_result",)),
    )

    async def script(call: Call) -> str:
        call.context = with_result(call, RECORDS).tool_result("db", RECORDS).user(RECORDS)
        return await call.generate("Which?")

    async with reading(pair, script, " One.", settings=BusSettings(filters=rules)) as (engine, run):
        await run()
    _, _, untouched, changed, said, _ = prompts(engine)[0]
    assert RECORDS in untouched
    assert RECORDS not in changed
    assert said == RECORDS


async def test_an_answer_is_read_as_it_was_written(pair: Pair) -> None:
    answer = " " + RECORDS

    async def script(call: Call) -> str:
        call.context = with_result(call, RECORDS)
        await call.generate("Say it again.")
        return await call.generate("Thanks.")

    async with reading(pair, script, answer, " Bye.") as (engine, run):
        reply = await run()
    assert answer in prompts(engine)[1]
    assert reply.account.model.reused_tokens > 30


async def test_what_is_scored_is_read_through_filters_too(pair: Pair) -> None:
    async def script(call: Call) -> str:
        call.context = with_result(call, RECORDS)
        await call.score("Is it f-3?", [" yes", " no"])
        return ""

    async with reading(pair, script) as (_, run):
        assert (await run()).account.model.saved_tokens > 200


async def test_large_contexts_are_filtered_in_a_thread(pair: Pair) -> None:
    async def script(call: Call) -> str:
        call.context = with_result(call, RECORDS * 20)
        return await call.generate("Which?")

    async with reading(pair, script, " One.") as (engine, run):
        await run()
    assert engine.threads and threading.get_ident() not in engine.threads


async def test_contexts_of_many_short_texts_are_filtered_in_a_thread(pair: Pair) -> None:
    async def script(call: Call) -> str:
        for number in range(400):
            call.context = with_result(call, f"[{number},  {number}]")
        return await call.generate("Which?")

    async with reading(pair, script, " One.") as (engine, run):
        await run()
    assert engine.threads and threading.get_ident() not in engine.threads


async def test_a_plan_that_names_no_filter_is_refused(pair: Pair) -> None:
    class Forger(Agent):
        """Forge."""

        @handler
        async def run(self, ask: str, call: Call) -> str:
            plan = (Use((), (), ("gzip",), 0.3),)
            ask_for = Generate("role_first", 5, False, (), "", "", plan)
            target = model_agent_name("m")
            with pytest.raises(InvalidMessage, match="gzip"):
                async with call.stream(target, ask_for, context=call.context) as parts:
                    async for _ in parts:
                        pass
            return ""

    async with pair.open() as (host, asker):
        await host.spawn(ModelAgent(Counting(())), name=model_agent_name("m"))
        await asker.spawn(Forger(), name="forger")
        await asker.call("forger", "go", context=asker.context().user("Hello."))


async def test_deliveries_are_the_same_after_a_restart(tmp_path: Path) -> None:
    kept = EngineSettings(deliveries=str(tmp_path / "deliveries"))
    said: list[str] = []

    async def script(call: Call) -> str:
        call.context = with_result(call, RECORDS)
        return await call.generate("Which?")

    for _ in range(2):
        async with Bus.open(settings=LOSSLESS) as bus:
            await bus.serve("fake:", settings=kept)
            await bus.spawn(Reader(script), name="reader", model="fake:")
            reply = await bus.call("reader", "go", context=bus.context().user("Flights?"))
            said.append(reply.value)
            assert reply.account.model.saved_tokens > 200
    assert said[0] == said[1]
    assert (tmp_path / "deliveries").stat().st_size > 0


async def test_receipts_say_what_went_and_why(pair: Pair) -> None:
    async def script(call: Call) -> str:
        call.context = with_result(call, RECORDS).tool_call("reader", RECORDS)
        await call.generate("Which?")
        role, said, result, asked_of_tool, asked, answer = await call.receipts()
        assert (said.filters, said.why) == ("", "no filter is for such a text")
        assert result.kind == "tool_result" and result.sender == "search"
        assert result.filters.startswith("json-")
        saved = result.sent_tokens - result.delivered_tokens
        assert result.why == f"{saved} of {result.sent_tokens} tokens fewer"
        assert call.context.fetch(result.ref).text == RECORDS
        assert role.why == asked_of_tool.why == "no rule has a filter for it"
        assert asked.sender == "user" and answer.why == "the model has written it"
        return "seen"

    async with reading(pair, script, " One.") as (_, run):
        assert (await run()).value == "seen"


async def test_calls_of_another_salt_share_nothing(pair: Pair) -> None:
    async def script(call: Call) -> str:
        call.context = asked = with_result(call, RECORDS)
        for salt in ("ann", "bob", "bob"):
            call.context = asked
            counted = engine.counted
            await call.generate("Which?", salt=salt)
            counts.append(engine.counted - counted)
        written = [
            (await call.receipts(salt=salt))[-1].why == "the model has written it"
            for salt in ("bob", "ann", "")
        ]
        return str(written)

    counts: list[int] = []
    async with reading(pair, script, " One.", " Two.", " Three.") as (engine, run):
        assert (await run()).value == "[True, False, False]"
    assert counts[0] == counts[1] > counts[2] == 0


async def test_without_rules_there_are_no_receipts(pair: Pair) -> None:
    async def script(call: Call) -> str:
        return str(await call.receipts())

    async with reading(pair, script, settings=BusSettings()) as (_, run):
        assert (await run()).value == "()"


async def test_a_document_is_shortened_for_what_is_asked(pair: Pair) -> None:
    facts = [
        f"The harbour of town {n} opened in {1800 + n} and holds {n} boats." for n in range(60)
    ]
    document = " ".join(facts)
    rules = BusSettings(filters=(FilterRule(use=("lossless", "extract"), keep=0.2),))

    async def script(call: Call) -> str:
        assert call.context is not None
        call.context = call.context.document(document)
        await call.generate("When did the harbour of town 42 open?")
        receipt = next(one for one in await call.receipts() if one.kind == "document")
        assert receipt.filters == "extract/3" and receipt.left_out
        assert call.context.fetch(receipt.ref).text == document
        return ""

    async with reading(pair, script, " In 1842.", settings=rules) as (engine, run):
        reply = await run()
    (read,) = [text for text in prompts(engine)[0] if "harbour" in text and "opened" in text]
    assert "town 42 opened in 1842" in read
    assert read.count("opened") < 20
    assert read.startswith("[left out at …; the source is intact: get ctx:")
    assert reply.account.model.left_out_tokens > 300
