"""What an engine can be asked for is asked over the bus, and comes back, over all transports."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from agentbus import Agent, Answer, Budget, Bus, Call, handler
from agentbus.client import Generate, GenerateOptions, ModelAgent, model_agent_name
from agentbus.client.generation import (
    AnswerReader,
    Ended,
    GenerateWith,
    Generation,
    WrittenCall,
    request_of,
)
from agentbus.client.payload import payload_type
from agentbus.context import Prompt, Turn, canonical_tools
from agentbus.engine import GenerateRequest, Sampling, ToolCall
from agentbus.engine.fake import Reply
from agentbus.errors import BudgetExceeded, ConfigError, InvalidMessage, Unsupported
from agentbus.telemetry import ModelCost
from agentbus.testing import ScriptedEngine

from .conftest import Pair

pytestmark = pytest.mark.anyio

TOOL = {
    "type": "function",
    "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {"type": "object", "properties": {"high": {"enum": ["ä", None, 1.5]}}}
PROMPT = Prompt((Turn("user", "Tides?"),), Turn("assistant", ""))
PLAIN = Generate("role_first", 1, False, (), "", "")
EVERYTHING = GenerateOptions(
    max_tokens=9,
    sampling=Sampling(temperature=0.7, top_p=0.9, top_k=5, seed=(1 << 63) - 1),
    stop=("rise", "\n"),
    logprobs=3,
    tools=(TOOL,),
    tool_choice="required",
    salt="salt",
    label="label",
)

Script = Callable[[Call], Any]


class Asker(Agent):
    """Ask."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.kept: list[Any] = []

    @handler
    async def run(self, ask: str, call: Call) -> str:
        self.kept.append(await self._script(call))
        return ""


@asynccontextmanager
async def asking(
    pair: Pair, script: Script, *replies: str | Reply
) -> AsyncIterator[tuple[ScriptedEngine, Callable[[], Any], Bus]]:
    """Serve replies by one bus, and have an agent of the other one ask."""
    engine = ScriptedEngine(replies, model="m")
    async with pair.open() as (host, asker):
        await host.spawn(ModelAgent(engine), name=model_agent_name("m"))
        agent = Asker(script)
        await asker.spawn(agent, name="asker", model="m")

        async def run() -> Any:
            await asker.request("asker", "go", returns=str)
            return agent.kept[-1]

        yield engine, run, asker


async def test_all_that_is_asked_for_comes_to_the_engine(pair: Pair) -> None:
    async def script(call: Call) -> str:
        return await call.generate("Tides?", **EVERYTHING)

    reply = Reply(text=" They", calls=(ToolCall("tide", {}),))
    async with asking(pair, script, reply) as (engine, run, _):
        assert await run() == " They"
        (request,) = engine.requests
    for name, value in EVERYTHING.items():
        assert getattr(request, "tenant" if name == "salt" else name) == value, name


@pytest.mark.parametrize("schema", [SCHEMA, {"maximum": 2**64 - 1}])
async def test_a_schema_comes_as_it_was(pair: Pair, schema: Mapping[str, object]) -> None:
    async def script(call: Call) -> Answer:
        return await call.answer("Tides?", schema=schema)

    async with asking(pair, script, '{"high": 1}') as (engine, run, _):
        assert (await run()).text == '{"high": 1}'
        assert engine.requests[0].schema == schema


