"""What every engine promises, over all engines that run without a real model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from agentbus.config import EngineSettings, Prices
from agentbus.context import Prompt, Turn
from agentbus.engine import Engine, Finished, GenerateRequest, Piece, open_engine
from agentbus.errors import BudgetExceeded, Closed, ContextTooLong, KVExhausted, MisuseError
from agentbus.telemetry import Budget
from tests.torch.tiny import TinyModel

CUE = Turn("assistant", "", "writer")
POOL_TOKENS = 2048
PRICES = Prices(prompt=1.0, reused=0.1, answer=2.0)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(window=4096).write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=["fake", "torch"])
async def engine(request: pytest.FixtureRequest, tiny_folder: Path) -> AsyncIterator[Engine]:
    spec = "fake:" if request.param == "fake" else f"torch:{tiny_folder}"
    settings = EngineSettings(kv_tokens=POOL_TOKENS, block_size=16, threads=1, prices=PRICES)
    opened = await open_engine(spec, settings)
    yield opened
    await opened.aclose()


def prompt(*texts: str) -> Prompt:
    return Prompt(tuple(Turn("user", text) for text in texts), CUE)


async def answer(engine: Engine, request: GenerateRequest) -> tuple[list[Piece], Finished]:
    pieces: list[Piece] = []
    with anyio.fail_after(20):
        async with aclosing(engine.generate(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    return pieces, item
                pieces.append(item)
    raise AssertionError("the stream ended without Finished")


def ids(pieces: list[Piece]) -> tuple[int, ...]:
    return tuple(token for piece in pieces for token in piece.token_ids)


@pytest.mark.anyio
async def test_pieces_then_one_finished(engine: Engine) -> None:
    pieces, finished = await answer(
        engine, GenerateRequest(prompt=prompt("Tides."), max_tokens=9, ignore_end=True)
    )
    assert len(ids(pieces)) == finished.usage.decoded_tokens == 9
    assert finished.reason == "length"
    usage = finished.usage
    assert usage.prompt_tokens == usage.prefilled_tokens and usage.reused_tokens == 0
    assert usage.prompt_tokens == len(engine.tokenize(prompt("Tides.")))


@pytest.mark.anyio
async def test_the_same_prompt_again_computes_one_token(engine: Engine) -> None:
    request = GenerateRequest(prompt=prompt("Tides rise and fall."), max_tokens=5, ignore_end=True)
    first, _ = await answer(engine, request)
    again, finished = await answer(engine, request)
    assert ids(again) == ids(first)
    assert finished.usage.prefilled_tokens == 1
    assert finished.usage.reused_tokens == finished.usage.prompt_tokens - 1


@pytest.mark.anyio
async def test_an_answer_is_reused_as_a_turn(engine: Engine) -> None:
    said = prompt("Tides rise and fall.")
    request = GenerateRequest(prompt=said, max_tokens=12, ignore_end=True)
    pieces, first = await answer(engine, request)
    text = "".join(piece.text for piece in pieces)
    later = Prompt((*said.turns, Turn("assistant", text, "writer")), Turn("assistant", "", "b"))
    _, finished = await answer(engine, GenerateRequest(prompt=later, max_tokens=1))
    # all but the last token of the answer, whose KV nobody needed so far
    assert finished.usage.reused_tokens == first.usage.prompt_tokens + 11
    assert finished.usage.prompt_tokens == (
        finished.usage.reused_tokens + finished.usage.prefilled_tokens
    )


@pytest.mark.anyio
async def test_without_reuse_nothing_is_used_or_kept(engine: Engine) -> None:
    request = GenerateRequest(prompt=prompt("Tides."), max_tokens=4, ignore_end=True, reuse=False)
    first, one = await answer(engine, request)
    second, two = await answer(engine, request)
    assert ids(first) == ids(second)
    assert one.usage.reused_tokens == two.usage.reused_tokens == 0
    assert engine.stats().cached_blocks == 0


@pytest.mark.anyio
async def test_tenants_share_nothing(engine: Engine) -> None:
    for tenant in ("a", "b"):
        request = GenerateRequest(prompt=prompt("Tides."), max_tokens=2, tenant=tenant)
        _, finished = await answer(engine, request)
        assert finished.usage.reused_tokens == 0


@pytest.mark.anyio
async def test_prefill_computes_ahead(engine: Engine) -> None:
    ahead = await engine.prefill(prompt("Tides rise and fall."))
    _, finished = await answer(
        engine, GenerateRequest(prompt=prompt("Tides rise and fall."), max_tokens=2)
    )
    assert ahead.prefilled_tokens == ahead.prompt_tokens > 0
    assert finished.usage.reused_tokens == ahead.prompt_tokens


@pytest.mark.anyio
async def test_forced_tokens_are_decoded(engine: Engine) -> None:
    forced = engine.tokenize(prompt("abc"))[-4:]
    pieces, finished = await answer(
        engine, GenerateRequest(prompt=prompt("Tides."), forced=forced, max_tokens=1)
    )
    assert ids(pieces) == forced
    assert finished.reason == "forced" and finished.usage.decoded_tokens == 4


@pytest.mark.anyio
async def test_token_ids_are_a_prompt_too(engine: Engine) -> None:
    given = engine.tokenize(prompt("Tides."))
    by_text, _ = await answer(engine, GenerateRequest(prompt=prompt("Tides."), max_tokens=1))
    by_ids, finished = await answer(engine, GenerateRequest(prompt=given, max_tokens=1))
    assert finished.usage.prompt_tokens == len(given)
    if engine.capabilities.model != "fake:":  # which answers what it is asked, not what it reads
        assert ids(by_ids) == ids(by_text)


@pytest.mark.anyio
async def test_closing_a_stream_frees_its_blocks(engine: Engine) -> None:
    request = GenerateRequest(prompt=prompt("Tides."), max_tokens=1000, ignore_end=True)
    with anyio.fail_after(20):
        async with aclosing(engine.generate(request)) as items:
            await anext(items)
            assert engine.stats().locked_blocks > 0
        stats = engine.stats()
    assert stats.locked_blocks == stats.running == stats.waiting == 0
    assert stats.free_blocks + stats.cached_blocks == stats.total_blocks
    _, finished = await answer(engine, GenerateRequest(prompt=prompt("Tides."), max_tokens=1))
    assert finished.usage.prefilled_tokens == 1  # what was computed stayed


@pytest.mark.anyio
async def test_cancelling_the_task_frees_its_blocks(engine: Engine) -> None:
    started = anyio.Event()

    async def read() -> None:
        request = GenerateRequest(prompt=prompt("Tides."), max_tokens=1000, ignore_end=True)
        async with aclosing(engine.generate(request)) as items:
            async for _ in items:
                started.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await started.wait()
            group.cancel_scope.cancel()
    assert engine.stats().locked_blocks == engine.stats().running == 0


@pytest.mark.anyio
async def test_many_calls_at_once_each_get_their_answer(engine: Engine) -> None:
    alone: dict[str, tuple[int, ...]] = {}
    together: dict[str, tuple[int, ...]] = {}
    texts = [f"Harbour {number} has a tide." for number in range(6)]

    async def ask(text: str, into: dict[str, tuple[int, ...]]) -> None:
        request = GenerateRequest(prompt=prompt(text), max_tokens=6, ignore_end=True)
        into[text] = ids((await answer(engine, request))[0])

    async with anyio.create_task_group() as group:
        for text in texts:
            group.start_soon(ask, text, together)
    for text in texts:
        await ask(text, alone)
    assert together == alone
    assert engine.stats().finished == 12


@pytest.mark.anyio
async def test_a_slow_reader_holds_up_nobody(engine: Engine) -> None:
    request = GenerateRequest(prompt=prompt("Tides."), max_tokens=40, ignore_end=True)
    async with aclosing(engine.generate(request)) as slow:
        await anext(slow)
        _, finished = await answer(engine, GenerateRequest(prompt=prompt("Moon."), max_tokens=2))
        assert finished.usage.prompt_tokens > 0


@pytest.mark.anyio
async def test_over_the_window(engine: Engine) -> None:
    window = engine.capabilities.window
    with pytest.raises(ContextTooLong) as caught:
        await answer(engine, GenerateRequest(prompt=prompt("Tides."), max_tokens=window))
    assert caught.value.tokens > window == caught.value.window


@pytest.mark.anyio
async def test_over_the_pool(engine: Engine) -> None:
    long = prompt("word " * (POOL_TOKENS + 100))
    if len(engine.tokenize(long)) >= engine.capabilities.window:
        long = prompt("w " * (POOL_TOKENS // 2 + 100))
    with pytest.raises(KVExhausted):
        await answer(engine, GenerateRequest(prompt=long, max_tokens=1))
    _, finished = await answer(engine, GenerateRequest(prompt=prompt("Tides."), max_tokens=1))
    assert finished.usage.prompt_tokens > 0
    assert engine.stats().locked_blocks == 0


@pytest.mark.anyio
async def test_an_empty_prompt_is_misuse(engine: Engine) -> None:
    with pytest.raises(MisuseError):
        await answer(engine, GenerateRequest(prompt=(), max_tokens=1))


@pytest.mark.anyio
async def test_close_ends_running_calls(engine: Engine) -> None:
    request = GenerateRequest(prompt=prompt("Tides."), max_tokens=1500, ignore_end=True)
    with anyio.fail_after(20):
        async with aclosing(engine.generate(request)) as items:
            await anext(items)
            await engine.aclose()
            with pytest.raises(Closed):
                async for item in items:
                    assert isinstance(item, Piece)
    with pytest.raises(Closed):
        await answer(engine, request)


@pytest.mark.anyio
@pytest.mark.promise("flow.budget")
async def test_an_answer_is_no_longer_than_the_budget_pays_for(engine: Engine) -> None:
    asked = prompt("Tides rise and fall.")
    size = len(engine.tokenize(asked))
    assert engine.capabilities.prices == PRICES
    for budget in (Budget(tokens=size + 3), Budget(cost=(size * 1.0 + 3.9 * 2.0) / 1000)):
        request = GenerateRequest(prompt=asked, max_tokens=9, budget=budget)
        pieces, finished = await answer(engine, request)
        assert len(ids(pieces)) == finished.usage.decoded_tokens == 3
        assert finished.reason == "length"
    ample = GenerateRequest(prompt=asked, max_tokens=4, budget=Budget(tokens=10_000, cost=5))
    _, finished = await answer(engine, ample)
    assert finished.usage.decoded_tokens == 4


@pytest.mark.anyio
@pytest.mark.promise("flow.budget")
async def test_what_the_budget_does_not_pay_for_is_not_begun(engine: Engine) -> None:
    asked = prompt("Tides rise and fall.")
    size = len(engine.tokenize(asked))
    for what, budget in (
        ("tokens", Budget(tokens=size)),
        ("cost", Budget(cost=size * 1.0 / 1000)),
    ):
        with pytest.raises(BudgetExceeded) as refused:
            await answer(engine, GenerateRequest(prompt=asked, max_tokens=9, budget=budget))
        assert refused.value.what == what
    whole = Budget(tokens=size + 5)
    for request in (
        GenerateRequest(prompt=asked, max_tokens=6, ignore_end=True, budget=whole),
        GenerateRequest(prompt=asked, forced=(1,) * 6, budget=whole),
    ):
        with pytest.raises(BudgetExceeded):
            await answer(engine, request)
    stats = engine.stats()
    assert stats.cached_blocks == stats.locked_blocks == stats.finished == 0
