"""Scores and vectors are asked over the bus, and come back, over all transports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentbus import Agent, Budget, Bus, Call, EngineSettings, Prices, Reply, handler
from agentbus.client import ModelAgent, model_agent_name
from agentbus.client.scoring import Embedded, EmbedTexts, ScoreTexts
from agentbus.context import Prompt
from agentbus.engine import MAX_CONTINUATIONS, Engine, Score, Scores, Vector
from agentbus.engine.fake import FakeEngine
from agentbus.errors import (
    BudgetExceeded,
    ConfigError,
    ContextTooLong,
    InvalidMessage,
    LayoutError,
    ModelNotFound,
    PermissionDenied,
    Unsupported,
)

from .conftest import Pair
from .policies import allow, broker, deny, token_of

pytestmark = pytest.mark.anyio

PRICES = Prices(prompt=1.0, reused=0.1, answer=2.0)
ANSWERS = (" yes", " perhaps it is", (1, 2, 3))

Script = Callable[[Call], Awaitable[Any]]


class Judge(Agent):
    """Judge."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.kept: list[Any] = []

    @handler
    async def run(self, ask: str, call: Call) -> str:
        self.kept.append(await self._script(call))
        return ""


class Noting(FakeEngine):
    """Notes the prompts behind which it scored."""

    def __init__(self) -> None:
        super().__init__(model="m", settings=EngineSettings(prices=PRICES))
        self.asked: list[tuple[Prompt | tuple[int, ...], str]] = []

    async def score(
        self,
        prompt: Prompt | tuple[int, ...],
        continuations: Sequence[str | tuple[int, ...]],
        *,
        tenant: str = "",
        budget: Budget | None = None,
    ) -> Scores:
        self.asked.append((prompt, tenant))
        return await super().score(prompt, continuations, tenant=tenant, budget=budget)


Ask = Callable[..., Awaitable[tuple[Any, Reply[str]]]]


@asynccontextmanager
async def judging(
    pair: Pair, script: Script, *, served: Agent | None = None, model: str = "m"
) -> AsyncIterator[Ask]:
    """Serve a model by one bus, and have an agent of the other one ask it."""
    async with pair.open() as (host, asker):
        await host.spawn(served or ModelAgent(Noting()), name=model_agent_name("m"))
        judge = Judge(script)
        await asker.spawn(judge, name="judge", model=model)

        async def run(**options: Any) -> tuple[Any, Reply[str]]:
            context = asker.context().document("The tide tables.")
            reply = await asker.call("judge", "go", returns=str, context=context, **options)
            return judge.kept[-1], reply

        yield run


async def test_scores_are_the_engines_own(pair: Pair) -> None:
    engine = Noting()

    async def script(call: Call) -> tuple[Score, ...]:
        before = call.context
        scores = await call.score("Is it high?", ANSWERS, salt="salt")
        assert call.context is before
        assert call.reading is not None and call.reading.layout == "role_first"
        return scores

    async with judging(pair, script, served=ModelAgent(engine)) as run:
        scores, reply = await run()
    ((prompt, tenant),) = engine.asked
    assert isinstance(prompt, Prompt)
    assert "Is it high?" in prompt.turns[-1].text and tenant == "salt"
    direct = await Noting().score(prompt, ANSWERS)
    assert [one.logprobs for one in scores[:2]] == [one.logprobs for one in direct.scores[:2]]
    assert scores[2].token_ids == (1, 2, 3)
    cost = reply.account.model
    assert (cost.calls, cost.decoded_tokens) == (1, 0)
    assert cost.prompt_tokens == direct.usage.prompt_tokens
    assert cost.reused_tokens == direct.usage.reused_tokens > 0
    assert cost.cost == pytest.approx(
        PRICES.cost(direct.usage.prefilled_tokens, direct.usage.reused_tokens, 0)
    )
    assert (cost.sent_bytes > 0) == (pair.kind != "inproc")


async def test_without_a_question_the_context_alone_is_read(pair: Pair) -> None:
    engine = Noting()

    async def script(call: Call) -> tuple[Score, ...]:
        await call.score("", [" a"])
        return await call.score("", [" a"])

    async with judging(pair, script, served=ModelAgent(engine)) as run:
        (score,), reply = await run()
    assert len(score.logprobs) == 1
    assert engine.asked[0] == engine.asked[1]
    assert reply.account.model.calls == 2


async def test_vectors_come_back(pair: Pair) -> None:
    texts = ["The tide rises.", "The moon.", "rises. tide The"]

    async def script(call: Call) -> tuple[Vector, ...]:
        return await call.embed(texts)

    async with judging(pair, script) as run:
        vectors, reply = await run()
    direct = await Noting().embed(texts)
    assert vectors == direct.vectors and vectors[0] == vectors[2] != vectors[1]
    assert reply.account.model.prefilled_tokens == direct.usage.prompt_tokens == 8


async def test_as_many_as_may_be_asked_for_come_back(pair: Pair) -> None:
    texts = [f" word {number}" for number in range(MAX_CONTINUATIONS)]

    async def script(call: Call) -> tuple[int, int]:
        scores = await call.score("Which?", texts)
        return len(scores), len(await call.embed(texts))

    async with judging(pair, script) as run:
        assert (await run())[0] == (MAX_CONTINUATIONS, MAX_CONTINUATIONS)