async def test_the_whole_answer_comes_back(pair: Pair) -> None:
    arguments = {"place": "Zoë", "far": 10**30, "half": "\ud800", "deep": [{"a": None}]}

    async def script(call: Call) -> tuple[Answer, Call]:
        answer = await call.answer("Tides?", tools=(TOOL,), logprobs=1)
        return answer, call

    said = Reply(
        text=" They rise", calls=(ToolCall("tide", arguments), ToolCall("tide", {"at": "Zoë"}))
    )
    async with asking(pair, script, said) as (_, run, _bus):
        answer, call = await run()
    assert answer.text == " They rise"
    assert answer.reason == "tool_calls"
    assert answer.tool_calls == said.calls
    assert [one.text for one in answer.logprobs] == [" They", " rise"]
    assert answer.logprobs[0].logprob == answer.logprobs[0].top[0].logprob == pytest.approx(-0.5)
    assert answer.cost.decoded_tokens == 2
    assert call.cost.decoded_tokens == 2
    *_, asked, text, first, second = call.context.segments()
    assert (asked.text, text.text) == ("Tides?", " They rise")
    assert json.loads(first.text.split("\n")[1]) == {"name": "tide", "arguments": arguments}
    assert '"arguments": {"at": "Zoë"}' in second.text  # as a model writes it


async def test_a_call_and_its_result_are_read_by_the_next_call(pair: Pair) -> None:
    async def script(call: Call) -> Answer:
        assert call.context is None
        call.context = call.empty_context().tools(canonical_tools([TOOL]))
        answer = await call.answer("Tides?", tools=(TOOL,))
        (asked,) = answer.tool_calls
        assert call.context is not None
        assert len(call.context.segments()) == 3  # no message without text
        call.context = call.context.tool_result(asked.name, "high")
        return await call.answer(tools=(TOOL,))

    replies = Reply(calls=(ToolCall("tide", {"at": "noon"}),)), " It is high."
    async with asking(pair, script, *replies) as (engine, run, _):
        answer = await run()
        assert (answer.reason, answer.tool_calls) == ("end", ())
        assert '"arguments": {"at": "noon"}' in engine.prompts[1]
        assert "high" in engine.prompts[1]
    assert answer.cost.reused_tokens > 0


async def test_neither_answer_nor_calls_are_sent_again(pair: Pair) -> None:
    async def script(call: Call) -> Answer:
        await call.answer("Tides?")
        return await call.answer("And?")

    said = Reply(text=" long" * 200, calls=(ToolCall("tide", {"text": "long " * 2000}),))
    async with asking(pair, script, said, " No.") as (_, run, _bus):
        answer = await run()
    assert answer.text == " No."
    assert answer.cost.reused_tokens > 0
    if pair.kind != "relayed":  # a broker is sent what the models behind it may lack
        assert answer.cost.sent_bytes < 900


async def test_reasons_and_stops_come_back(pair: Pair) -> None:
    async def script(call: Call) -> list[Answer]:
        return [
            await call.answer("One.", stop=("fall",)),
            await call.answer("Two.", max_tokens=1),
            await call.answer("Three."),
        ]

    text = " They rise and fall."
    async with asking(pair, script, text, text, text) as (_, run, _bus):
        stopped, cut, whole = await run()
    assert (stopped.reason, stopped.stop, stopped.text) == ("stop", "fall", " They rise and ")
    assert (cut.reason, cut.stop, cut.text) == ("length", "", " They")
    assert (whole.reason, whole.text, whole.logprobs) == ("end", text, ())


async def test_text_streams_and_the_answer_is_last(pair: Pair) -> None:
    async def script(call: Call) -> list[str | Answer]:
        async with aclosing(call.answer_stream("Tides?", logprobs=1)) as parts:
            return [part async for part in parts]

    async with asking(pair, script, " They rise") as (_, run, _bus):
        *texts, answer = await run()
    assert texts == [" They", " rise"]
    assert answer.text == " They rise"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"logprobs": 21}, "logprobs"),
        ({"stop": ("",)}, "stop"),
        ({"stop": "word"}, "stop"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"schema": {"enum": [object()]}}, "schema"),
        ({"schema": {}, "ignore_end": True}, "ignore_end"),
        ({"tools": ({"name": "a b"},)}, "tools"),
    ],
)
async def test_what_is_out_of_bounds_is_refused_where_it_is_asked(
    pair: Pair, options: GenerateOptions, what: str
) -> None:
    async def script(call: Call) -> pytest.ExceptionInfo[ConfigError]:
        with pytest.raises(ConfigError, match=what) as refused:
            await call.generate("Tides?", **options)
        return refused

    async with asking(pair, script, "no") as (engine, run, _):
        await run()
        assert engine.requests == []


