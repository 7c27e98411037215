"""Values from a model: at once, repaired, or never; counted, within a budget, over all transports."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import pytest
from pydantic import BaseModel

from agentbus import Agent, Budget, Bus, Call, handler
from agentbus.client import ModelAgent, ValueOptions, model_agent_name
from agentbus.context import Context
from agentbus.engine import Finished, GenerateRequest, Piece, Sampling
from agentbus.engine.fake import Reply
from agentbus.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    InvalidSchema,
    UnparsableReply,
    Unsupported,
)
from agentbus.ops import exposition
from agentbus.testing import ScriptedEngine

from .conftest import Pair

pytestmark = pytest.mark.anyio


class Verdict(BaseModel):
    """What was found."""

    verdict: Literal["yes", "no"]
    sure: int = 0


GOOD, BAD = '{"verdict": "yes"}', '{"verdict": "maybe"}'
YES = Verdict(verdict="yes")
Script = Callable[[Call], Any]


class InWords(ScriptedEngine):
    """Cannot keep an answer to a schema."""

    refusal: Exception = Unsupported("words", "keep an answer to a schema")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        if request.schema is not None:
            raise self.refusal
        async for item in super().generate(request):
            yield item


class Asker(Agent):
    """Ask."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.kept: list[Any] = []
        self.contexts: list[Context | None] = []

    @handler
    async def run(self, ask: str, call: Call) -> str:
        try:
            self.kept.append(await self._script(call))
        finally:
            self.contexts.append(call.context)
        return ""


class Stage:
    """A model on one bus, and an agent of another one that asks it."""

    def __init__(self, engine: ScriptedEngine, agent: Asker, asker: Bus) -> None:
        self.engine = engine
        self.agent = agent
        self.bus = asker

    async def run(self, **options: Any) -> Any:
        await self.bus.request("asker", "go", returns=str, **options)
        return self.agent.kept[-1]

    def said(self) -> list[str]:
        context = self.agent.contexts[-1]
        return [] if context is None else [one.text for one in context.segments()]

    def counted(self) -> tuple[int, int, int]:
        (one,) = [one for one in self.bus.report().agents if one.name == "asker"]
        assert one.model == "m"
        return one.structured_answers, one.unparsable_answers, one.repairs


@asynccontextmanager
async def stage(pair: Pair, engine: ScriptedEngine, script: Script) -> AsyncIterator[Stage]:
    async with pair.open() as (host, asker):
        await host.spawn(ModelAgent(engine), name=model_agent_name("m"))
        agent = Asker(script)
        await asker.spawn(agent, name="asker", model="m")
        yield Stage(engine, agent, asker)


def asking(kind: Any = Verdict, **options: Any) -> Script:
    async def script(call: Call) -> Any:
        return await call.generate_as(kind, "Is it?", **options)

    return script


async def test_at_once_and_kept_to_the_schema(pair: Pair) -> None:
    async with stage(pair, ScriptedEngine([GOOD]), asking()) as run:
        assert await run.run() == YES
        (request,) = run.engine.requests
        assert request.schema is not None
        assert request.schema["additionalProperties"] is False
        assert run.said() == ["Is it?", GOOD]
        assert run.counted() == (1, 0, 0)


@pytest.mark.parametrize("answer", [f"```json\n{GOOD}\n```", f"Well, {GOOD} it is.", GOOD])
async def test_an_engine_that_keeps_to_no_schema_is_asked_in_words(pair: Pair, answer: str) -> None:
    async with stage(pair, InWords([answer]), asking()) as run:
        assert await run.run() == YES
        assert run.engine.requests[-1].schema is None
        asked, said = run.said()
        assert asked.startswith("Is it?\n\nAnswer with JSON alone")
        assert '"enum":["yes","no"]' in asked
        assert said == answer
        assert run.counted() == (1, 0, 0)


@pytest.mark.parametrize(
    "refusal", [InvalidSchema("too large"), ConfigError("schema", "llguidance is not installed")]
)
async def test_so_is_one_that_cannot_use_this_schema(socket_dir: Any, refusal: Exception) -> None:
    engine = InWords([GOOD])
    engine.refusal = refusal
    async with stage(Pair("inproc", socket_dir), engine, asking()) as run:
        assert await run.run() == YES


async def test_another_refusal_is_the_callers(socket_dir: Any) -> None:
    engine = InWords([GOOD])
    engine.refusal = ConfigError("max_tokens", "is wrong")
    async with stage(Pair("inproc", socket_dir), engine, asking()) as run:
        with pytest.raises(ConfigError, match="max_tokens"):
            await run.run()
        assert run.engine.requests == []


@pytest.mark.parametrize("kind", [ScriptedEngine, InWords])
async def test_a_wrong_answer_is_repaired_behind_what_was_said(
    pair: Pair, kind: type[ScriptedEngine]
) -> None:
    async with stage(pair, kind([BAD, GOOD]), asking()) as run:
        assert await run.run() == YES
        first, second = [one for one in run.engine.requests if one.schema or kind is InWords]
        asked, bad, again, good = run.said()
        assert (bad, good) == (BAD, GOOD)
        assert "verdict: Input should be 'yes' or 'no'" in again
        assert "schema" not in again, "the form is told once"
        assert run.engine.prompts[-1].startswith(run.engine.prompts[-2])
        assert first.schema == second.schema
        assert run.counted() == (2, 1, 1)
        assert asked.startswith("Is it?")


async def test_a_repair_is_asked_in_words_where_the_engine_cannot_keep_it_to_the_schema(
    socket_dir: Any,
) -> None:
    engine = ScriptedEngine([BAD, "It is so.", GOOD])
    async with stage(Pair("inproc", socket_dir), engine, asking(repairs=2)) as run:
        assert await run.run() == YES
        assert run.counted() == (3, 2, 2)
        again, last = run.said()[2::2]
        assert "valid by this JSON schema" in again
        assert "schema" not in last, "the form is told once"


