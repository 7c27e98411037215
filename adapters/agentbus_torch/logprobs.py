"""Log-probabilities of chosen tokens and of their alternatives, from a batch's scores."""

from __future__ import annotations

from collections.abc import Sequence as Rows

from torch import Tensor

__all__ = ["Reported", "rank", "report", "token_logprobs"]

Reported = tuple[float, tuple[tuple[int, float], ...]]
"""A token's log-probability; the most probable tokens with theirs, the best first."""


def token_logprobs(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities [rows] of tokens [rows], by scores [rows, vocabulary]."""
    return scores.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def rank(scores: Tensor, tokens: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `report` reads, by scores [rows, vocabulary] and tokens [rows]: the tokens'
    log-probabilities [rows], and the ids and log-probabilities of the `most` best ones [rows, n].
    """
    logprobs = scores.float().log_softmax(-1)
    best = logprobs.topk(min(most, scores.shape[-1]))
    return logprobs.gather(-1, tokens[:, None])[:, 0], best.indices, best.values


def report(ranked: Rows[Tensor], counts: Rows[int]) -> list[Reported]:
    """Return what is to be said of each row's token, with as many alternatives as `counts` says."""
    chosen, ids, values = (tensor.tolist() for tensor in ranked)
    return [
        (logprob, tuple(zip(row_ids[:count], row_values[:count], strict=True)))
        for logprob, row_ids, row_values, count in zip(chosen, ids, values, counts, strict=True)
    ]
