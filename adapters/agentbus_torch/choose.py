"""The one place where a batch's scores become tokens.

Each sequence brings a `Chooser`: its parameters, and what its choices so far left behind. Rows that
ask for nothing special cost one argmax together. Tokens are picked on the device of the scores,
where the next step can read them; nothing here waits for it until they are read.
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
from .logprobs import Reported, rank, report
from .sampling import UNDECIDED, Penalties, draw, draw_all, penalise, uniform
from .transfer import Download, upload

__all__ = ["Chooser", "Chosen", "Picked", "pick"]


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
        return self._is_greedy and not self.ignore_end

    @property
    def _is_greedy(self) -> bool:
        """Whether the best score is all that counts, unless that is of an end that is ignored."""
        return not (
            self.forced
            or self.logprobs
            or self.matcher
            or self.sampling.temperature
            or self.sampling.penalises
        )

    def takes(self, best: int) -> bool:
        """Say whether the token of the best score is the choice, whatever the others are."""
        return self._is_greedy and not (self.ignore_end and best in self.end_ids)

    @property
    def runs_ahead(self) -> bool:
        """Whether a choice needs nothing of the one before it but its place."""
        return bool(self.forced) or not (self.matcher or self.sampling.penalises)

    def number(self, behind: int = 0) -> float:
        """Return the random number of the next choice, or of one that comes `behind` others."""
        return uniform(self.seed, self.count + behind)

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


class Picked:
    """A batch's tokens, picked on the device, and on their way to the host."""

    def __init__(
        self, scores: Tensor, shaped: Tensor, tokens: Tensor, choosers: Rows[Chooser]
    ) -> None:
        """Begin to bring them to the host.

        Args:
            scores: the model's, [rows, vocabulary].
            shaped: what the tokens were picked from.
            tokens: ids [rows]; `UNDECIDED` where more has to be looked at, the vocabulary's size
                where the scores are no numbers.
        """
        self._scores = scores
        self._shaped = shaped
        self._choosers = choosers
        self._tokens = tokens
        self.undecided: list[int] = []
        """Rows that were read, for which `known` is wrong: a first look was not enough."""
        self._size = scores.shape[-1]
        self._reporting = [n for n, chooser in enumerate(choosers) if chooser.logprobs]
        ranked = self._rank(self._reporting, self.known) if self._reporting else ()
        self._download = Download(scores.device, tokens, *ranked)

    @property
    def known(self) -> Tensor:
        """The tokens [rows] on the device; any ones where they are not known there."""
        return self._tokens.clamp(0, self._size - 1)

    def read(self, rows: Rows[int] | None = None) -> list[Chosen]:
        """Wait for the tokens of some rows, or of all, and have the choosers go on with them.

        Raises:
            RuntimeError: the model's scores are not numbers, or the device broke.
        """
        rows = range(len(self._choosers)) if rows is None else rows
        host, *ranked = self._download.wait()
        tokens: list[int] = host.tolist()
        self.undecided = [n for n in rows if tokens[n] == UNDECIDED]
        if self.undecided:
            self._decide(self.undecided, tokens)
        if any(tokens[n] >= self._size for n in rows):
            raise RuntimeError("the model's scores are not numbers")
        reported = self._report(self._reporting, ranked)
        again = [n for n in self.undecided if n in reported]
        if again:
            reported |= self._report(again, self._rank(again, self._tokens.new_tensor(tokens)))
        return [self._choosers[n].take(tokens[n], reported.get(n)) for n in rows]

    def _decide(self, rows: list[int], tokens: list[int]) -> None:
        choosers = [self._choosers[n] for n in rows]
        samplings = [chooser.sampling for chooser in choosers]
        numbers = [chooser.number() for chooser in choosers]
        drawn = draw_all(_rows(self._shaped, rows), samplings, numbers)
        for n, token in zip(rows, drawn.tolist(), strict=True):
            tokens[n] = token

    def _rank(self, rows: list[int], tokens: Tensor) -> tuple[Tensor, ...]:
        most = max(self._choosers[n].logprobs for n in rows)
        return rank(_rows(self._scores, rows), _rows(tokens, rows), most)

    def _report(self, rows: list[int], ranked: Rows[Tensor]) -> dict[int, Reported]:
        if not rows:
            return {}
        counts = [self._choosers[n].logprobs for n in rows]
        return dict(zip(rows, report(ranked, counts), strict=True))