async def test_errors_of_the_engine_keep_their_types(pair: Pair) -> None:
    async def script(call: Call) -> None:
        with pytest.raises(Unsupported):
            await call.answer("Tides?", schema=SCHEMA)
        with pytest.raises(BudgetExceeded):
            await call.answer("Tides?", logprobs=1, budget=Budget(tokens=1))
        with pytest.raises(TypeError):
            await call.generate("Tides?", temperature=1)  # type: ignore[call-arg]

    async with asking(pair, script, "not JSON", "more") as (_, run, _bus):
        await run()


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (GenerateWith(PLAIN, None, (), 21, "", "", "auto"), ConfigError),
        (GenerateWith(PLAIN, None, (), 0, "[]", "", "auto"), InvalidMessage),
        (GenerateWith(PLAIN, None, (), 0, "", "", "required"), ConfigError),
        (GenerateWith(PLAIN, None, ("",), 0, "", "", "auto"), ConfigError),
    ],
)
async def test_who_asks_past_the_checks_is_refused(
    pair: Pair, ask: GenerateWith, error: type[Exception]
) -> None:
    async def script(call: Call) -> None:
        with pytest.raises(error):
            context = call.empty_context().user("Tides?")
            async with call.stream(model_agent_name("m"), ask, context=context) as parts:
                async for _ in parts:
                    pass

    async with asking(pair, script, "no") as (engine, run, _):
        await run()
        assert engine.requests == []


async def test_a_plain_answer_brings_no_calls(pair: Pair) -> None:
    async def script(call: Call) -> Call:
        assert await call.generate("Tides?") == ""
        return call

    async with asking(pair, script, Reply(calls=(ToolCall("tide", {}),))) as (_, run, _bus):
        call = await run()
    assert [one.text for one in call.context.segments()] == ["Tides?", ""]


def test_defaults_cost_nothing() -> None:
    ask = Generation(text="Tides?").ask("by_role")
    assert ask == Generate("by_role", 256, False, (), "", "")
    assert type(ask) is Generate
    assert len(payload_type(Generate).encode(ask)[0]) == 17
    assert isinstance(Generation(stop=("a",)).ask("by_role"), GenerateWith)
    assert isinstance(Generation(whole=True).ask("by_role"), GenerateWith)


def test_plain_and_special_asks_make_the_same_request() -> None:
    plain = request_of(Generation().ask("x"), PROMPT, None)
    assert plain == request_of(Generation(whole=True).ask("x"), PROMPT, None)
    assert plain == GenerateRequest(prompt=PROMPT)


@pytest.mark.parametrize("text", ["{", "[1]", '"a"', "[" * 100_000])
def test_a_schema_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessage, match="schema"):
        request_of(GenerateWith(PLAIN, None, (), 0, text, "", "auto"), PROMPT, None)


@pytest.mark.parametrize("text", ["{", "{}", "1"])
def test_tools_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InvalidMessage, match="tools"):
        request_of(GenerateWith(PLAIN, None, (), 0, "", text, "auto"), PROMPT, None)


@pytest.mark.parametrize("part", [7, {}, PLAIN, None])
def test_what_is_no_part_of_an_answer_is_refused(part: object) -> None:
    with pytest.raises(InvalidMessage, match="no part"):
        AnswerReader().take(part)


@pytest.mark.parametrize(
    "arguments", ["", "[]", "{", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}']
)
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    reader = AnswerReader()
    reader.take(Ended("tool_calls", (WrittenCall("tide", arguments),), 0, ""))
    with pytest.raises(InvalidMessage, match="arguments"):
        reader.answer(ModelCost())


def test_an_answer_without_an_end_is_refused() -> None:
    reader = AnswerReader()
    assert reader.take("a") == "a"
    with pytest.raises(InvalidMessage, match="no end"):
        reader.answer(ModelCost())