async def test_what_was_read_is_reused_by_the_repair(pair: Pair) -> None:
    async def script(call: Call) -> Any:
        call.context = call.empty_context().document("word " * 200)
        value = await call.generate_as(Verdict, "Is it?")
        return value, call.cost

    async with stage(pair, ScriptedEngine([BAD, GOOD]), script) as run:
        _, cost = await run.run()
    assert cost.calls == 2
    assert cost.reused_tokens > 200
    assert (cost.structured_answers, cost.unparsable_answers, cost.repairs) == (2, 1, 1)


async def test_never_repaired_it_is_a_typed_error_that_travels(pair: Pair) -> None:
    text = "I would rather talk about tides. " * 20
    async with stage(pair, InWords([text] * 3), asking(repairs=2)) as run:
        with pytest.raises(UnparsableReply) as raised:
            await run.run()
        error = raised.value
        assert (error.model, error.wanted, error.answers) == ("m", "Verdict", 3)
        assert error.problem == "there is no JSON object in it"
        assert text.startswith(error.excerpt) and len(error.excerpt) == 200
        assert str(error).startswith("the model 'm' gave no Verdict (answers: 3)")
        assert run.counted() == (3, 3, 2)
        assert run.said()[1::2] == [text] * 3
        (report,) = [one for one in run.bus.report().agents if one.name == "asker"]
        assert report.failures == {"unparsable_reply": 1}


async def test_without_repairs_it_is_asked_once(pair: Pair) -> None:
    async with stage(pair, ScriptedEngine([BAD, GOOD]), asking(repairs=0)) as run:
        with pytest.raises(UnparsableReply, match="answers: 1"):
            await run.run()
        assert run.counted() == (1, 1, 0)
        assert run.engine.unused == 1


async def test_an_answer_that_was_cut_off_says_so(pair: Pair) -> None:
    long = '{"verdict": "yes", "sure": 1, "and": "more"}'
    async with stage(pair, InWords([long, GOOD]), asking(max_tokens=4)) as run:
        assert await run.run() == YES
        assert "and was cut off after 4 tokens" in run.said()[2]


async def test_all_options_come_to_the_engine(pair: Pair) -> None:
    options = ValueOptions(
        max_tokens=9, sampling=Sampling(temperature=0.7, seed=3), salt="s", label="l"
    )
    async with stage(pair, ScriptedEngine([BAD, GOOD]), asking(**options)) as run:
        await run.run()
        for request in run.engine.requests:
            assert (request.max_tokens, request.tenant, request.label) == (9, "s", "l")
            assert request.sampling == options["sampling"]


async def test_the_budget_is_for_all_together(pair: Pair) -> None:
    async def script(call: Call) -> int:
        await call.generate_as(Verdict, "Is it?")
        return call.cost.prompt_tokens + call.cost.decoded_tokens

    async with stage(pair, ScriptedEngine([BAD, GOOD]), script) as run:
        needed = await run.run()
    enough, scarce = Budget(tokens=needed), Budget(tokens=needed - 1)
    async with stage(pair, ScriptedEngine([BAD, GOOD]), asking(budget=enough)) as run:
        assert await run.run() == YES
    async with stage(pair, ScriptedEngine([BAD, GOOD]), asking(budget=scarce)) as run:
        with pytest.raises(UnparsableReply, match="was cut off after 1 tokens"):
            await run.run()
    async with stage(pair, ScriptedEngine([BAD, GOOD]), asking(budget=Budget(tokens=20))) as run:
        with pytest.raises(BudgetExceeded):
            await run.run()
        assert run.counted() == (1, 1, 0)


async def test_a_repair_that_nobody_waits_for_is_cancelled(pair: Pair) -> None:
    gate = anyio.Event()
    engine = ScriptedEngine([BAD, Reply(text=GOOD, gate=gate)])
    async with stage(pair, engine, asking()) as run:
        with pytest.raises(DeadlineExceeded):
            await run.run(deadline=0.5)
        with anyio.fail_after(5):
            while engine.stats().running:  # noqa: ASYNC110 - nothing tells when
                await anyio.sleep(0.005)
            while run.counted() != (1, 1, 0):  # noqa: ASYNC110
                await anyio.sleep(0.005)
        assert engine.unused == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"repairs": 9}, ConfigError),
        ({"repairs": -1}, ConfigError),
        ({"tools": ()}, TypeError),
        ({"schema": {}}, TypeError),
        ({"kind": type("Own", (), {})}, InvalidSchema),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_it_is(
    socket_dir: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    async def script(call: Call) -> None:
        with pytest.raises(error):
            await call.generate_as(options.pop("kind", Verdict), "Is it?", **options)

    async with stage(Pair("inproc", socket_dir), ScriptedEngine([GOOD]), script) as run:
        await run.run()
        assert run.engine.requests == []


async def test_prometheus_sees_the_rate_of_each_agent_and_model(socket_dir: Any) -> None:
    engine = ScriptedEngine([BAD, BAD, GOOD])
    async with stage(Pair("inproc", socket_dir), engine, asking(repairs=2)) as run:
        await run.run()
        text = exposition(run.bus.report()).decode()
    edge = 'agent="asker",model="m"'
    assert f'agentbus_structured_answers_total{{{edge},outcome="ok"}} 1.0' in text
    assert f'agentbus_structured_answers_total{{{edge},outcome="unparsable"}} 2.0' in text
    assert f"agentbus_repairs_total{{{edge}}} 2.0" in text
