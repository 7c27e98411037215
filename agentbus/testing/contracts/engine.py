"""What every engine promises, whatever model it runs.

An engine of your own passes it so; the tests need anyio's plugin for pytest, which anyio brings:

    class TestOracle(EngineContract):
        async def open(self, settings):
            return await open_oracle("delphi", settings)
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest

from ...context import Prompt, Turn
from ...engine import Engine, GenerateRequest, Piece
from ...errors import BudgetExceeded, Closed, ContextTooLong, KVExhausted, MisuseError
from ...telemetry import Budget
from .answers import CUE, POOL_TOKENS, PRICES, AnswersContract, answer, ids, prompt

__all__ = ["POOL_TOKENS", "EngineContract"]


class EngineContract(AnswersContract):
    """Derive from it, and say in `open` how the engine is opened."""

    async def test_pieces_then_one_finished(self, engine: Engine) -> None:
        pieces, finished = await answer(
            engine, GenerateRequest(prompt=prompt("Tides."), max_tokens=9, ignore_end=True)
        )
        assert len(ids(pieces)) == finished.usage.decoded_tokens == 9
        assert finished.reason == "length"
        usage = finished.usage
        assert usage.prompt_tokens == usage.prefilled_tokens and usage.reused_tokens == 0
        assert usage.prompt_tokens == len(engine.tokenize(prompt("Tides.")))

    async def test_the_same_prompt_again_computes_one_token(self, engine: Engine) -> None:
        request = GenerateRequest(
            prompt=prompt("Tides rise and fall."), max_tokens=5, ignore_end=True
        )
        first, _ = await answer(engine, request)
        again, finished = await answer(engine, request)
        assert ids(again) == ids(first)
        assert finished.usage.prefilled_tokens == 1
        assert finished.usage.reused_tokens == finished.usage.prompt_tokens - 1

    async def test_an_answer_is_reused_as_a_turn(self, engine: Engine) -> None:
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

    async def test_without_reuse_nothing_is_used_or_kept(self, engine: Engine) -> None:
        request = GenerateRequest(
            prompt=prompt("Tides."), max_tokens=4, ignore_end=True, reuse=False
        )
        first, one = await answer(engine, request)
        second, two = await answer(engine, request)
        assert ids(first) == ids(second)
        assert one.usage.reused_tokens == two.usage.reused_tokens == 0
        assert engine.stats().cached_blocks == 0

    async def test_tenants_share_nothing(self, engine: Engine) -> None:
        for tenant in ("a", "b"):
            request = GenerateRequest(prompt=prompt("Tides."), max_tokens=2, tenant=tenant)
            _, finished = await answer(engine, request)
            assert finished.usage.reused_tokens == 0

    async def test_prefill_computes_ahead(self, engine: Engine) -> None:
        ahead = await engine.prefill(prompt("Tides rise and fall."))
        _, finished = await answer(
            engine, GenerateRequest(prompt=prompt("Tides rise and fall."), max_tokens=2)
        )
        assert ahead.prefilled_tokens == ahead.prompt_tokens > 0
        assert finished.usage.reused_tokens == ahead.prompt_tokens

    async def test_prefill_goes_into_a_turn_that_is_being_written(self, engine: Engine) -> None:
        said = prompt("Tides rise and fall.").turns
        begun = Turn("assistant", " The moon pulls at", "writer")
        whole = Turn("assistant", f"{begun.text} the sea twice a day.", "writer")
        ahead = await engine.prefill(Prompt(said, begun))
        _, finished = await answer(
            engine, GenerateRequest(prompt=Prompt((*said, whole), CUE), max_tokens=1)
        )
        assert finished.usage.reused_tokens == ahead.prompt_tokens
        assert ahead.prompt_tokens > len(engine.tokenize(Prompt(said, CUE)))

    async def test_a_prompt_is_shared_once_its_first_piece_came(self, engine: Engine) -> None:
        request = GenerateRequest(
            prompt=prompt("Tides rise and fall."), max_tokens=50, ignore_end=True
        )
        async with aclosing(engine.generate(request)) as first:
            await anext(first)
            _, finished = await answer(engine, replace(request, max_tokens=1))
        assert finished.usage.prefilled_tokens == 1

    async def test_forced_tokens_are_decoded(self, engine: Engine) -> None:
        forced = engine.tokenize(prompt("abc"))[-4:]
        pieces, finished = await answer(
            engine, GenerateRequest(prompt=prompt("Tides."), forced=forced, max_tokens=1)
        )
        assert ids(pieces) == forced
        assert finished.reason == "forced" and finished.usage.decoded_tokens == 4

    async def test_token_ids_are_a_prompt_too(self, engine: Engine) -> None:
        given = engine.tokenize(prompt("Tides."))
        by_text, _ = await answer(engine, GenerateRequest(prompt=prompt("Tides."), max_tokens=1))
        by_ids, finished = await answer(engine, GenerateRequest(prompt=given, max_tokens=1))
        assert finished.usage.prompt_tokens == len(given)
        if (
            engine.capabilities.model != "fake:"
        ):  # which answers what it is asked, not what it reads
            assert ids(by_ids) == ids(by_text)

    async def test_closing_a_stream_frees_its_blocks(self, engine: Engine) -> None:
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

    async def test_cancelling_the_task_frees_its_blocks(self, engine: Engine) -> None:
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

    async def test_many_calls_at_once_each_get_their_answer(self, engine: Engine) -> None:
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

    async def test_a_slow_reader_holds_up_nobody(self, engine: Engine) -> None:
        request = GenerateRequest(prompt=prompt("Tides."), max_tokens=40, ignore_end=True)
        async with aclosing(engine.generate(request)) as slow:
            await anext(slow)
            _, finished = await answer(
                engine, GenerateRequest(prompt=prompt("Moon."), max_tokens=2)
            )
            assert finished.usage.prompt_tokens > 0

    async def test_over_the_window(self, engine: Engine) -> None:
        window = engine.capabilities.window
        with pytest.raises(ContextTooLong) as caught:
            await answer(engine, GenerateRequest(prompt=prompt("Tides."), max_tokens=window))
        assert caught.value.tokens > window == caught.value.window

    async def test_over_the_pool(self, engine: Engine) -> None:
        long = prompt("word " * (POOL_TOKENS + 100))
        if len(engine.tokenize(long)) >= engine.capabilities.window:
            long = prompt("w " * (POOL_TOKENS // 2 + 100))
        with pytest.raises(KVExhausted):
            await answer(engine, GenerateRequest(prompt=long, max_tokens=1))
        _, finished = await answer(engine, GenerateRequest(prompt=prompt("Tides."), max_tokens=1))
        assert finished.usage.prompt_tokens > 0
        assert engine.stats().locked_blocks == 0

    async def test_an_empty_prompt_is_misuse(self, engine: Engine) -> None:
        with pytest.raises(MisuseError):
            await answer(engine, GenerateRequest(prompt=(), max_tokens=1))

    async def test_close_ends_running_calls(self, engine: Engine) -> None:
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

    async def test_an_answer_is_no_longer_than_the_budget_pays_for(self, engine: Engine) -> None:
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

    async def test_what_the_budget_does_not_pay_for_is_not_begun(self, engine: Engine) -> None:
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
