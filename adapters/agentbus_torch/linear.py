"""Matrix products with a model's weights, in the fastest form that this machine's torch has.

On a CPU the weights are laid out once as oneDNN wants them, and a bias or the residual sum that
follows a product is computed while its result is still in registers. These are the operations that
torch's own compiler emits for a CPU; nothing is compiled here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Linear", "SwiGLU", "has_fast_bfloat16", "make_linear", "make_swiglu"]


class Linear(Protocol):
    """`x` [rows, in] times a weight [out, in], transposed; all results are [rows, out]."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product."""
        ...

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the product plus `other`; `other` may be overwritten."""
        ...


class _Plain:
    """The weight as it lies in memory."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self._weight, self._bias)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        if self._bias is None and x.is_cuda:
            return other.addmm_(x, self._weight.t())  # one kernel
        return other.add_(self(x))


class _Packed:
    """The weight as oneDNN lays it out in blocks."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        operators = torch.ops.mkldnn
        self._weight = operators._reorder_linear_weight(weight.contiguous())
        self._bias = bias
        self._unary = operators._linear_pointwise.default
        self._binary = operators._linear_pointwise.binary

    def __call__(self, x: Tensor) -> Tensor:
        return self._unary(x, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self._binary(x, other, self._weight, self._bias, "add")  # type: ignore[no-any-return]


def has_fast_bfloat16() -> bool:
    """Say whether oneDNN multiplies bfloat16 on this CPU in instructions made for it."""
    return _has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has_onednn() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available


def _packs(weight: Tensor) -> bool:
    if weight.device.type != "cpu":
        return False
    if weight.dtype == torch.bfloat16:
        return has_fast_bfloat16()
    return weight.dtype == torch.float32 and _has_onednn()


def make_linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """Prepare a weight [out, in] and its bias [out] for products."""
    return _Packed(weight, bias) if _packs(weight) else _Plain(weight, bias)


class SwiGLU(Protocol):
    """silu(x * gate) * (x * up), from [rows, in] to [rows, inner]."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return it."""
        ...


class _OneProduct:
    """One product with both weights: fewer and longer ones come nearer to a memory's bandwidth."""

    def __init__(self, gate: Tensor, up: Tensor, act: Callable[[Tensor], Tensor]) -> None:
        self._both = make_linear(torch.cat((gate, up)))
        self._act = act

    def __call__(self, x: Tensor) -> Tensor:
        return self._act(self._both(x))


def _silu_times(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return functional.silu(gate).mul_(up)


def make_swiglu(gate: Tensor, up: Tensor) -> SwiGLU:
    """Prepare the weights [inner, in] of a SwiGLU."""
    if gate.is_cuda:
        from .kernels import silu_times  # needs Triton, which is for CUDA

        return _OneProduct(gate, up, silu_times)
    return _OneProduct(gate, up, _silu_times)
