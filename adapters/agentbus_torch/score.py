"""How probable a model finds given tokens, from the hidden states before them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens

import torch
from torch import Tensor

from agentbus.engine import Score

from .logprobs import token_logprobs

__all__ = ["ContinuationScore"]

_ROWS = 64
"""Rows of scores that are in memory at a time: a large vocabulary has half a megabyte a row."""


class ContinuationScore:
    """Takes the hidden states of a prompt with a continuation behind it, and adds up its score."""

    def __init__(
        self, prompt: int, continuation: Tokens[int], logits: Callable[[Tensor], Tensor]
    ) -> None:
        """Score tokens.

        Args:
            prompt: tokens before the continuation.
            logits: a model's hidden states [rows, hidden] to scores [rows, vocabulary].
        """
        self._first = prompt - 1  # this position's hidden state says what the first token may be
        self._continuation = continuation
        self._logits = logits
        self.logprobs: list[float] = []

    def take(self, start: int, hidden: Tensor) -> None:
        """Take hidden states [rows, hidden] of positions `start…`; again, where they are computed
        again."""
        done = len(self.logprobs)
        next_row = self._first + done - start
        if not 0 <= next_row < len(hidden):
            if next_row < 0:
                raise ValueError(f"the hidden state of position {self._first + done} was left out")
            return
        hidden = hidden[next_row:]
        wanted = self._continuation[done : done + len(hidden)]
        for at in range(0, len(wanted), _ROWS):
            tokens = torch.tensor(wanted[at : at + _ROWS], device=hidden.device)
            scores = self._logits(hidden[at : at + len(tokens)])
            found = token_logprobs(scores, tokens)
            if found.isnan().any():
                raise RuntimeError("the model's scores are not numbers")
            self.logprobs += found.tolist()

    def score(self) -> Score:
        """Return the score, once all hidden states were taken."""
        return Score(tuple(self._continuation), tuple(self.logprobs))
