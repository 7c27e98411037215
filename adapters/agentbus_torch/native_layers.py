"""A model's layers as our CPU kernels take them, all at one call."""

from __future__ import annotations

import ctypes

from . import model
from .cpu_kernels import Layer
from .linear import InTiles

__all__ = ["native_layers"]


def native_layers(of: model.Model) -> ctypes.Array[Layer] | None:
    """Return them; None if a product is not in tiles. They point to what the model holds."""
    layers = [_native(layer, of.config.norm_eps) for layer in of.layers]
    found = [layer for layer in layers if layer is not None]
    return (Layer * len(found))(*found) if len(found) == len(layers) else None


def _native(layer: model.Layer, eps: float) -> Layer | None:
    qkv, output, act, down = layer.qkv, layer.output, layer.act, layer.down
    if not (
        isinstance(qkv, InTiles)
        and isinstance(output, InTiles)
        and isinstance(act, InTiles)
        and isinstance(down, InTiles)
    ):
        return None
    norm = layer.heads_norm
    return Layer(
        qkv=qkv.product,
        output=output.product,
        act=act.product,
        down=down.product,
        heads_norm=None if norm is None else norm.data_ptr(),
        eps=eps,
    )
