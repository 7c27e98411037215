"""Steps as CUDA graphs: one launch in the place of some three hundred.

There are two kinds: rows of sequences that decode, and a short part of one prompt, such as what is
new behind a cached context. A graph is captured when a size first comes, padded to one of a few
sizes. What it reads anew each time are the numbers of `attention_cuda.Rows` or `Chunk` and the
block tables; all else about a step is fixed. Other batches are computed eagerly, and so are sizes
that could not be captured, for want of memory say.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .attention_cuda import Chunk, PagedAttention, Rows
from .batch import Batch, Part
from .device import Eager, Scores
from .model import Model

__all__ = ["CHUNKS", "SIZES", "Graphed"]

logger = logging.getLogger(__name__)

SIZES: Final = (1, 2, 4, 8, 16, 24, 32)
"""Rows of a captured step of decoding."""
CHUNKS: Final = (16, 32, 64, 96, 128, 192, 256)
"""Rows of a captured part of a prompt. With more, computing takes longer than launching."""
_WARM_UPS: Final = 2
"""Steps before a capture, in which kernels are compiled and libraries take their work space."""


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    step: Rows | Chunk
    """What is written anew before each replay."""
    hidden: Tensor
    """[rows asked for, hidden]: where each replay leaves its result."""


class Graphed:
    """Computes by graphs what they fit."""

    runs_ahead = True
    chunk_tokens = 2048  # with 256 a prompt reads all weights so often that reading takes the time

    def __init__(self, model: Model, attention: PagedAttention) -> None:
        self._model = model
        self._eager = Eager(model, attention)
        self.attention = attention
        self._captured: dict[tuple[str, int], _Captured | None] = {}
        self._memory = torch.cuda.graph_pool_handle()
        # One for all: the libraries' work space is kept for each stream.
        self._side = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]

    def hidden(self, batch: Batch) -> Tensor:
        """See `Steps.hidden`."""
        parts = batch.parts
        key = self._key(parts)
        captured = None if key is None else self._find(key, parts)
        if captured is None:
            return self._eager.hidden(batch)
        self.attention.fill(captured.step, parts, batch.behind)
        captured.graph.replay()
        return captured.hidden[: sum(part.wanted for part in parts)]

    def scores(self, batch: Batch) -> Scores:
        """See `Steps.scores`."""
        return Scores.of(self._model, self.hidden(batch))

    def _key(self, parts: Sequence[Part]) -> tuple[str, int] | None:
        """Return the kind and the width of the graph that fits parts; None if none does."""
        if all(part.rows == 1 and part.wanted for part in parts) and len(parts) <= SIZES[-1]:
            kind = "together" if self.attention.is_shared(parts) else "rows"
            return kind, _padded(len(parts), SIZES)
        if len(parts) == 1 and parts[0].wanted <= 1 and parts[0].rows <= CHUNKS[-1]:
            return "chunk", _padded(parts[0].rows, CHUNKS)
        return None

    def _find(self, key: tuple[str, int], parts: Sequence[Part]) -> _Captured | None:
        """Return the graph of a kind and width, captured if these parts are the first of them;
        None if it cannot be."""
        if key not in self._captured:
            kind, width = key
            try:
                self._captured[key] = self._capture(self._lay_out(kind, width, parts))
            except RuntimeError as error:  # torch's, out of memory included
                logger.warning(
                    "no CUDA graph of %d rows (%s); they are computed without", width, error
                )
                self._captured[key] = None
        return self._captured[key]

    def _lay_out(self, kind: str, width: int, parts: Sequence[Part]) -> Rows | Chunk:
        if kind == "chunk":
            return self.attention.chunk(parts[0], width)
        return self.attention.rows(parts, width)

    def _capture(self, step: Rows | Chunk) -> _Captured:
        self.attention.bind(step)
        main = torch.cuda.current_stream()
        self._side.wait_stream(main)
        # A capture that fails to end leaves its stream the current one; this puts that right.
        with torch.cuda.stream(self._side):
            try:
                for _ in range(_WARM_UPS):  # writes what the replay is going to write again
                    self._compute(step)
            finally:  # if they break, what is computed without a graph writes the same behind them
                main.wait_stream(self._side)
            graph = torch.cuda.CUDAGraph()
            # What other threads do meanwhile, another engine's say, is none of the capture's business.
            with torch.cuda.graph(
                graph, pool=self._memory, stream=self._side, capture_error_mode="thread_local"
            ):
                hidden = self._compute(step)
        return _Captured(graph, step, hidden)

    def _compute(self, step: Rows | Chunk) -> Tensor:
        wanted = step.wanted if isinstance(step, Chunk) else None
        return self._model.compute(step.tokens, wanted, self.attention)


def _padded(rows: int, sizes: tuple[int, ...]) -> int:
    return next(size for size in sizes if size >= rows)
