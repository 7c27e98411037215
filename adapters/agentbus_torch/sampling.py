"""From a batch's scores to its next tokens: penalties, temperature, cuts, and the draw.

All rows of a batch are worked on together, on the device of their scores. Random numbers are
counted, not drawn from a stream: the n-th token of a call depends on its seed and on n alone, so
that what else is in the batch, or a call that was put back and began again, changes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence as Rows

import numpy
import torch
from blake3 import blake3
from torch import Tensor

from agentbus.engine.sampling import Sampling

from .transfer import upload

__all__ = ["UNDECIDED", "Penalties", "cut", "cut_all", "draw", "draw_all", "penalise", "uniform"]

UNDECIDED = -1
"""In the place of a token that takes more than a first look."""
_FIRST_LOOK = 256
"""Tokens that are looked at before all of them are: most cuts leave fewer."""
_COLDEST = 1e-6
"""Temperatures under this one are this one; only the best token is left either way."""
_RANDOM_BITS = 48
"""Fewer than a double's 53, so that a number times a sum is always less than the sum."""


class Penalties:
    """What one call has read and said, for its penalties."""

    def __init__(self, prompt: Rows[int], device: torch.device) -> None:
        """Begin behind a prompt."""
        self._places = {token: place for place, token in enumerate(dict.fromkeys(prompt))}
        self.ids = torch.tensor(list(self._places), dtype=torch.int64, device=device)
        """The tokens of prompt and answer, each once."""
        self.counts = torch.zeros(len(self._places), device=device)
        """How often each stands in the answer."""

    def add(self, token: int) -> None:
        """Count a token of the answer."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self.ids):
            self.ids = torch.cat((self.ids, self.ids.new_tensor([token])))
            self.counts = torch.cat((self.counts, self.counts.new_zeros(1)))
        self.counts[place] += 1


def uniform(seed: int, number: int) -> float:
    """Return a random number in [0, 1): the same for the same seed and number of a token."""
    digest = blake3(struct.pack("<QQ", seed, number)).digest(8)
    return (int.from_bytes(digest, "little") >> (64 - _RANDOM_BITS)) / (1 << _RANDOM_BITS)


def _column(values: Rows[float], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return upload(values, dtype, like.device)[:, None]


def penalise(scores: Tensor, samplings: Rows[Sampling], penalties: Rows[Penalties]) -> None:
    """Change scores [rows, vocabulary] by their penalties, as `Sampling` defines them."""
    ids = torch.cat([one.ids for one in penalties])
    counts = torch.cat([one.counts for one in penalties])
    lengths = torch.tensor([len(one.ids) for one in penalties], device=scores.device)
    rows = torch.arange(len(penalties), device=scores.device).repeat_interleave(lengths)
    repetition = _column([s.repetition_penalty for s in samplings], scores)[rows, 0]
    presence = _column([s.presence_penalty for s in samplings], scores)[rows, 0]
    frequency = _column([s.frequency_penalty for s in samplings], scores)[rows, 0]
    values = scores[rows, ids]
    values = torch.where(values > 0, values / repetition, values * repetition)
    scores[rows, ids] = values - presence * (counts > 0) - frequency * counts


def cut(probabilities: Tensor, samplings: Rows[Sampling]) -> tuple[Tensor, Tensor, Tensor]:
    """Cut by min_p, top_k and top_p, among the most probable tokens, or among all if need be.

    Args:
        probabilities: of all tokens, [rows, vocabulary].

    Returns:
        For the tokens that were looked at, in the order of their ids: probabilities, 0 for what
        was cut off, and ids, both [rows, n]; and for each row [rows] whether that was enough.
    """
    size = probabilities.shape[-1]
    best = probabilities.topk(min(_FIRST_LOOK, size))
    edge, ties, enough = _edge(best.values, probabilities, samplings)
    ids, order = best.indices.sort(-1)
    return _kept(best.values.gather(-1, order), edge, ties), ids, enough


def cut_all(probabilities: Tensor, samplings: Rows[Sampling]) -> Tensor:
    """Cut among all tokens; return probabilities [rows, vocabulary], 0 for what was cut off."""
    edge, ties, _ = _edge(_descending(probabilities), probabilities, samplings)
    return _kept(probabilities, edge, ties)


def _kept(values: Tensor, edge: Tensor, ties: Tensor) -> Tensor:
    """Keep values over the edge, and the first `ties` of those at it."""
    at_edge = values == edge
    return values * ((values > edge) | (at_edge & (at_edge.cumsum(-1) <= ties)))


def _descending(values: Tensor) -> Tensor:
    if values.device.type == "cpu":  # NumPy's sort is some thirty times faster than torch's there
        return torch.from_numpy(numpy.sort(values.numpy())).flip(-1)
    return values.sort(-1, descending=True).values


def _edge(
    best: Tensor, probabilities: Tensor, samplings: Rows[Sampling]
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the least probability that is kept, by the most probable ones [rows, n], descending.

    Returns:
        The edge, how many of the tokens at it are kept, both [rows, 1]; and whether the values
        given were enough to know.
    """
    size, width = probabilities.shape[-1], best.shape[-1]
    limit = _column([min(s.top_k or size, size) for s in samplings], best, torch.int64)
    floor = _column([s.min_p for s in samplings], best)
    share = _column([s.top_p for s in samplings], best, torch.float64)
    over = torch.where(floor > 0, (best >= floor * best[:, :1]).sum(-1, keepdim=True), size)
    known = (over < width) | (limit <= width) | (floor == 0)
    limit = torch.minimum(limit, over)
    sums = best.cumsum(-1, dtype=torch.float64)
    whole = probabilities.sum(-1, keepdim=True, dtype=torch.float64)
    total = torch.where(limit < size, sums.gather(-1, (limit - 1).clamp(0, width - 1)), whole)
    known &= (limit <= width) | (limit == size)
    needed = (sums < share * total).sum(-1, keepdim=True) + 1
    count = torch.where(share < 1, torch.minimum(needed, limit), limit)
    known &= count <= width
    edge = best.gather(-1, count.clamp(1, width) - 1)  # it is 0 where nothing is a number
    ties = count - (best > edge).sum(-1, keepdim=True)
    if width == size:
        known = torch.ones_like(known)
    else:
        known &= best[:, -1:] < edge  # otherwise more tokens, with lower ids, may be at the edge
    return edge, ties, known[:, 0]