@pytest.mark.parametrize(
    "wrong", [[], [""], "text", [7], [["a"]], [("a",)], [()], ["a"] * (MAX_CONTINUATIONS + 1)]
)
async def test_what_is_out_of_bounds_is_refused_where_it_is_asked(pair: Pair, wrong: Any) -> None:
    engine = Noting()

    async def script(call: Call) -> None:
        for asked in (call.score("Which?", wrong), call.embed(wrong)):
            with pytest.raises(ConfigError):
                await asked
        assert call.cost.calls == 0

    async with judging(pair, script, served=ModelAgent(engine)) as run:
        await run()
    assert engine.asked == []


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (ScoreTexts("role_first", "", ()), ConfigError),
        (ScoreTexts("role_first", "", ("",)), ConfigError),
        (ScoreTexts("role_first", "", ("a",) * 2000), ConfigError),
        (ScoreTexts("moon_first", "", ("a",)), LayoutError),
        (ScoreTexts("role_first", "", ((1,) * 9000,)), ContextTooLong),
        (EmbedTexts(()), ConfigError),
        (EmbedTexts(("",)), ConfigError),
        (EmbedTexts(("a",) * 2000), ConfigError),
    ],
)
async def test_who_asks_past_the_checks_is_refused(
    pair: Pair, ask: Any, error: type[Exception]
) -> None:
    async def script(call: Call) -> None:
        with pytest.raises(error):
            stream = call.stream(model_agent_name("m"), ask, context=call.context)
            async with stream as parts:
                async for _ in parts:
                    pass

    async with judging(pair, script) as run:
        await run()


async def test_a_budget_is_spent_and_kept(pair: Pair) -> None:
    async def script(call: Call) -> tuple[int, int]:
        await call.score("Is it high?", [" a"])
        score, before = call.cost.prompt_tokens, call.budget
        assert before is not None
        with pytest.raises(BudgetExceeded) as refused:
            await call.score("Is it high?", [" a"], budget=Budget(tokens=score - 1))
        assert refused.value.what == "tokens"
        with pytest.raises(BudgetExceeded):
            await call.embed(["one two three"], budget=Budget(tokens=2))
        assert call.budget == before
        await call.embed(["one two three"])
        assert call.budget is not None
        return before.tokens or 0, call.budget.tokens or 0

    async with judging(pair, script) as run:
        (before, after), reply = await run(budget=Budget(tokens=200))
    assert (before, after) == (200 - reply.account.model.prompt_tokens + 3, before - 3)


class Plain:
    """An engine that has only what each has."""

    def __init__(self) -> None:
        engine = FakeEngine(model="m")
        self.capabilities = engine.capabilities
        self.generate, self.tokenize, self.prefill = (
            engine.generate,
            engine.tokenize,
            engine.prefill,
        )
        self.count = engine.count
        self.stats, self.aclose = engine.stats, engine.aclose


async def test_an_engine_that_cannot_says_so(pair: Pair) -> None:
    async def script(call: Call) -> list[str]:
        refused = []
        for asked in (call.score("Which?", ["a"]), call.embed(["a"])):
            with pytest.raises(Unsupported) as error:
                await asked
            refused.append(error.value.what)
        assert await call.generate("Still there?") != ""
        return refused

    plain: Engine = Plain()
    async with judging(pair, script, served=ModelAgent(plain)) as run:
        assert (await run())[0] == ["score", "embed"]


@pytest.mark.parametrize("model", ["", "moon"])
async def test_without_a_model_nothing_is_asked(pair: Pair, model: str) -> None:
    async def script(call: Call) -> None:
        for asked in (call.score("Which?", ["a"]), call.embed(["a"])):
            with pytest.raises(ModelNotFound):
                await asked

    if model and pair.kind == "inproc":
        pytest.skip("a bus within a process opens the models of its agents")
    async with judging(pair, script, model=model) as run:
        await run()


class Liar(Agent):
    """Answers otherwise than it was asked."""

    def __init__(self, parts: Sequence[Score | Embedded | str]) -> None:
        self._parts = parts

    @handler
    async def score(self, ask: ScoreTexts, call: Call) -> AsyncIterator[Score | Embedded | str]:
        for part in self._parts:
            yield part

    @handler
    async def embed(self, ask: EmbedTexts, call: Call) -> AsyncIterator[Score | Embedded | str]:
        for part in self._parts:
            yield part


SCORE, EMBEDDED = Score((1,), (-0.5,)), Embedded((1.0,))


@pytest.mark.parametrize(
    ("parts", "method"),
    [
        ((), "score"),
        ((SCORE,), "score"),
        ((SCORE,) * 3, "score"),
        ((SCORE, EMBEDDED), "score"),
        (("a", "b"), "score"),
        ((EMBEDDED,), "embed"),
        ((EMBEDDED, SCORE), "embed"),
    ],
)
async def test_what_answers_something_else_is_not_believed(
    pair: Pair, parts: Sequence[Score | Embedded | str], method: str
) -> None:
    async def script(call: Call) -> None:
        with pytest.raises(InvalidMessage):
            if method == "score":
                await call.score("Which?", ["a", "b"])
            else:
                await call.embed(["a", "b"])

    async with judging(pair, script, served=Liar(parts)) as run:
        await run()


async def test_who_may_not_ask_a_model_gets_neither(socket_dir: Path) -> None:
    model = model_agent_name("m")
    rules = (
        allow("token:bob", "*"),
        allow("token:ann", "*"),
        deny("token:ann", "request", model),
    )

    async def script(call: Call) -> None:
        for asked in (call.generate("Which?"), call.score("Which?", ["a"]), call.embed(["a"])):
            with pytest.raises(PermissionDenied) as denied:
                await asked
            assert denied.value.subject == model

    async with broker(socket_dir, *rules) as (url, _):
        async with (
            Bus.open(url, name="bob", token=token_of("bob")) as bob,
            Bus.open(url, name="ann", token=token_of("ann")) as ann,
        ):
            await bob.spawn(ModelAgent(Noting()), name=model)
            judge = Judge(script)
            await ann.spawn(judge, name="judge", model="m")
            await ann.request("judge", "go", returns=str)
            assert judge.kept == [None]
