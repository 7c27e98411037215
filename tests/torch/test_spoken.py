"""Stops, calls, log-probabilities, scores and vectors of the torch engine, on the tiny model."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agentbus_torch.choose import Chosen
from agentbus_torch.embed import MeanPool
from agentbus_torch.engine import TorchEngine, load_engine
from agentbus_torch.score import ContinuationScore
from agentbus_torch.spoken import Spoken
from agentbus_torch.tokens import Vocabulary
from agentbus_torch.tool_calls import FORMATS
from tokenizers import AddedToken, Tokenizer

from agentbus.engine import GenerateRequest, Piece, Sampling, ToolCall, Usage
from agentbus.errors import ContextTooLong, MisuseError
from agentbus.testing.contracts.answers import answer, ids, prompt
from tests.torch.test_model import reference_logits
from tests.torch.tiny import TinyModel, tiny_settings, write_tokenizer

SAID = prompt("Tides rise and fall.")
TOOLS = ({"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}},)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(window=1024).write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[TorchEngine]:
    opened = load_engine(str(folder), tiny_settings(kv_tokens=2048))
    yield opened
    await opened.aclose()


def make_spoken(folder: Path, request: GenerateRequest, kind: str = "hermes") -> Spoken:
    return Spoken(request, Vocabulary.load(folder), FORMATS[kind])


def say(spoken: Spoken, vocabulary: Vocabulary, text: str) -> list[Piece]:
    return [spoken.add(Chosen(token, ends=False)) for token in vocabulary.markup(text)]


CALL = '<tool_call>\n{"name": "tide", "arguments": {"port": "é"}}\n</tool_call>'


@pytest.mark.parametrize("reason", ["end", "length"])
def test_calls_are_taken_out_of_the_answer(reason: str, folder: Path) -> None:
    vocabulary = Vocabulary.load(folder)
    said = make_spoken(folder, GenerateRequest(prompt=SAID, tools=TOOLS))
    pieces = say(said, vocabulary, "I look. " + CALL)
    rest, finished = said.end(reason, Usage())
    assert "".join(piece.text for piece in pieces) + rest == "I look. "
    assert finished.tool_calls == (ToolCall("tide", {"port": "é"}),)
    assert finished.reason == ("tool_calls" if reason == "end" else "length")
    assert said.spoken() == ("I look. " + CALL, vocabulary.markup("I look. " + CALL))


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest(prompt=SAID),
        GenerateRequest(prompt=SAID, tools=TOOLS, tool_choice="none"),
    ],
)
def test_without_tools_a_call_is_text(request_: GenerateRequest, folder: Path) -> None:
    said = make_spoken(folder, request_)
    pieces = say(said, Vocabulary.load(folder), CALL)
    rest, finished = said.end("end", Usage())
    assert "".join(piece.text for piece in pieces) + rest == CALL
    assert (finished.reason, finished.tool_calls, finished.malformed_calls) == ("end", (), 0)


def test_a_malformed_call_is_shown_and_counted(folder: Path) -> None:
    said = make_spoken(folder, GenerateRequest(prompt=SAID, tools=TOOLS))
    text = '<tool_call>{"name": "moon"}</tool_call>'
    shown = "".join(piece.text for piece in say(said, Vocabulary.load(folder), text))
    rest, finished = said.end("end", Usage())
    assert shown + rest == text
    assert (finished.reason, finished.malformed_calls) == ("end", 1)


def test_tags_that_are_special_tokens_are_seen(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    path = str(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True, normalized=False)])
    tokenizer.save(path)
    vocabulary = Vocabulary.load(tmp_path)
    said = make_spoken(tmp_path, GenerateRequest(prompt=SAID, tools=TOOLS), "mistral")
    text = 'Well, [TOOL_CALLS][{"name": "tide", "arguments": {}}]'
    assert len(vocabulary.markup(text)) < len(vocabulary.plain(text))
    shown = "".join(piece.text for piece in say(said, vocabulary, text))
    rest, finished = said.end("end", Usage())
    assert (shown + rest, finished.tool_calls) == ("Well, ", (ToolCall("tide", {}),))


@pytest.mark.parametrize(
    ("stop", "text", "kept"),
    [
        ("END", "so it is ", True),
        ("it", "so ", True),
        ("h", "so it is ENDed wit", False),  # within the token `th`
        ("never", "so it is ENDed with", True),
    ],
)
def test_ids_of_a_stopped_answer_are_exactly_its_text(
    stop: str, text: str, kept: bool, folder: Path
) -> None:
    vocabulary = Vocabulary.load(folder)
    said = make_spoken(folder, GenerateRequest(prompt=SAID, stop=(stop,)))
    for token in vocabulary.plain("so it is ENDed with"):
        said.add(Chosen(token, ends=False))
        if said.stopped:
            break
    assert said.stopped == (stop != "never")
    said.end("end", Usage())
    assert said.spoken() == (text, vocabulary.plain(text) if kept else ())


def test_what_is_held_back_at_the_end_is_shown(folder: Path) -> None:
    request = GenerateRequest(prompt=SAID, tools=TOOLS, stop=("END.",))
    said = make_spoken(folder, request)
    shown = "".join(piece.text for piece in say(said, Vocabulary.load(folder), "so <tool END"))
    rest, finished = said.end("length", Usage())
    assert (shown, rest, finished.reason) == ("so <tool ", "END", "length")


@pytest.mark.anyio
async def test_log_probabilities_are_those_of_transformers(
    engine: TorchEngine, folder: Path
) -> None:
    given = engine.tokenize(SAID)
    warm = Sampling(temperature=1.0, seed=3, repetition_penalty=1.2)
    request = GenerateRequest(prompt=given, max_tokens=12, sampling=warm, logprobs=5)
    pieces, _ = await answer(engine, replace(request, ignore_end=True))
    said = ids(pieces)
    expected = reference_logits(folder, given + said).log_softmax(-1)[len(given) - 1 : -1]
    told = [piece for piece in pieces if piece.token_ids]  # the last one may be text held back
    for row, piece in zip(expected, told, strict=True):
        (found,) = piece.logprobs
        assert found.logprob == pytest.approx(float(row[found.token]), abs=1e-4)
        best = row.topk(5).values.tolist()
        assert [other.logprob for other in found.top] == pytest.approx(best, abs=1e-4)


@pytest.mark.anyio
async def test_scores_are_those_of_transformers(engine: TorchEngine, folder: Path) -> None:
    given = engine.tokenize(SAID)
    texts = [" The moon pulls.", " x", " Ebb and flow. " * 30]
    scores = (await engine.score(SAID, texts)).scores
    for text, found in zip(texts, scores, strict=True):
        assert found.token_ids == engine._loaded.vocabulary.plain(text)
        prompt_ids = engine._loaded.encoder.encode(SAID)
        logits = reference_logits(folder, prompt_ids + found.token_ids).log_softmax(-1)
        rows = logits[len(prompt_ids) - 1 : -1]
        expected = rows.gather(-1, torch.tensor(found.token_ids)[:, None])[:, 0].tolist()
        assert found.logprobs == pytest.approx(expected, abs=2e-4)
    again = (await engine.score(SAID, texts)).scores
    assert again[2].logprobs == pytest.approx(scores[2].logprobs)
    (one_token_prompt,) = (await engine.score(given[:1], [given[1:5]])).scores
    assert len(one_token_prompt.logprobs) == 4
    engine._runner.check_integrity()


@pytest.mark.anyio
async def test_scoring_reuses_the_prompt(engine: TorchEngine) -> None:
    _, before = await answer(engine, GenerateRequest(prompt=SAID, max_tokens=1, ignore_end=True))
    await engine.score(SAID, ["one", "two"])
    _, after = await answer(engine, GenerateRequest(prompt=SAID, max_tokens=1, ignore_end=True))
    assert after.usage.reused_tokens == before.usage.prompt_tokens - 1


@pytest.mark.anyio
async def test_what_cannot_be_scored_or_embedded(engine: TorchEngine) -> None:
    for wrong in ((10**6,), (5, -1)):
        with pytest.raises(MisuseError):
            await engine.score(SAID, [wrong])
    with pytest.raises(ContextTooLong):
        await engine.embed(["tide " * 2000])
    assert engine.stats().locked_blocks == engine.stats().running == 0


@pytest.mark.anyio
async def test_vectors_are_the_mean_of_the_last_hidden_states(
    engine: TorchEngine, folder: Path
) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    texts = ["Tides.", "The harbour master looked at the clock. " * 12]
    for text, vector in zip(texts, (await engine.embed(texts)).vectors, strict=True):
        tokens = torch.tensor([engine._loaded.vocabulary.plain(text)])
        with torch.inference_mode():
            mean = model(tokens).last_hidden_state[0].mean(0)
        assert vector == pytest.approx((mean / mean.norm()).tolist(), abs=1e-4)
        assert math.hypot(*vector) == pytest.approx(1)


@pytest.mark.parametrize("chunks", [[10], [3, 7], [1] * 10, [4, 1, 5]])
def test_a_score_does_not_hang_on_chunks(chunks: list[int]) -> None:
    table = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    tokens = [5, 0, 2, 2, 1]
    score = ContinuationScore(6, tokens, lambda hidden: hidden)
    start = 0
    for size in chunks:
        score.take(start, table[start : start + size])
        start += size
    rows = table[5:].log_softmax(-1)
    expected = [float(rows[n, token]) for n, token in enumerate(tokens)]
    assert score.logprobs == pytest.approx(expected)
    score.take(4, table[4:])  # computed again, since the call was put back
    assert len(score.logprobs) == 5


def test_hidden_states_may_come_again_but_not_late() -> None:
    table = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    once, twice = (MeanPool(lambda hidden: hidden) for _ in range(2))
    once.take(0, table)
    twice.take(0, table[:5])
    twice.take(0, table[:3])
    twice.take(3, table[3:])
    assert twice.vector() == pytest.approx(once.vector(), abs=1e-6)
    for sink in (MeanPool(lambda hidden: hidden), ContinuationScore(1, [1], lambda hidden: hidden)):
        with pytest.raises(ValueError, match="left out"):
            sink.take(1, table[1:])
