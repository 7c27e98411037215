"""Rotary positions: the angles of a model, and how queries and keys are turned by them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import ModelConfig, RopeScaling

__all__ = ["Rope", "make_rope", "turn_"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Factors for every position, [positions, head_size] each; the first half's sines are negative,
    so that turning is `x * cosine + roll(x) * sine`."""

    cosine: Tensor
    sine: Tensor


def make_rope(
    config: ModelConfig, positions: int, *, dtype: torch.dtype, device: torch.device
) -> Rope:
    """Lay a model's angles out for that many positions."""
    angles = torch.outer(torch.arange(positions).float(), _frequencies(config))
    cosine, sine = angles.cos(), angles.sin()
    return Rope(
        torch.cat((cosine, cosine), -1).to(device, dtype),
        torch.cat((-sine, sine), -1).to(device, dtype),
    )


def turn_(heads: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Turn heads [rows, heads, head_size], in place, by factors [rows, 1, head_size]."""
    size = heads.shape[-1]
    torch.addcmul(heads * cosine, heads.roll(size // 2, -1), sine, out=heads)


def _frequencies(config: ModelConfig) -> Tensor:
    size = config.head_size
    exponents = torch.arange(0, size, 2, dtype=torch.int64).float() / size
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "factors":
        return frequencies / torch.tensor(scaling.factors)
    return _llama3_frequencies(frequencies, scaling)


def _llama3_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_freq, scaling.high_freq
    share = (scaling.original_window / wavelengths - low) / (high - low)
    blended = (1 - share) * frequencies / scaling.factor + share * frequencies
    scaled = torch.where(
        wavelengths > scaling.original_window / low, frequencies / scaling.factor, blended
    )
    return torch.where(wavelengths < scaling.original_window / high, frequencies, scaled)