def pick(
    scores: Tensor, choosers: Rows[Chooser], *, best: Tensor | None = None, behind: int = 0
) -> Picked:
    """Pick a token for each row of scores [rows, vocabulary]. The scores are left as they are.

    Args:
        best: the best tokens [rows] where they are known, and on the host; the vocabulary's size
            for rows that are no numbers.
        behind: choices of each row that were picked and not read yet; over 0 only where all
            choosers run ahead.
    """
    if best is not None and all(map(Chooser.takes, choosers, best.tolist())):
        return Picked(scores, scores, best, choosers)
    if all(chooser.is_plain for chooser in choosers):
        return Picked(scores, scores, _best(scores), choosers)
    shaped = _shaped(scores, choosers)
    best = _best(shaped)
    tokens = _forced(_drawn(best, shaped, choosers, behind), choosers, behind)
    size = scores.shape[-1]
    return Picked(scores, shaped, tokens.masked_fill(best == size, size), choosers)


def _best(scores: Tensor) -> Tensor:
    """Return each row's best token, the first of equals, and the vocabulary's size for rows that
    are no numbers; on a CPU `argmax` takes five times as long."""
    best = scores.max(-1)  # a NaN is more than any number
    return best.indices.masked_fill(best.values.isnan(), scores.shape[-1])


def _drawn(tokens: Tensor, scores: Tensor, choosers: Rows[Chooser], behind: int) -> Tensor:
    """Return tokens [rows] with those that are to be drawn in their places."""
    rows = [n for n, c in enumerate(choosers) if c.sampling.temperature and not c.forced]
    if not rows:
        return tokens
    samplings = [choosers[n].sampling for n in rows]
    drawn = draw(_rows(scores, rows), samplings, [choosers[n].number(behind) for n in rows])
    return _replaced(tokens, rows, drawn)


def _forced(tokens: Tensor, choosers: Rows[Chooser], behind: int) -> Tensor:
    """Return tokens [rows] with those that are given in their places."""
    rows = [n for n, chooser in enumerate(choosers) if chooser.forced]
    if not rows:
        return tokens
    given = [choosers[n].forced[choosers[n].count + behind] for n in rows]
    return _replaced(tokens, rows, upload(given, tokens.dtype, tokens.device))


def _replaced(of: Tensor, rows: list[int], others: Tensor) -> Tensor:
    """Return a tensor with others in place of some rows."""
    if len(rows) == len(of):
        return others
    return of.index_copy(0, upload(rows, torch.int64, of.device), others)


def _rows(of: Tensor, rows: list[int]) -> Tensor:
    """Return some rows; the tensor itself where these are all."""
    if len(rows) == len(of):
        return of
    return of.index_select(0, upload(rows, torch.int64, of.device))


def _shaped(scores: Tensor, choosers: Rows[Chooser]) -> Tensor:
    """Return scores behind grammars, ignored ends and penalties; in float32 where more than the
    best one counts."""
    free = [(n, c) for n, c in enumerate(choosers) if not c.forced]
    masked = [(n, c.matcher) for n, c in free if c.matcher is not None]
    punished = [(n, c.sampling, c.penalties) for n, c in free if c.penalties is not None]
    changes = bool(masked or punished)
    if changes or any(chooser.sampling.temperature for _, chooser in free):
        scores = scores.to(torch.float32, copy=changes)
    if punished:
        rows = [n for n, _, _ in punished]
        samplings, penalties = [s for _, s, _ in punished], [p for _, _, p in punished if p]
        changed = _rows(scores, rows)
        penalise(changed, samplings, penalties)
        if changed is not scores:
            scores[rows] = changed
    if masked:
        rows = [n for n, _ in masked]
        mask = allowed([matcher for _, matcher in masked], scores.shape[-1]).to(scores.device)
        scores[rows] = scores[rows].masked_fill(~mask, -torch.inf)
    return _deafened(scores, free)


def _deafened(scores: Tensor, choosers: Rows[tuple[int, Chooser]]) -> Tensor:
    """Return scores without the ends that rows ignore."""
    deaf: dict[frozenset[int], list[int]] = {}
    for n, chooser in choosers:
        if chooser.ignore_end:
            deaf.setdefault(chooser.end_ids, []).append(n)
    for ends, rows in deaf.items():
        others = _rows(scores, rows)
        if others is scores:
            others = scores.clone()
        for end in ends:
            others.select(1, end).fill_(-torch.inf)
        scores = _replaced(scores, rows, others)
    return scores
