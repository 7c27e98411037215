"""Matrix products with a model's weights, in the fastest form that this machine's torch has.

A product may have a norm of its input before it: on a GPU both are one kernel for a single row. On
a CPU the weights are laid out once, in tiles for our own kernels where it has AMX and as oneDNN wants
them elsewhere, and a bias or the residual sum that follows a product is computed while its result is
still at hand. What stands between oneDNN's products is left to `cpu_kernels`, where they are.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .cpu_kernels import (
    LANES,
    PANEL,
    CPUKernels,
    PackedWeight,
    product_kernels,
    row_kernels,
)
from .native_types import Product
from .norm import RMSNorm

__all__ = [
    "InTiles",
    "Linear",
    "SwiGLU",
    "has_fast_bfloat16",
    "make_head",
    "make_linear",
    "make_swiglu",
]


class Linear(Protocol):
    """`x` [rows, in], normed first if there is a norm, times a weight [out, in], transposed; all
    results are [rows, out]."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product."""
        ...

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the product plus `other`; `other` may be overwritten."""
        ...


class _Plain:
    """The weight as it lies in memory."""

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: RMSNorm | None) -> None:
        self._weight = weight
        self._bias = bias
        self._norm = norm

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(_normed(x, self._norm), self._weight, self._bias)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return other.add_(self(x))


class _Packed:
    """The weight as oneDNN lays it out in blocks."""

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: RMSNorm | None) -> None:
        operators = torch.ops.mkldnn
        self._weight = operators._reorder_linear_weight(weight.contiguous())
        self._bias = bias
        self._norm = norm
        self._unary = operators._linear_pointwise.default
        self._binary = operators._linear_pointwise.binary

    def __call__(self, x: Tensor) -> Tensor:
        x = _normed(x, self._norm)
        return self._unary(x, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        x = _normed(x, self._norm)
        return self._binary(x, other, self._weight, self._bias, "add")  # type: ignore[no-any-return]


class InTiles:
    """The weight packed for tiles of AMX. oneDNN reads it at half the speed, and leaves the norm
    before a product and SwiGLU's gate behind one to others. The last `missing` outputs only fill up
    tiles."""

    def __init__(
        self,
        kernels: CPUKernels,
        weight: PackedWeight,
        shape: torch.Size,
        bias: Tensor | None,
        norm: RMSNorm | None,
        *,
        gated: bool = False,
        wide: bool = False,
        missing: int = 0,
    ) -> None:
        outputs, inputs = shape
        self._missing = missing
        self._kernels = kernels
        self._tensors = (weight, bias, norm)  # alive for as long as they are pointed to
        self.product = Product(
            pairs=weight.pairs.data_ptr(),
            exponents=weight.exponents.data_ptr(),
            first_stray=weight.first_stray.data_ptr(),
            strays=weight.strays.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            norm=None if norm is None else norm.weight.data_ptr(),
            inputs=inputs,
            outputs=outputs,
            eps=0.0 if norm is None else norm.eps,
            gated=gated,
            wide=wide,
        )

    def __call__(self, x: Tensor) -> Tensor:
        found = self._kernels.multiply(self.product, x)
        return found[:, : -self._missing] if self._missing else found

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self._kernels.multiply(self.product, x, other)


class _OnGPU:
    """The weight as it lies in memory; a single row reads it faster than cuBLAS does."""

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: RMSNorm | None) -> None:
        from .row_kernels import gemv  # needs Triton, which is for CUDA

        self._weight = weight.contiguous()
        self._bias = bias
        self._norm = norm
        self._gemv = partial(
            gemv,
            weight=self._weight,
            bias=bias,
            norm=None if norm is None else norm.weight,
            eps=0.0 if norm is None else norm.eps,
        )

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return self._gemv(x)
        return functional.linear(_normed(x, self._norm), self._weight, self._bias)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        if len(x) == 1:
            return self._gemv(x, plus=other)
        if self._bias is None:
            return other.addmm_(_normed(x, self._norm), self._weight.t())  # one kernel
        return other.add_(self(x))


def _normed(x: Tensor, norm: RMSNorm | None) -> Tensor:
    return x if norm is None else norm(x)


def has_fast_bfloat16() -> bool:
    """Say whether oneDNN multiplies bfloat16 on this CPU in instructions made for it."""
    return _has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has_onednn() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available


def _packs(weight: Tensor) -> bool:
    if weight.dtype == torch.bfloat16:
        return has_fast_bfloat16()
    return weight.dtype == torch.float32 and _has_onednn()


def make_head(weight: Tensor, norm: RMSNorm) -> Linear:
    """Prepare the weight [vocabulary, in] of scores, behind the last norm.

    Where sums are at hand in float32, so are the scores: in bfloat16 steps between them are an
    eighth, and the best ones often equal. There a product gives whole tiles, and scores of tokens
    that do not exist are cut off.
    """
    missing = 0 if weight.is_cuda else -len(weight) % PANEL
    whole = functional.pad(weight, (0, 0, 0, missing)) if missing else weight
    made = _in_tiles(whole, None, norm, wide=True, missing=missing)
    return make_linear(weight, norm=norm) if made is None else made


def make_linear(
    weight: Tensor, bias: Tensor | None = None, *, norm: RMSNorm | None = None
) -> Linear:
    """Prepare a weight [out, in] and its bias [out] for products, behind a norm of their input."""
    if weight.is_cuda:
        return _OnGPU(weight, bias, norm)
    if (made := _in_tiles(weight, bias, norm)) is not None:
        return made
    return _Packed(weight, bias, norm) if _packs(weight) else _Plain(weight, bias, norm)


def _in_tiles(
    weight: Tensor,
    bias: Tensor | None,
    norm: RMSNorm | None,
    *,
    gated: bool = False,
    wide: bool = False,
    missing: int = 0,
) -> InTiles | None:
    kernels = product_kernels(weight)
    packed = None if kernels is None else kernels.packed(weight)
    if kernels is None or packed is None:
        return None
    return InTiles(
        kernels, packed, weight.shape, bias, norm, gated=gated, wide=wide, missing=missing
    )


class SwiGLU(Protocol):
    """silu(x * gate) * (x * up), of `x` normed first, from [rows, in] to [rows, inner]."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return it."""
        ...


