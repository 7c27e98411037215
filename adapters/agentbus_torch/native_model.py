"""A model as our CPU kernels take it, all at one call."""

from __future__ import annotations

from . import model
from .cpu_kernels import Layer, NativeModel
from .linear import InTiles

__all__ = ["native_model"]


def native_model(of: model.Model) -> NativeModel | None:
    """Return it; None if a product is not in tiles. It points to what the model holds."""
    layers = [_native(layer, of.config.norm_eps) for layer in of.layers]
    found = [layer for layer in layers if layer is not None]
    if len(found) < len(layers) or not isinstance(of.head, InTiles):
        return None
    return NativeModel(
        layers=(Layer * len(found))(*found),
        embedding=of.embedding.data_ptr(),
        head=of.head.product,
        vocabulary=of.config.vocabulary,
        count=len(found),
    )


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
