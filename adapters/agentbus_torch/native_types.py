"""What the kernels of `native/` are told, field by field as C has it."""

from __future__ import annotations

import ctypes

__all__ = ["Layer", "NativeModel", "Plan", "Product"]


class Plan(ctypes.Structure):
    """What a batch's attention reads and writes, for all layers; see `attention.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("pieces", "members", "slots", "positions")),
        *((name, ctypes.c_void_p) for name in ("merged", "partials", "windows", "sees")),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine", "scratch")),
        *((name, ctypes.c_int64) for name in ("slot_stride", "head_stride")),
        *((name, ctypes.c_int32) for name in ("count", "rows", "results", "heads", "kv_heads")),
        *((name, ctypes.c_int32) for name in ("size", "threads", "amx")),
        ("scale", ctypes.c_float),
    )


class Product(ctypes.Structure):
    """A packed weight, and what is done before and after the product; see `products.h`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("pairs", "exponents", "first_stray", "strays")),
        *((name, ctypes.c_void_p) for name in ("bias", "norm")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
        ("eps", ctypes.c_float),
        ("gated", ctypes.c_int32),
        ("wide", ctypes.c_int32),
    )


class Layer(ctypes.Structure):
    """A layer whose products are all in tiles; see `model.c`."""

    _fields_ = (
        *((name, Product) for name in ("qkv", "output", "act", "down")),
        ("heads_norm", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    )


class NativeModel(ctypes.Structure):
    """A model whose products are all in tiles; see `model.c`."""

    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("embedding", ctypes.c_void_p),
        ("head", Product),
        ("vocabulary", ctypes.c_int64),
        ("count", ctypes.c_int32),
    )
