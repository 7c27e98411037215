"""The one place where a batch's scores become tokens.

Each sequence brings a `Chooser`: its parameters, and what its choices so far left behind. Rows that
ask for nothing special cost one argmax together.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from agentbus.engine.sampling import MAX_SEED, Sampling
from agentbus.errors import AgentbusError

from .grammar import Matcher, allowed
from .logprobs import Reported, report
from .sampling import Penalties, draw, penalise, uniform

__all__ = ["Chooser", "Chosen", "choose"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one sequence goes on with."""

    token: int
    ends: bool
    """It is an end token, which is not part of the answer."""
    complete: bool = False
    """The answer's grammar allows nothing behind this token."""
    reported: Reported | None = None
    """Log-probabilities, if asked for."""
    error: AgentbusError | None = None
    """Why this sequence cannot go on; the others can."""


class Chooser:
    """How one sequence chooses its tokens."""

    def __init__(
        self,
        sampling: Sampling = Sampling(),  # noqa: B008 - it is frozen
        *,
        end_ids: frozenset[int] = frozenset(),
        ignore_end: bool = False,
        forced: Rows[int] = (),
        logprobs: int = 0,
        matcher: Matcher | None = None,
    ) -> None:
        """Take the parameters of `GenerateRequest`.

        Args:
            end_ids: tokens that end an answer.
            matcher: what the answer's grammar allows.
        """
        self.sampling = sampling
        self.end_ids = end_ids
        self.ignore_end = ignore_end
        self.forced = forced
        self.logprobs = logprobs
        self.matcher = matcher
        self.penalties: Penalties | None = None
        self.count = 0
        """Tokens chosen so far."""
        self.seed = secrets.randbelow(MAX_SEED) if sampling.seed is None else sampling.seed

    @property
    def is_plain(self) -> bool:
        """Whether the best score is all that counts."""
        return not (
            self.forced
            or self.logprobs
            or self.ignore_end
            or self.matcher
            or self.sampling.temperature
            or self.sampling.penalises
        )

    def begin(self, prompt: Rows[int], device: torch.device) -> None:
        """Stand behind a prompt. To be called once, before the first choice."""
        if self.sampling.penalises and not self.forced:
            self.penalties = Penalties(prompt, device)

    def take(self, token: int, reported: Reported | None) -> Chosen:
        """Go on with a token that was chosen."""
        self.count += 1
        if self.forced:
            return Chosen(token, False, reported=reported)
        if self.matcher is not None and self.matcher.error is not None:
            return Chosen(token, False, error=self.matcher.error)
        if token in self.end_ids:
            return Chosen(token, True, reported=reported)
        if self.penalties is not None:
            self.penalties.add(token)
        if self.matcher is None:
            return Chosen(token, False, reported=reported)
        complete = self.matcher.accept(token)
        return Chosen(token, False, complete, reported, self.matcher.error)


def choose(scores: Tensor, choosers: Rows[Chooser]) -> list[Chosen]:
    """Choose a token for each row of scores [rows, vocabulary]. The scores are left as they are.

    Raises:
        RuntimeError: the model's scores are not numbers.
    """
    if all(chooser.is_plain for chooser in choosers):
        tokens = _best(scores)
        return [c.take(token, None) for c, token in zip(choosers, tokens, strict=True)]
    tokens = _choose(_shaped(scores, choosers), choosers)
    _check(tokens, scores)
    reported: list[Reported | None] = [None] * len(tokens)
    rows = [n for n, chooser in enumerate(choosers) if chooser.logprobs]
    if rows:
        counts = [choosers[n].logprobs for n in rows]
        found = report(_rows(scores, rows), [tokens[n] for n in rows], counts)
        for n, one in zip(rows, found, strict=True):
            reported[n] = one
    return [c.take(t, said) for c, t, said in zip(choosers, tokens, reported, strict=True)]


def _best(scores: Tensor) -> list[int]:
    """Return each row's best token, the first of equals; on a CPU `argmax` takes five times as
    long."""
    best = scores.max(-1)  # a NaN is more than any number
    tokens: list[int] = best.indices.masked_fill(best.values.isnan(), scores.shape[-1]).tolist()
    _check(tokens, scores)
    return tokens


def _check(tokens: list[int], scores: Tensor) -> None:
    if max(tokens) >= scores.shape[-1]:
        raise RuntimeError("the model's scores are not numbers")


def _choose(scores: Tensor, choosers: Rows[Chooser]) -> list[int]:
    tokens = _best(scores)
    for n, chooser in enumerate(choosers):
        if chooser.forced:
            tokens[n] = chooser.forced[chooser.count]
    rows = [n for n, c in enumerate(choosers) if c.sampling.temperature and not c.forced]
    if rows:
        samplings = [choosers[n].sampling for n in rows]
        numbers = [uniform(choosers[n].seed, choosers[n].count) for n in rows]
        drawn = draw(_rows(scores, rows), samplings, numbers).tolist()
        for n, token in zip(rows, drawn, strict=True):
            tokens[n] = token
    return tokens


def _rows(scores: Tensor, rows: list[int]) -> Tensor:
    """Return some rows; the scores themselves where these are all."""
    return scores if len(rows) == len(scores) else scores[rows]


def _shaped(scores: Tensor, choosers: Rows[Chooser]) -> Tensor:
    """Return scores in float32 behind grammars, ignored ends and penalties."""
    free = [(n, c) for n, c in enumerate(choosers) if not c.forced]
    masked = [(n, c.matcher) for n, c in free if c.matcher is not None]
    deaf = [(n, end) for n, c in free if c.ignore_end for end in c.end_ids]
    punished = [(n, c.sampling, c.penalties) for n, c in free if c.penalties is not None]
    scores = scores.to(torch.float32, copy=bool(masked or deaf or punished))
    if punished:
        rows = [n for n, _, _ in punished]
        samplings, penalties = [s for _, s, _ in punished], [p for _, _, p in punished if p]
        changed = _rows(scores, rows)
        penalise(changed, samplings, penalties)
        if changed is not scores:
            scores[rows] = changed
    if deaf:
        rows, ids = map(list, zip(*deaf, strict=True))
        scores[rows, ids] = -torch.inf
    if masked:
        rows = [n for n, _ in masked]
        mask = allowed([matcher for _, matcher in masked], scores.shape[-1]).to(scores.device)
        scores[rows] = scores[rows].masked_fill(~mask, -torch.inf)
    return scores