def draw(scores: Tensor, samplings: Rows[Sampling], numbers: Rows[float]) -> Tensor:
    """Draw a token for each row of scores [rows, vocabulary]; return ids [rows].

    A row's number in [0, 1) picks the token at which the running sum of probabilities, in the
    order of ids, passes that share of the whole. Where more tokens have to be looked at to know
    what is cut, the id is `UNDECIDED`, and `draw_all` draws: asking for that here would wait for
    the device.
    """
    probabilities = _probabilities(scores, samplings)
    number = _column(numbers, scores, torch.float64)
    rows = [n for n, s in enumerate(samplings) if s.cuts]
    if len(rows) == len(samplings):
        return _draw_cut(probabilities, samplings, number)
    tokens = _pick(probabilities, number)
    if rows:
        index = upload(rows, torch.int64, scores.device)
        cuts = [samplings[n] for n in rows]
        tokens[index] = _draw_cut(probabilities[index], cuts, number[index])
    return tokens


def draw_all(scores: Tensor, samplings: Rows[Sampling], numbers: Rows[float]) -> Tensor:
    """As `draw`, looking at all tokens."""
    kept = cut_all(_probabilities(scores, samplings), samplings)
    return _pick(kept, _column(numbers, scores, torch.float64))


def _probabilities(scores: Tensor, samplings: Rows[Sampling]) -> Tensor:
    temperature = _column([max(s.temperature, _COLDEST) for s in samplings], scores)
    return ((scores - scores.amax(-1, keepdim=True)) / temperature).softmax(-1)


def _draw_cut(probabilities: Tensor, samplings: Rows[Sampling], number: Tensor) -> Tensor:
    kept, ids, enough = cut(probabilities, samplings)
    tokens = ids.gather(-1, _pick(kept, number)[:, None].clamp(max=ids.shape[-1] - 1))[:, 0]
    return tokens.masked_fill(~enough, UNDECIDED)


def _pick(weights: Tensor, number: Tensor) -> Tensor:
    sums = weights.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(sums, number * sums[:, -1:], right=True)[:, 0]
