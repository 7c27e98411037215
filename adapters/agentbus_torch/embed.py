"""A text's vector: the mean of its tokens' hidden states, scaled to length 1."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

__all__ = ["MeanPool"]


class MeanPool:
    """Takes the hidden states of a text as they are computed."""

    def __init__(self, normed: Callable[[Tensor], Tensor]) -> None:
        """Begin with nothing.

        Args:
            normed: a model's last norm, over hidden states [rows, hidden].
        """
        self._normed = normed
        self._sum: Tensor | None = None
        self._taken = 0

    def take(self, start: int, hidden: Tensor) -> None:
        """Take hidden states [rows, hidden] of positions `start…`; again, where they are computed
        again."""
        if start > self._taken:
            raise ValueError(f"the hidden state of position {self._taken} was left out")
        hidden = hidden[self._taken - start :]
        added = self._normed(hidden).float().sum(0)
        if not added.isfinite().all():
            raise RuntimeError("the model's hidden states are not numbers")
        self._sum = added if self._sum is None else self._sum + added
        self._taken += len(hidden)

    def vector(self) -> tuple[float, ...]:
        """Return the vector [hidden]: the mean has the direction of the sum."""
        if self._sum is None:
            raise ValueError("there were no hidden states")
        return tuple(functional.normalize(self._sum, dim=0).tolist())
