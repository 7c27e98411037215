"""Log-probabilities of chosen tokens and of their alternatives, from a batch's scores."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

__all__ = ["Reported", "report", "token_logprobs"]

Reported = tuple[float, tuple[tuple[int, float], ...]]
"""A token's log-probability; the most probable tokens with theirs, the best first."""


def token_logprobs(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities [rows] of tokens [rows], by scores [rows, vocabulary]."""
    return scores.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def report(scores: Tensor, tokens: Rows[int], counts: Rows[int]) -> list[Reported]:
    """Return what is to be said of each row's token, with as many alternatives as `counts` says."""
    logprobs = scores.float().log_softmax(-1)
    index = torch.tensor(tokens, device=scores.device)[:, None]
    chosen = logprobs.gather(-1, index)[:, 0].tolist()
    best = logprobs.topk(min(max(counts), scores.shape[-1]))
    ids, values = best.indices.tolist(), best.values.tolist()
    return [
        (logprob, tuple(zip(row_ids[:count], row_values[:count], strict=True)))
        for logprob, row_ids, row_values, count in zip(chosen, ids, values, counts, strict=True)
    ]
