"""An engine's choices against the scores of `transformers` for the same tokens.

Teacher-forced: the reference scores the prompt and the tokens that the engine chose, so that one
near-tie does not make all that follows differ.

In float32 an engine must choose the reference's best token wherever the gap between its two best
is over `MARGIN`. In bfloat16 no such margin holds: the reference's own scores move when it computes
in bfloat16. How far they move is measured on the same tokens; a choice may then lose, on the
reference's float32 scores, twice that, which is what two scores that are both off by so much can
hide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .patterns import Exchange

__all__ = [
    "MARGIN",
    "Drift",
    "Reference",
    "Verdict",
    "drift",
    "exact_verdict",
    "near_verdict",
    "total",
]

MARGIN = 1e-3
"""Gap between the reference's two best scores above which the choice must be the same."""
_CANDIDATES = 10
"""Best tokens of a position whose scores say how far bfloat16 moves them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison found, in tokens."""

    checked: int
    skipped: int
    """Near-ties, where either choice is right."""
    wrong: int
    differing: int
    """Choices that are not the reference's best token, right or wrong."""

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.checked + other.checked,
            self.skipped + other.skipped,
            self.wrong + other.wrong,
            self.differing + other.differing,
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """What bfloat16 does to the reference's own scores and choices."""

    largest: float
    """Largest move of the score of a token that is among a position's best."""
    differing: int
    """Positions at which its best token is another one."""


class Reference:
    """A model folder in `transformers`."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, never: Collection[int]) -> None:
        """Load it; tokens in `never` cannot be chosen, as the engine cannot choose ends."""
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self._never = torch.tensor(sorted(never), dtype=torch.int64)

    def scores(self, exchange: Exchange) -> Tensor:
        """Return the scores [answer, vocabulary] that each token was chosen from, in float32."""
        ids = torch.tensor([exchange.prompt + exchange.answer[:-1]])
        with torch.inference_mode():
            found: Tensor = self._model(ids, logits_to_keep=len(exchange.answer)).logits[0].float()
        return found.index_fill(1, self._never, -torch.inf)


def exact_verdict(exchange: Exchange, scores: Tensor) -> Verdict:
    """Judge the choices of an engine that computes in float32."""
    chosen = torch.tensor(exchange.answer)
    best = scores.topk(2).values
    sure = best[:, 0] - best[:, 1] > MARGIN
    differs = scores.argmax(-1) != chosen
    return Verdict(len(chosen), int((~sure).sum()), int((differs & sure).sum()), int(differs.sum()))


def near_verdict(exchange: Exchange, scores: Tensor, tolerance: float) -> Verdict:
    """Judge the choices of an engine that computes in bfloat16 by float32 scores."""
    chosen = torch.tensor(exchange.answer)
    lost = scores.max(-1).values - scores.gather(1, chosen[:, None])[:, 0]
    differs = scores.argmax(-1) != chosen
    return Verdict(len(chosen), 0, int((lost > tolerance).sum()), int(differs.sum()))


def drift(pairs: Iterable[tuple[Tensor, Tensor]]) -> Drift:
    """Compare the reference's float32 scores with its bfloat16 scores of the same positions."""
    largest, differing = 0.0, 0
    for exact, rounded in pairs:
        best = exact.topk(_CANDIDATES)
        moved = (best.values - rounded.gather(1, best.indices)).abs().max()
        largest = max(largest, float(moved))
        differing += int((exact.argmax(-1) != rounded.argmax(-1)).sum())
    return Drift(largest, differing)


def total(verdicts: Sequence[Verdict]) -> Verdict:
    """Add verdicts up."""
    return sum(verdicts, Verdict(0, 0, 0, 0))
