"""Root-mean-square norms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .cpu_kernels import row_kernels

__all__ = ["RMSNorm"]


class RMSNorm:
    """`x` [rows, size] over the root of the mean of its squares, times a weight [size].

    On a CPU torch computes it in seven operations, but a layer norm in one: where there is no
    kernel of ours, it is the layer norm of x and -x side by side, which has a mean of 0 and the
    variance that is wanted. On a GPU torch's own takes a single row three times as long as it
    needs.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps
        self._kernels = row_kernels(weight.dtype, weight.device, len(weight))
        plain = not weight.is_cuda and self._kernels is None
        self._both = torch.cat((weight, weight)) if plain else None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the norm."""
        if self._kernels is not None:
            return self._kernels.rms_norm(x, self.weight, self.eps)
        if self._both is None:
            from .row_kernels import rms_norm  # needs Triton, which is for CUDA

            return rms_norm(x, self.weight, self.eps)
        size = self.weight.shape[0]
        both = torch.cat((x, -x), -1)
        return functional.layer_norm(both, (2 * size,), self._both, None, self.eps)[:, :size]
