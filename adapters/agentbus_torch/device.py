"""What computes a batch on a device: attention over the pool, and the model's forward pass."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from .attention import Attention
from .attention_cpu import WindowAttention
from .attention_native import NativeAttention
from .batch import Batch
from .cpu_kernels import attention_kernels
from .kv import KVPool
from .model import Model
from .native_model import native_model
from .native_types import NativeModel
from .scheduler import CHUNK_TOKENS

__all__ = ["AtOneCall", "Eager", "Scores", "Steps", "make_steps"]


class Scores(NamedTuple):
    """Of what follows some rows."""

    values: Tensor
    """[rows, vocabulary]"""
    best: Tensor | None = None
    """The best tokens [rows], int64, the vocabulary's size where a score is no number; None if that
    has not been looked for."""

    @classmethod
    def of(cls, model: Model, hidden: Tensor) -> Scores:
        """Compute them from hidden states [rows, hidden]."""
        if not len(hidden):  # of no rows no product is computed
            return cls(hidden.new_empty(0, model.config.vocabulary))
        return cls(model.logits(hidden))


class Steps(Protocol):
    """Computes batches. `attention` is told of sequences that come and go."""

    @property
    def attention(self) -> Attention:
        """Where the sequences' keys and values are."""
        ...

    @property
    def chunk_tokens(self) -> int:
        """Prompt tokens of one step that keep the device busy, and others waiting no longer than
        they bear."""
        ...

    @property
    def runs_ahead(self) -> bool:
        """Whether batches are computed while the host does something else: a step is then launched
        before the tokens of the one before are read."""
        ...

    def hidden(self, batch: Batch) -> Tensor:
        """Compute a batch; return the hidden states [wanted, hidden] of its wanted rows.

        They stay until the next batch is computed.
        """
        ...

    def scores(self, batch: Batch) -> Scores:
        """Compute a batch; return the scores of what follows its wanted rows."""
        ...


class Eager:
    """One operation after another."""

    chunk_tokens = CHUNK_TOKENS
    runs_ahead = False

    def __init__(self, model: Model, attention: Attention) -> None:
        self._model = model
        self.attention = attention

    def hidden(self, batch: Batch) -> Tensor:
        """See `Steps.hidden`."""
        return self._model.forward(batch, self.attention)

    def scores(self, batch: Batch) -> Scores:
        """See `Steps.scores`."""
        return Scores.of(self._model, self.hidden(batch))


class AtOneCall:
    """A whole model at one call, in products and attention of our own."""

    chunk_tokens = CHUNK_TOKENS
    runs_ahead = False

    def __init__(self, model: Model, native: NativeModel, attention: NativeAttention) -> None:
        self._model = model  # alive for as long as it is pointed to
        self._native = native
        self.attention = attention

    def hidden(self, batch: Batch) -> Tensor:
        """See `Steps.hidden`."""
        return self.attention.compute(self._native, batch, scored=False)[0]

    def scores(self, batch: Batch) -> Scores:
        """See `Steps.scores`."""
        _, scores, best = self.attention.compute(self._native, batch, scored=True)
        return Scores(scores, best)


def make_steps(model: Model, pool: KVPool, *, slots: int) -> Steps:
    """Return what suits the model's device, for so many sequences at once.

    Raises:
        ConfigError: the device cannot compute a model of this shape.
    """
    if model.device.type != "cuda":
        return _on_cpu(model, pool, slots)
    # Triton is needed from here on, and comes with torch for CUDA.
    from .attention_cuda import PagedAttention
    from .graphs import Graphed

    paged = PagedAttention(
        pool,
        model.rope,
        heads=model.config.heads,
        slots=slots,
        positions=model.positions,
        sliding=model.config.windows,
    )
    return Graphed(model, paged)


def _on_cpu(model: Model, pool: KVPool, slots: int) -> Steps:
    config = model.config
    kernels = attention_kernels(model.dtype, config.head_size, config.heads // config.kv_heads)
    if kernels is None:
        windows = WindowAttention(
            pool, model.rope, slots=slots, positions=model.positions, sliding=config.windows
        )
        return Eager(model, windows)
    native = NativeAttention(
        pool,
        model.rope,
        kernels,
        heads=config.heads,
        slots=slots,
        positions=model.positions,
        sliding=config.windows,
    )
    whole = native_model(model)
    return Eager(model, native) if whole is None else AtOneCall(model, whole, native)