class _OneProduct:
    """One product with both weights: fewer and longer ones come nearer to a memory's bandwidth."""

    def __init__(self, both: Tensor, norm: RMSNorm) -> None:
        self._both = make_linear(both, norm=norm)
        self._kernels = row_kernels(both.dtype, both.device, len(both) // 2)

    def __call__(self, x: Tensor) -> Tensor:
        product = self._both(x)
        if self._kernels is not None:
            return self._kernels.silu_times(product)
        gate, up = product.chunk(2, -1)
        return functional.silu(gate).mul_(up)


class _GatedOnGPU:
    """The same; what follows the product is one kernel, and part of it for a single row."""

    def __init__(self, both: Tensor, norm: RMSNorm) -> None:
        from .row_kernels import gemv, silu_times  # needs Triton, which is for CUDA

        self._both = both
        self._norm = norm
        self._act = silu_times
        self._gemv = partial(gemv, weight=both, norm=norm.weight, eps=norm.eps, gated=True)

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return self._gemv(x)
        return self._act(functional.linear(self._norm(x), self._both))


def make_swiglu(gate: Tensor, up: Tensor, norm: RMSNorm) -> SwiGLU:
    """Prepare the weights [inner, in] of a SwiGLU, behind a norm of its input."""
    both = torch.cat((gate, up))
    if gate.is_cuda:
        return _GatedOnGPU(both, norm)
    if product_kernels(both) is not None:
        halves = torch.stack(
            (gate.view(-1, LANES, gate.shape[1]), up.view(-1, LANES, up.shape[1])), 1
        )
        if (made := _in_tiles(halves.view_as(both), None, norm, gated=True)) is not None:
            return made
    return _OneProduct(both, norm)
