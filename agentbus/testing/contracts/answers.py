"""What every engine promises of its answers: where they stop, how probable they are, what they keep to.

It is the first half of `EngineContract`, from which engines' own tests derive.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
import pytest

from ...config import EngineSettings, Prices
from ...context import Prompt, Turn
from ...engine import (
    Embedder,
    Engine,
    Finished,
    GenerateRequest,
    Piece,
    Sampling,
    Scorer,
    ToolCall,
    embed,
    score,
)
from ...errors import BudgetExceeded, ConfigError, ContextTooLong, InvalidSchema, Unsupported
from ...telemetry import Budget

__all__ = ["CUE", "POOL_TOKENS", "PRICES", "AnswersContract", "answer", "ids", "prompt"]

POOL_TOKENS = 2048
"""Tokens of the KV pool in these tests, in blocks of 16."""
CUE = Turn("assistant", "", "writer")
"""Opens the answers in these tests."""
PRICES = Prices(prompt=1.0, reused=0.1, answer=2.0)
"""What tokens cost in these tests."""


def prompt(*texts: str) -> Prompt:
    """Return texts as user turns, and a cue."""
    return Prompt(tuple(Turn("user", text) for text in texts), CUE)


async def answer(engine: Engine, request: GenerateRequest) -> tuple[list[Piece], Finished]:
    """Read a whole answer."""
    pieces: list[Piece] = []
    with anyio.fail_after(20):
        async with aclosing(engine.generate(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    return pieces, item
                pieces.append(item)
    raise AssertionError("the stream ended without Finished")


def ids(pieces: list[Piece]) -> tuple[int, ...]:
    """Return the tokens of pieces."""
    return tuple(token for piece in pieces for token in piece.token_ids)


class AnswersContract:
    """Derive from it, and say in `open` how the engine is opened."""

    pytestmark = pytest.mark.anyio

    async def open(self, settings: EngineSettings) -> Engine:
        """Open the engine: a pool as `settings` says, a window of 4096 tokens at least."""
        raise NotImplementedError

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, bool]]:
        """The event loop that agentbus runs on."""
        return "asyncio", {"use_uvloop": True}

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        """The engine, open."""
        settings = EngineSettings(
            dtype="float32", kv_tokens=POOL_TOKENS, block_size=16, threads=1, prices=PRICES
        )
        opened = await self.open(settings)
        yield opened
        await opened.aclose()

    async def test_a_stop_text_ends_an_answer_and_is_not_shown(self, engine: Engine) -> None:
        asked = GenerateRequest(prompt=prompt("Tides."), max_tokens=12, ignore_end=True)
        pieces, _ = await answer(engine, asked)
        text = "".join(piece.text for piece in pieces)
        for start in (0, 1, len(text) // 2):
            stop = text[start : start + 3]
            cut, finished = await answer(engine, replace(asked, stop=("never said", stop)))
            assert "".join(piece.text for piece in cut) == text[: text.find(stop)]
            assert (finished.reason, finished.stop) == ("stop", stop)
            assert len(ids(cut)) == finished.usage.decoded_tokens <= 12
            assert ids(cut) == ids(pieces)[: len(ids(cut))]
        whole, finished = await answer(engine, replace(asked, stop=(text + "…",)))
        assert "".join(piece.text for piece in whole) == text  # what was held back is not lost
        assert (finished.reason, finished.stop) == ("length", "")

    async def test_log_probabilities_come_with_their_tokens(self, engine: Engine) -> None:
        asked = GenerateRequest(prompt=prompt("Tides."), max_tokens=5, ignore_end=True)
        plain, _ = await answer(engine, asked)
        assert not any(piece.logprobs for piece in plain)
        pieces, _ = await answer(engine, replace(asked, logprobs=4))
        assert ids(pieces) == ids(plain)
        for piece in pieces:
            assert [one.token for one in piece.logprobs] == list(piece.token_ids)
            for one in piece.logprobs:
                values = [other.logprob for other in one.top]
                assert 1 <= len(one.top) <= 4 and values == sorted(values, reverse=True)
                assert one.logprob <= values[0] <= 0

    async def test_a_seed_gives_the_same_answer_in_any_company(self, engine: Engine) -> None:
        warm = Sampling(temperature=1.0, top_p=0.95, presence_penalty=0.5, seed=5)
        asked = GenerateRequest(
            prompt=prompt("Tides."), max_tokens=12, ignore_end=True, sampling=warm
        )
        alone = ids((await answer(engine, asked))[0])
        found: list[tuple[int, ...]] = []

        async def ask(request: GenerateRequest) -> None:
            pieces, _ = await answer(engine, request)
            if request == asked:
                found.append(ids(pieces))

        async with anyio.create_task_group() as group:
            for seed in (1, 2, 5, 3, 5):
                other = replace(asked, sampling=replace(warm, seed=seed))
                group.start_soon(ask, other if seed == 5 else replace(other, max_tokens=seed * 5))
        assert found == [alone, alone]
        if engine.capabilities.sampling:
            other = replace(asked, sampling=replace(warm, seed=6))
            assert ids((await answer(engine, other))[0]) != alone

    async def test_a_score_is_what_forced_tokens_would_have(self, engine: Engine) -> None:
        if not isinstance(engine, Scorer):
            with pytest.raises(Unsupported):
                await score(engine, prompt("Tides."), ["rise"])
            return
        given = [engine.tokenize(prompt(text))[-6:] for text in ("abc", "ab", "xyz")]
        asked = prompt("Tides.")
        result = await score(engine, asked, given)
        found = result.scores
        size = len(engine.tokenize(asked))
        assert result.usage.prompt_tokens == sum(size + len(one) - 1 for one in given)
        assert result.usage.reused_tokens >= 2 * (size - 1)
        assert result.usage.decoded_tokens == 0
        assert [one.token_ids for one in found] == given
        for one in found:
            request = GenerateRequest(prompt=asked, forced=one.token_ids, logprobs=1)
            pieces, _ = await answer(engine, request)
            forced = [token.logprob for piece in pieces for token in piece.logprobs]
            assert one.logprobs == pytest.approx(forced, abs=1e-4)
            assert one.logprob == pytest.approx(sum(forced), abs=1e-3)
        again = (await score(engine, asked, list(reversed(given)))).scores
        assert [one.logprob for one in reversed(again)] == pytest.approx(
            [one.logprob for one in found], abs=1e-4
        )
        (by_text,) = (await score(engine, asked, [" rise and fall"])).scores
        assert len(by_text.logprobs) == len(by_text.token_ids) > 1
        assert engine.stats().locked_blocks == engine.stats().running == 0

    async def test_what_cannot_be_scored_is_an_error(self, engine: Engine) -> None:
        if isinstance(engine, Scorer):
            window = engine.capabilities.window
            nonsense: list[Any] = [[], [""], ["a", ""], ["a"] * 5000, "abc", [7], [[1]], [("a",)]]
            for continuations in nonsense:
                with pytest.raises(ConfigError):
                    await engine.score(prompt("Tides."), continuations)
            with pytest.raises(ContextTooLong):
                await engine.score(prompt("Tides."), [(1,) * (window + 1)])
            assert engine.stats().locked_blocks == 0

    async def test_a_budget_pays_for_scores_and_vectors(self, engine: Engine) -> None:
        if not (isinstance(engine, Scorer) and isinstance(engine, Embedder)):
            return
        asked, ids = prompt("Tides."), (1, 2, 3)
        need = 2 * (len(engine.tokenize(asked)) + 2)
        found = await engine.score(asked, [ids, ids], budget=Budget(tokens=need))
        assert found.usage.prompt_tokens == need
        whole = (await engine.embed(["Tides rise."])).usage.prompt_tokens
        await engine.embed(["Tides rise."], budget=Budget(tokens=whole))
        cached = engine.stats().cached_blocks
        for what, least in (("tokens", Budget(tokens=need - 1)), ("cost", Budget(cost=1e-6))):
            with pytest.raises(BudgetExceeded) as refused:
                await engine.score(prompt("Moon and sun."), [ids, ids], budget=least)
            assert refused.value.what == what
        with pytest.raises(BudgetExceeded):
            await engine.embed(["Tides rise."], budget=Budget(tokens=whole - 1))
        assert engine.stats().cached_blocks == cached  # nothing was begun

    async def test_equal_texts_have_equal_vectors(self, engine: Engine) -> None:
        if not isinstance(engine, Embedder):
            with pytest.raises(Unsupported):
                await embed(engine, ["Tides."])
            return
        texts = ["Tides rise and fall.", "The moon.", "Tides rise and fall."]
        found = await embed(engine, texts)
        vectors, usage = found.vectors, found.usage
        assert usage.prompt_tokens == usage.prefilled_tokens > 0 == usage.reused_tokens
        assert len({len(vector) for vector in vectors}) == 1
        for vector in vectors:
            assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
        assert vectors[0] == pytest.approx(vectors[2], abs=1e-6)
        assert math.dist(vectors[0], vectors[1]) > 1e-3
        nonsense: list[Any] = [[], [""], "abc", ["a", 7], ["a"] * 5000]
        for wrong in nonsense:
            with pytest.raises(ConfigError):
                await engine.embed(wrong)
        assert engine.stats().cached_blocks == engine.stats().locked_blocks == 0

    async def test_a_schema_is_kept_to_or_refused(self, engine: Engine) -> None:
        schema = {"enum": ["spring", "neap", 7]}
        asked = GenerateRequest(prompt=prompt("Tides."), max_tokens=40, schema=schema)
        tools = ({"name": "tide", "parameters": {"enum": [{"port": "Brest"}]}},)
        call = GenerateRequest(
            prompt=prompt("Tides."), max_tokens=200, tools=tools, tool_choice="tide"
        )
        if not engine.capabilities.schema:
            for request in (asked, call):
                with pytest.raises((Unsupported, ConfigError)):
                    await answer(engine, request)
            assert engine.stats().locked_blocks == 0
            return
        pieces, finished = await answer(engine, asked)
        assert json.loads("".join(piece.text for piece in pieces)) in schema["enum"]
        assert finished.reason == "end"
        pieces, finished = await answer(engine, call)
        assert finished.reason == "tool_calls"
        assert finished.tool_calls == (ToolCall("tide", {"port": "Brest"}),)
        assert not "".join(piece.text for piece in pieces).strip()
        with pytest.raises(InvalidSchema):
            await answer(engine, replace(asked, schema={"type": "tide"}))
        assert engine.stats().locked_blocks == 0
