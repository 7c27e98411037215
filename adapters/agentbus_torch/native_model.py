"""A model as our CPU kernels take it, all at one call."""

from __future__ import annotations

from . import native_types
from .linear import InTiles
from .model import Layer, Model

__all__ = ["native_model"]


def native_model(model: Model) -> native_types.NativeModel | None:
    """Return it; None if a product is not in tiles. It points to what the model holds."""
    layers = [_native(layer, model.config.norm_eps) for layer in model.layers]
    found = [layer for layer in layers if layer is not None]
    if len(found) < len(layers) or not isinstance(model.head, InTiles):
        return None
    return native_types.NativeModel(
        layers=(native_types.Layer * len(found))(*found),
        embedding=model.embedding.data_ptr(),
        head=model.head.product,
        vocabulary=model.config.vocabulary,
        count=len(found),
    )


def _native(layer: Layer, eps: float) -> native_types.Layer | None:
    qkv, output, act, down = layer.qkv, layer.output, layer.act, layer.down
    if not (
        isinstance(qkv, InTiles)
        and isinstance(output, InTiles)
        and isinstance(act, InTiles)
        and isinstance(down, InTiles)
    ):
        return None
    norm = layer.heads_norm
    return native_types.Layer(
        qkv=qkv.product,
        output=output.product,
        act=act.product,
        down=down.product,
        heads_norm=None if norm is None else norm.data_ptr(),
        eps=eps,
    )
