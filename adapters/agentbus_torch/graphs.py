"""Steps as CUDA graphs: one launch in the place of some three hundred.

There are two kinds: rows of sequences that decode, and a short part of one prompt, such as what is
new behind a cached context. A graph is captured when a size first comes, padded to one of a few
sizes. What it reads anew each time are the numbers of `attention_cuda.Rows` or `Chunk` and the
block tables; all else about a step is fixed. Other batches are computed eagerly, and so are sizes
that could not be captured, for want of memory say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .attention_cuda import Chunk, PagedAttention, Rows
from .batch import Batch
from .device import Eager
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
    hidden: Tensor


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
        parts, attention = batch.parts, self.attention
        if all(part.rows == 1 and part.wanted for part in parts) and len(parts) <= SIZES[-1]:
            width = _padded(len(parts), SIZES)
            kind = "together" if attention.is_shared(parts) else "rows"
            step = self._step(kind, width, lambda: attention.rows(parts, width))
            if step is not None and isinstance(step.step, Rows):
                attention.fill(step.step, parts, batch.behind)
                step.graph.replay()
                return step.hidden[: len(parts)]
        elif len(parts) == 1 and parts[0].wanted <= 1 and parts[0].rows <= CHUNKS[-1]:
            (part,) = parts
            width = _padded(part.rows, CHUNKS)
            step = self._step("chunk", width, lambda: attention.chunk(part, width))
            if step is not None and isinstance(step.step, Chunk):
                attention.fill_chunk(step.step, part)
                step.graph.replay()
                return step.hidden[: part.wanted]
        return self._eager.hidden(batch)

    def _step(self, kind: str, width: int, lay_out: Callable[[], Rows | Chunk]) -> _Captured | None:
        """Return the graph of that kind and size, captured if it is the first; None if it cannot
        be."""
        key = kind, width
        if key not in self._captured:
            try:
                self._captured[key] = self._capture(lay_out())
            except RuntimeError as error:  # torch's, out of memory included
                logger.warning(
                    "no CUDA graph of %d rows (%s); they are computed without", width, error
                )
                self._captured[key] = None
        return self._captured[key]

    def _capture(self, step: Rows | Chunk) -> _Captured:
        self.attention.bind(step)
        main = torch.cuda.current_stream()
        self._side.wait_stream(main)
        # A capture that fails to end leaves its stream the current one; this puts that right.
        with torch.cuda.stream(self._side):
            for _ in range(_WARM_UPS):  # writes what the replay is going to write again
                self._compute(step)
            graph = torch.cuda.CUDAGraph()
            # What other threads do meanwhile, another engine's say, is none of the capture's business.
            with torch.cuda.graph(
                graph, pool=self._memory, stream=self._side, capture_error_mode="thread_local"
            ):
                hidden = self._compute(step)
        main.wait_stream(self._side)
        return _Captured(graph, step, hidden)

    def _compute(self, step: Rows | Chunk) -> Tensor:
        wanted = step.wanted if isinstance(step, Chunk) else None
        return self._model.compute(step.tokens, wanted, self.attention)


def _padded(rows: int, sizes: tuple[int, ...]) -> int:
    return next(size for size in sizes if size >= rows)
