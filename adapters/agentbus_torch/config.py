"""The shape of a model of the Llama family, read from its `config.json`.

What this engine cannot compute exactly is refused here, by name, before any weight is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentbus.errors import ModelBroken

__all__ = ["MAX_JSON_BYTES", "ModelConfig", "RopeScaling", "read_config", "read_json"]

MAX_JSON_BYTES = 64 * 1024 * 1024
"""Longest JSON file of a model that is read (tokenizers of 250,000 tokens have about 30 MB)."""

_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_MAX_LAYERS = 1024
_MAX_NUMBER = 1e18
_MISSING = object()


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched for long windows.

    `linear` divides all by `factor`. `llama3` divides those of wavelengths over
    `original_window / low_freq`, keeps those under `original_window / high_freq`, and blends
    between (Llama 3.1's model card). `factors` divides each by its own, as GGUF files have them.
    """

    kind: str
    factor: float
    low_freq: float = 1.0
    high_freq: float = 4.0
    original_window: int = 8192
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder of pre-normed blocks: grouped-query attention with rope, then SwiGLU."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    window: int
    """Tokens that the model was made for."""
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tied: bool
    """The output matrix is the embedding."""
    end_ids: tuple[int, ...]
    """Tokens that end a text."""
    qk_norm: bool
    """Queries and keys are normed, head by head, before rope."""
    windows: tuple[int, ...]
    """For each layer, how many positions a token sees, itself included; 0 for all."""


def read_json(path: Path) -> Mapping[str, object]:
    """Read a JSON object of at most `MAX_JSON_BYTES`.

    Raises:
        ModelBroken: it is not one.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelBroken(str(path), f"it is larger than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelBroken(str(path), f"it cannot be read ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ModelBroken(str(path), "it is not a JSON object; download it again")
    return value


class _Reader:
    """Takes fields out of a JSON object, each with its type checked."""

    def __init__(self, path: Path, values: Mapping[str, object]) -> None:
        self._path = path
        self._values = values

    def broken(self, problem: str) -> ModelBroken:
        return ModelBroken(str(self._path), problem)

    def number(self, name: str, default: object = _MISSING) -> float:
        value = self._values.get(name)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.broken(f"its {name!r} is not a number")
        if not 0 < value <= _MAX_NUMBER:
            raise self.broken(f"its {name!r} is not a number greater than 0")
        return float(value)

    def count(self, name: str, default: object = _MISSING) -> int:
        value = self.number(name, default)
        if value != int(value):
            raise self.broken(f"its {name!r} is not a whole number")
        return int(value)

    def get(self, name: str, default: object = None) -> object:
        return self._values.get(name, default)


def _rope(reader: _Reader) -> tuple[float, RopeScaling | None]:
    """Return theta and scaling, from the keys of transformers 5 or of the versions before it."""
    given = reader.get("rope_parameters") or reader.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise reader.broken("its rope parameters are not an object")
    inner = _Reader(reader._path, given)
    theta = inner.number("rope_theta", reader.get("rope_theta") or 10000.0)
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", inner.number("factor"))
    if kind == "llama3":
        return theta, RopeScaling(
            "llama3",
            inner.number("factor"),
            inner.number("low_freq_factor"),
            inner.number("high_freq_factor"),
            inner.count("original_max_position_embeddings"),
        )
    if kind == "factors":  # written by our own converter alone
        return theta, RopeScaling("factors", 1.0, factors=_factors(reader, given))
    raise reader.broken(f"its rope scaling {kind!r} is not supported (default, linear, llama3)")


def _factors(reader: _Reader, given: Mapping[str, object]) -> tuple[float, ...]:
    factors = given.get("factors")
    if not isinstance(factors, list) or not all(isinstance(f, float) and f > 0 for f in factors):
        raise reader.broken("its rope factors are not numbers greater than 0")
    if len(factors) * 2 != reader.get("head_dim"):
        raise reader.broken("its rope factors are not one for each pair of a head")
    return tuple(factors)


def _windows(reader: _Reader, layers: int) -> tuple[int, ...]:
    """Return each layer's sliding window, 0 for none, as the families' configs say it."""
    kind = reader.get("model_type")
    slides = kind == "mistral" or (kind != "llama" and bool(reader.get("use_sliding_window")))
    if not slides or reader.get("sliding_window", _MISSING) is None:
        return (0,) * layers
    window = reader.count("sliding_window", 4096)  # transformers' own default
    if kind == "mistral":
        return (window,) * layers
    types = reader.get("layer_types")
    if types is None:
        full = reader.get("max_window_layers")
        full = 28 if full is None else full  # transformers' own default
        if not isinstance(full, int) or full < 0:
            raise reader.broken("its 'max_window_layers' is not a whole number")
        return tuple(window if layer >= full else 0 for layer in range(layers))
    known = {"full_attention": 0, "sliding_attention": window}
    if not isinstance(types, list) or len(types) != layers or not known.keys() >= set(types):
        raise reader.broken("its 'layer_types' do not name full or sliding attention a layer")
    return tuple(known[kind] for kind in types)


def _refuse_unsupported(reader: _Reader) -> None:
    kind = reader.get("model_type")
    if kind not in _MODEL_TYPES:
        known = ", ".join(_MODEL_TYPES)
        raise reader.broken(f"models of type {kind!r} are not supported; supported: {known}")
    if reader.get("hidden_act") not in (None, "silu"):
        raise reader.broken(f"its activation {reader.get('hidden_act')!r} is not supported (silu)")
    if reader.get("quantization_config"):
        raise reader.broken("quantized safetensors are not supported; use full ones, or GGUF")


def _end_ids(folder: Path, reader: _Reader) -> tuple[int, ...]:
    found: list[object] = []
    generation = folder / "generation_config.json"
    values = [reader.get("eos_token_id")]
    if generation.is_file():
        values.append(read_json(generation).get("eos_token_id"))
    for value in values:
        found += value if isinstance(value, list) else [value]
    return tuple(sorted({v for v in found if isinstance(v, int) and not isinstance(v, bool)}))


def read_config(folder: Path) -> ModelConfig:
    """Read a model folder's `config.json`, and the end tokens of `generation_config.json`.

    Raises:
        ModelBroken: it is malformed, or asks for what this engine does not compute.
    """
    path = folder / "config.json"
    reader = _Reader(path, read_json(path))
    _refuse_unsupported(reader)
    hidden, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    theta, scaling = _rope(reader)
    layers = reader.count("num_hidden_layers")
    if layers > _MAX_LAYERS:
        raise reader.broken(f"it has {layers} layers, over the limit of {_MAX_LAYERS}")
    config = ModelConfig(
        layers=layers,
        hidden=hidden,
        intermediate=reader.count("intermediate_size"),
        heads=heads,
        kv_heads=reader.count("num_key_value_heads", heads),
        head_size=reader.count("head_dim", hidden // heads),
        vocabulary=reader.count("vocab_size"),
        window=reader.count("max_position_embeddings"),
        norm_eps=reader.number("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=bool(reader.get("tie_word_embeddings")),
        end_ids=_end_ids(folder, reader),
        qk_norm=reader.get("model_type") == "qwen3",
        windows=_windows(reader, layers),
    )
    if config.heads % config.kv_heads or config.head_size % 2:
        raise reader.broken("its heads do not fit together")
    return config
