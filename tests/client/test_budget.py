"""What a request and all it caused spend stays within its budget, over all transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest
from pydantic import BaseModel

from agentbus import Agent, Budget, Bus, BusSettings, Call, EngineSettings, Prices, handler
from agentbus.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    HandlerFailed,
    MailboxFull,
    NoResponder,
)
from agentbus.patterns import Ask, gather, hedged, retried

from .conftest import Pair

pytestmark = pytest.mark.anyio

MODEL = "fake:budget"
PRICES = Prices(prompt=0.2, reused=0.02, answer=1.0)


class Say(BaseModel):
    """Ask the model for so many tokens."""

    tokens: int


class Pass(BaseModel):
    """Say something, then have another agent say something."""

    to: str
    tokens: int


class Crowd(BaseModel):
    """Have another agent say something, so many times at once."""

    to: str
    times: int
    shared: bool


class Stop(BaseModel):
    """Say something and fail."""

    tokens: int


class Hold(BaseModel):
    """Wait until told otherwise."""


class Left(BaseModel):
    """What a handler knew of its budget at first and in the end; None for no limit."""

    before: int | None
    after: int | None
    text: str = ""


def tokens_of(budget: Budget | None) -> int | None:
    return None if budget is None else budget.tokens


class Speaker(Agent):
    """Speak."""

    def __init__(self) -> None:
        self.held = anyio.Event()
        self.stopped_at: list[Budget | None] = []

    @handler
    async def say(self, say: Say, call: Call) -> Left:
        before = tokens_of(call.budget)
        text = await call.generate("go on", max_tokens=say.tokens, ignore_end=False)
        return Left(before=before, after=tokens_of(call.budget), text=text)

    @handler
    async def on(self, on: Pass, call: Call) -> Left:
        await call.generate("go on", max_tokens=on.tokens)
        return await call.request(on.to, Say(tokens=on.tokens), returns=Left)

    @handler
    async def crowd(self, crowd: Crowd, call: Call) -> int:
        asks = [Ask(crowd.to, Say(tokens=9), returns=Left)] * crowd.times
        if crowd.shared:
            return len((await gather(call, asks)).replies)
        answers: list[Left] = []

        async def ask() -> None:
            try:
                answers.append(await call.request(crowd.to, Say(tokens=9), returns=Left))
            except BudgetExceeded:
                pass

        async with anyio.create_task_group() as group:
            for _ in asks:
                group.start_soon(ask)
        return len(answers)

    @handler
    async def stop(self, stop: Stop, call: Call) -> str:
        await call.generate("go on", max_tokens=stop.tokens)
        raise ValueError("enough")

    @handler
    async def hold(self, hold: Hold, call: Call) -> str:
        self.held.set()
        await anyio.sleep_forever()
        return ""

    @handler
    async def both(self, both: tuple[int, int], call: Call) -> AsyncIterator[str]:
        for tokens in both:
            async with aclosing(call.generate_stream("go on", max_tokens=tokens)) as parts:
                async for part in parts:
                    yield part

    @handler
    async def over(self, to: str, call: Call) -> Left:
        await call.generate("go on", max_tokens=2)
        with pytest.raises(NoResponder):
            await call.handoff("nobody", Say(tokens=3))
        await call.handoff(to, Say(tokens=3))
        with pytest.raises(BudgetExceeded):
            await call.generate("and more", max_tokens=3)
        return Left(before=None, after=None)


@asynccontextmanager
async def speakers(
    pair: Pair, settings: BusSettings | None = None
) -> AsyncIterator[tuple[Bus, Bus, Speaker]]:
    """An engine and the agents a and b in one process, c in the one that asks."""
    async with pair.open(settings) as (host, asker):
        await host.serve(MODEL, EngineSettings(prices=PRICES))
        first = Speaker()
        await host.spawn(first, name="a", model=MODEL)
        await host.spawn(Speaker(), name="b", model=MODEL)
        await asker.spawn(Speaker(), name="c", model=MODEL)
        yield host, asker, first


def engine_tokens(host: Bus) -> int:
    """All tokens that the engine read and wrote."""
    reports = [r for r in host.report().agents if r.name.startswith("$model.")]
    return sum(r.reused_tokens + r.prefilled_tokens + r.decoded_tokens for r in reports)


async def prompt_size(asker: Bus, agent: str = "a") -> int:
    reply = await asker.call(agent, Say(tokens=1), returns=Left)
    assert (reply.value.before, reply.value.after) == (None, None)
    return reply.account.model.prompt_tokens


@pytest.mark.parametrize("agent", ["a", "c"])
@pytest.mark.promise("flow.budget")
async def test_an_answer_is_cut_and_a_prompt_over_the_budget_is_not_read(
    pair: Pair, agent: str
) -> None:
    async with speakers(pair) as (host, asker, _):
        prompt = await prompt_size(asker, agent)
        cut = await asker.call(agent, Say(tokens=9), budget=Budget(tokens=prompt + 4))
        assert cut.account.model.decoded_tokens == 4
        assert (cut.value.before, cut.value.after) == (prompt + 4, 0)
        before = engine_tokens(host)
        with pytest.raises(BudgetExceeded) as refused:
            await asker.request(agent, Say(tokens=9), budget=Budget(tokens=prompt))
        error = refused.value
        assert (error.what, error.allowed, error.spent) == ("tokens", prompt, 0)
        assert error.asked == prompt + 1
        assert engine_tokens(host) == before


async def test_the_error_says_what_was_spent_before(pair: Pair) -> None:
    async with speakers(pair) as (_, asker, _):
        prompt = await prompt_size(asker)
        with pytest.raises(BudgetExceeded) as refused:
            async with asker.stream("a", (2, 2), budget=Budget(tokens=prompt + 2)) as parts:
                async for _ in parts:
                    pass
        assert (refused.value.allowed, refused.value.spent) == (prompt + 2, prompt + 2)


async def test_costs_have_their_own_limit(pair: Pair) -> None:
    async with speakers(pair) as (_, asker, _):
        prompt = await prompt_size(asker)
        least = prompt * PRICES.prompt / 1000
        budget = Budget(cost=least + 5.5 * PRICES.answer / 1000)
        reply = await asker.call("a", Say(tokens=9), budget=budget)
        model = reply.account.model
        assert model.decoded_tokens == 5
        # What was reused is cheaper, so more is left than was reckoned with.
        paid = PRICES.cost(model.prefilled_tokens, model.reused_tokens, 5)
        assert model.cost == pytest.approx(paid)
        assert model.reused_tokens > 0
        with pytest.raises(BudgetExceeded, match="cost") as refused:
            await asker.request("a", Say(tokens=9), budget=Budget(cost=least))
        assert refused.value.allowed == round(least * 1e9) < refused.value.asked


async def test_each_hop_gets_what_is_left(pair: Pair) -> None:
    async with speakers(pair) as (host, asker, _):
        before = engine_tokens(host)
        purse = asker.within(Budget(tokens=500))
        left = await purse.request("a", Pass(to="b", tokens=5), returns=Left)
        spent = engine_tokens(host) - before
        assert left.before is not None and left.after is not None
        assert 500 > left.before > left.after == 500 - spent
        assert purse.budget == Budget(tokens=500 - spent)


async def test_what_needs_no_model_needs_no_budget(pair: Pair) -> None:
    async with speakers(pair) as (_, asker, _):
        assert await asker.request("a", Crowd(to="b", times=0, shared=True), budget=NONE) == 0
        with pytest.raises(BudgetExceeded):
            await asker.request("a", Say(tokens=1), budget=NONE)


NONE = Budget(tokens=0)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("allowed", [25, 120, 10_000])
async def test_ten_at_once_do_not_overspend(pair: Pair, shared: bool, allowed: int) -> None:
    async with speakers(pair) as (host, asker, _):
        before = engine_tokens(host)
        purse = asker.within(Budget(tokens=allowed))
        crowd = Crowd(to="b", times=10, shared=shared)
        answered = await purse.request("a", crowd, returns=int)
        spent = engine_tokens(host) - before
        assert spent <= allowed
        assert purse.budget == Budget(tokens=allowed - spent)
        if allowed == 10_000:
            # Without shares the first one has all until it ends.
            assert answered == 10 if shared else answered >= 1


async def test_a_request_gets_its_share_and_no_more(pair: Pair) -> None:
    async with speakers(pair) as (_, asker, _):
        purse = asker.within(Budget(tokens=100))
        small = await purse.request("a", Say(tokens=1), returns=Left, budget=Budget(tokens=50))
        large = await purse.request("a", Say(tokens=1), returns=Left, budget=Budget(tokens=1000))
        assert small.before == 50 and small.after is not None
        assert large.before == 100 - (50 - small.after)
        inner = purse.within(Budget(tokens=5))
        assert inner.budget == Budget(tokens=5)


async def test_streams_have_a_budget(pair: Pair) -> None:
    async with speakers(pair) as (host, asker, _):
        before = engine_tokens(host)
        purse = asker.within(Budget(tokens=200))
        async with purse.stream("a", (3, 4)) as parts:
            assert len([part async for part in parts]) == 7
        assert purse.budget == Budget(tokens=200 - (engine_tokens(host) - before))


async def test_a_stream_that_is_left_has_spent_what_it_was_given(pair: Pair) -> None:
    # One part at a time: the answer has not ended when it is left.
    async with speakers(pair, BusSettings(stream_parts=1)) as (_, asker, _):
        purse = asker.within(Budget(tokens=200))
        async with purse.stream("a", (3, 4), budget=Budget(tokens=150)) as parts:
            await anext(parts)
        assert purse.budget == Budget(tokens=50)


async def test_handing_over_passes_on_what_is_left(pair: Pair) -> None:
    async with speakers(pair) as (host, asker, _):
        before = engine_tokens(host)
        purse = asker.within(Budget(tokens=200))
        left = await purse.request("a", "b", returns=Left)
        spent = engine_tokens(host) - before
        assert left.after == 200 - spent
        assert purse.budget == Budget(tokens=200 - spent)


async def test_hedged_copies_share(pair: Pair) -> None:
    async with speakers(pair) as (host, asker, _):
        before = engine_tokens(host)
        purse = asker.within(Budget(tokens=200))
        with anyio.fail_after(5):
            reply = await hedged(purse, [Ask("a", Hold()), Ask("b", Say(tokens=3))], after=0)
        assert reply.value.before == 100
        spent = engine_tokens(host) - before
        assert purse.budget == Budget(tokens=100 - spent)


async def test_attempts_share(pair: Pair) -> None:
    async with speakers(pair, BusSettings(mailbox=1)) as (_, asker, first):
        purse = asker.within(Budget(tokens=200))
        with pytest.raises(NoResponder):
            await retried(purse, Ask("nobody", Say(tokens=1)), backoff=0.001)
        assert purse.budget == Budget(tokens=200)
        async with anyio.create_task_group() as group:
            group.start_soon(_ignore, asker, Hold())
            await first.held.wait()
            group.start_soon(_ignore, asker, Say(tokens=1))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(MailboxFull):
                await purse.request("a", Say(tokens=1))
            group.cancel_scope.cancel()
        assert purse.budget == Budget(tokens=200)


async def _ignore(asker: Bus, payload: BaseModel) -> None:
    await asker.request("a", payload)


async def test_an_error_tells_what_was_spent(pair: Pair) -> None:
    async with speakers(pair) as (host, asker, _):
        before = engine_tokens(host)
        purse = asker.within(Budget(tokens=200))
        with pytest.raises(HandlerFailed):
            await purse.request("a", Stop(tokens=3))
        spent = engine_tokens(host) - before
        assert purse.budget == Budget(tokens=200 - spent) != Budget(tokens=200)


async def test_who_does_not_wait_does_not_know_and_counts_all(pair: Pair) -> None:
    async with speakers(pair) as (_, asker, _):
        purse = asker.within(Budget(tokens=200))
        with pytest.raises(DeadlineExceeded):
            await purse.request("a", Hold(), deadline=0.1, budget=Budget(tokens=120))
        assert purse.budget == Budget(tokens=80)
        with pytest.raises(DeadlineExceeded):
            await purse.request("a", Hold(), deadline=0)
        assert purse.budget == Budget(tokens=80)  # that one was not sent


@pytest.mark.pure
async def test_what_is_no_budget_is_refused_by_name() -> None:
    async with Bus.open() as bus:
        for ask in (
            lambda: bus.request("nobody", 1, budget=5),  # type: ignore[call-overload]
            lambda: bus.within(5).request("nobody", 1),  # type: ignore[arg-type]
        ):
            with pytest.raises(ConfigError, match=r"^budget: must be a Budget"):
                await ask()
