"""Steps of decoding as CUDA graphs: one launch in the place of some three hundred.

A graph is captured when a size of batch first comes, padded to one of a few sizes. What it reads
anew each time are the numbers of `attention_cuda.Rows` and the block tables; all else about a step
is fixed. Batches with rows of prompts are computed eagerly, and so are sizes that could not be
captured, for want of memory say.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .attention_cuda import PagedAttention, Rows
from .batch import Batch, Part
from .device import Eager
from .model import Model

__all__ = ["SIZES", "Graphed"]

logger = logging.getLogger(__name__)

SIZES: Final = (1, 2, 4, 8, 16, 24, 32)
"""Rows of a captured step."""
_WARM_UPS: Final = 2
"""Steps before a capture, in which kernels are compiled and libraries take their work space."""


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    rows: Rows
    hidden: Tensor


class Graphed:
    """Computes batches in which every sequence decodes by graphs."""

    chunk_tokens = 2048  # with 256 a prompt reads all weights so often that reading takes the time

    def __init__(self, model: Model, attention: PagedAttention) -> None:
        self._model = model
        self._eager = Eager(model, attention)
        self.attention = attention
        self._captured: dict[tuple[int, bool], _Captured | None] = {}
        self._memory = torch.cuda.graph_pool_handle()
        # One for all: the libraries' work space is kept for each stream.
        self._side = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]

    def hidden(self, batch: Batch) -> Tensor:
        """See `Steps.hidden`."""
        parts = batch.parts
        decodes = all(part.rows == 1 and part.wanted for part in parts)
        if not decodes or len(parts) > SIZES[-1]:
            return self._eager.hidden(batch)
        width = next(size for size in SIZES if size >= len(parts))
        key = width, self.attention.is_shared(parts)
        if key not in self._captured:
            self._captured[key] = self._try_to_capture(width, parts)
        step = self._captured[key]
        if step is None:
            return self._eager.hidden(batch)
        self.attention.fill(step.rows, parts)
        step.graph.replay()
        return step.hidden[: len(parts)]

    def _try_to_capture(self, width: int, parts: tuple[Part, ...]) -> _Captured | None:
        try:
            return self._capture(width, parts)
        except RuntimeError as error:  # torch's, out of memory included
            logger.warning("no CUDA graph of %d rows (%s); they are computed without", width, error)
            return None

    def _capture(self, width: int, parts: tuple[Part, ...]) -> _Captured:
        rows = self.attention.rows(parts, width)
        self.attention.bind(rows)
        main = torch.cuda.current_stream()
        self._side.wait_stream(main)
        # A capture that fails to end leaves its stream the current one; this puts that right.
        with torch.cuda.stream(self._side):
            for _ in range(_WARM_UPS):  # writes what the replay is going to write again
                self._compute(rows)
            graph = torch.cuda.CUDAGraph()
            # What other threads do meanwhile, another engine's say, is none of the capture's business.
            with torch.cuda.graph(
                graph, pool=self._memory, stream=self._side, capture_error_mode="thread_local"
            ):
                hidden = self._compute(rows)
        main.wait_stream(self._side)
        return _Captured(graph, rows, hidden)

    def _compute(self, rows: Rows) -> Tensor:
        return self._model.compute(rows.tokens, None, self.attention)
