"""The forward pass of a Llama-family model, as few torch operations as it takes.

It computes positions `start…` of one sequence; where their keys and values go, and what stands
before them, is the caller's `KVWindow`. Weights are fused (q, k and v; gate and up) and used as
they lie in the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .config import ModelConfig, RopeScaling
from .kv import KVWindow
from .weights import Weights

__all__ = ["Model"]

_FEW_ROWS = range(4, 57)
"""Rows for which MKL multiplies about twice as fast with the weights as the left matrix (measured
in float32 with AVX-512; below and above, and in bfloat16, there is nothing to gain)."""


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


def _project(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply `x` [rows, in] by `weight` [out, in]; the result may be a transposed view."""
    if x.shape[0] in _FEW_ROWS and x.dtype == torch.float32 and x.device.type == "cpu":
        return torch.mm(weight, x.t().contiguous()).t()
    return functional.linear(x, weight)


def _frequencies(config: ModelConfig) -> Tensor:
    size = config.head_size
    exponents = torch.arange(0, size, 2, dtype=torch.int64).float() / size
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
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


class Model:
    """One model's weights and its forward pass. Holds no state of any sequence."""

    def __init__(self, config: ModelConfig, weights: Weights, *, positions: int) -> None:
        """Take the weights apart, and lay rope out for that many positions.

        Raises:
            ModelBroken: a weight is missing, of a wrong shape, or unknown.
        """
        self.config = config
        self.positions = positions
        shape = (config.vocabulary, config.hidden)
        self._embedding = weights.take("model.embed_tokens.weight", shape)
        self._layers = [_layer(config, weights, n) for n in range(config.layers)]
        self._norm = weights.take("model.norm.weight", (config.hidden,))
        self._head = self._embedding if config.tied else weights.take("lm_head.weight", shape)
        weights.refuse_rest(
            except_for=lambda name: name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq")
        )
        angles = torch.outer(torch.arange(positions).float(), _frequencies(config))
        cosine, sine = angles.cos(), angles.sin()
        device, dtype = self._embedding.device, self._embedding.dtype
        # [positions, 1, head_size]: one factor for all heads; the signs are those of the rotation
        self._cosine = torch.cat((cosine, cosine), -1)[:, None].to(device, dtype)
        self._sine = torch.cat((-sine, sine), -1)[:, None].to(device, dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored as."""
        return self._embedding.dtype

    def forward(self, tokens: Tensor, start: int, window: KVWindow) -> Tensor:
        """Compute tokens [rows] at positions `start…`; return the last one's hidden state [1, hidden].

        Their keys and values are put into `window`, which holds those of all positions before.
        """
        rows = tokens.shape[0]
        x = functional.embedding(tokens, self._embedding)
        cosine = self._cosine[start : start + rows]
        sine = self._sine[start : start + rows]
        mask = _causal_mask(rows, start, x) if rows > 1 else None
        eps, hidden = self.config.norm_eps, (self.config.hidden,)
        last = self.config.layers - 1
        for number, layer in enumerate(self._layers):
            normed = functional.rms_norm(x, hidden, layer.input_norm, eps)
            attended = self._attend(layer, number, normed, start, window, cosine, sine, mask)
            if number == last:  # the others' hidden states serve nobody any more
                x, attended = x[-1:], attended[-1:]
            projected = _project(attended, layer.output)
            if layer.output_bias is not None:
                projected = projected + layer.output_bias
            x = x + projected
            normed = functional.rms_norm(x, hidden, layer.mlp_norm, eps)
            gate, up = _project(normed, layer.gate_up).chunk(2, -1)
            x += _project(functional.silu(gate).mul_(up), layer.down)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores [vocabulary] of what follows a hidden state [1, hidden]."""
        normed = functional.rms_norm(
            hidden, (self.config.hidden,), self._norm, self.config.norm_eps
        )
        return functional.linear(normed, self._head)[0]

    def _attend(
        self,
        layer: _Layer,
        number: int,
        normed: Tensor,
        start: int,
        window: KVWindow,
        cosine: Tensor,
        sine: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        config, rows = self.config, normed.shape[0]
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_size
        qkv = _project(normed, layer.qkv)
        if layer.qkv_bias is not None:
            qkv = qkv + layer.qkv_bias
        qkv = qkv.contiguous().view(rows, heads + 2 * kv_heads, size)
        turned = qkv[:, : heads + kv_heads]
        turned.copy_(torch.addcmul(turned * cosine, turned.roll(size // 2, -1), sine))
        keys, values = window.put(number, start, qkv[:, heads:])
        query = qkv[:, :heads]
        if rows == 1:  # heads that share keys become rows: several times faster than enable_gqa
            query = query.view(1, kv_heads, heads // kv_heads, size)
            found = functional.scaled_dot_product_attention(query, keys, values)
            return found.reshape(1, heads * size)
        found = functional.scaled_dot_product_attention(
            query.transpose(0, 1)[None], keys, values, attn_mask=mask, enable_gqa=True
        )
        return found[0].transpose(0, 1).reshape(rows, heads * size)


def _causal_mask(rows: int, start: int, like: Tensor) -> Tensor:
    """Let row i see positions up to `start + i`."""
    mask = like.new_full((rows, start + rows), -math.inf)
    return mask.triu_(start + 1)


def _layer(config: ModelConfig, weights: Weights, number: int) -> _Layer:
    prefix = f"model.layers.{number}."
    hidden, inner = config.hidden, config.intermediate
    q, kv = config.heads * config.head_size, config.kv_heads * config.head_size
    rows = (("q", q), ("k", kv), ("v", kv))
    attention = f"{prefix}self_attn."
    biased = weights.has(f"{attention}q_proj.bias")
    output_bias = f"{attention}o_proj.bias"
    return _Layer(
        input_norm=weights.take(f"{prefix}input_layernorm.weight", (hidden,)),
        qkv=weights.fuse([(f"{attention}{n}_proj.weight", (size, hidden)) for n, size in rows]),
        qkv_bias=weights.fuse([(f"{attention}{n}_proj.bias", (size,)) for n, size in rows])
        if biased
        else None,
        output=weights.take(f"{attention}o_proj.weight", (hidden, q)),
        output_bias=weights.take(output_bias, (hidden,)) if weights.has(output_bias) else None,
        mlp_norm=weights.take(f"{prefix}post_attention_layernorm.weight", (hidden,)),
        gate_up=weights.fuse(
            [(f"{prefix}mlp.{n}_proj.weight", (inner, hidden)) for n in ("gate", "up")]
        ),
        down=weights.take(f"{prefix}mlp.down_proj.weight", (hidden, inner)),
    )
