"""The forward pass of a Llama-family model, as few torch operations as it takes.

It computes a batch of rows, of one sequence or of several; where their keys and values go, and
what stands before them, is an `Attention` backend's business. The rows of q, k and v are one
product; residual sums and SwiGLU's gate are computed with the products before them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .attention import Attention
from .batch import Batch
from .config import ModelConfig, RopeScaling
from .linear import Linear, make_linear
from .weights import Weights

__all__ = ["Model"]


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: Tensor
    qkv: Linear
    output: Linear
    mlp_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear


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
        self._head = make_linear(
            self._embedding if config.tied else weights.take("lm_head.weight", shape)
        )
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

    def forward(self, batch: Batch, attention: Attention) -> Tensor:
        """Compute a batch; return the hidden states [wanted, hidden] of its wanted rows.

        Keys and values of all rows are handed to `attention`, which holds those before them.
        """
        attention.prepare(batch)
        x = functional.embedding(batch.tokens, self._embedding)
        turn = self._cosine[batch.positions], self._sine[batch.positions]
        eps, hidden = self.config.norm_eps, (self.config.hidden,)
        last = self.config.layers - 1
        for number, layer in enumerate(self._layers):
            normed = functional.rms_norm(x, hidden, layer.input_norm, eps)
            attended = attention.attend(number, *self._heads(layer, normed, turn))
            if number == last:  # the other rows' hidden states serve nobody any more
                x, attended = x[batch.wanted], attended[batch.wanted]
                if not len(x):
                    break
            x = layer.output.plus(attended, x)
            normed = functional.rms_norm(x, hidden, layer.mlp_norm, eps)
            x = layer.down.plus(layer.up.times(normed, layer.gate.silu(normed)), x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores [rows, vocabulary] of what follows hidden states [rows, hidden]."""
        normed = functional.rms_norm(
            hidden, (self.config.hidden,), self._norm, self.config.norm_eps
        )
        return self._head(normed)

    def _heads(
        self, layer: _Layer, normed: Tensor, turn: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return queries [rows, heads, size], and keys and values [rows, 2 * kv_heads, size]."""
        config, (cosine, sine) = self.config, turn
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_size
        qkv = layer.qkv(normed).view(len(normed), heads + 2 * kv_heads, size)
        turned = qkv[:, : heads + kv_heads]
        turned.copy_(torch.addcmul(turned * cosine, turned.roll(size // 2, -1), sine))
        return qkv[:, :heads], qkv[:, heads:]


def _layer(config: ModelConfig, weights: Weights, number: int) -> _Layer:
    prefix = f"model.layers.{number}."
    hidden, inner = config.hidden, config.intermediate
    q, kv = config.heads * config.head_size, config.kv_heads * config.head_size
    rows = (("q", q), ("k", kv), ("v", kv))
    attention = f"{prefix}self_attn."
    biases = [(f"{attention}{n}_proj.bias", (size,)) for n, size in rows]
    qkv_bias = weights.fuse(biases) if weights.has(biases[0][0]) else None
    output_bias = f"{attention}o_proj.bias"
    return _Layer(
        input_norm=weights.take(f"{prefix}input_layernorm.weight", (hidden,)),
        qkv=make_linear(
            weights.fuse([(f"{attention}{n}_proj.weight", (size, hidden)) for n, size in rows]),
            qkv_bias,
        ),
        output=make_linear(
            weights.take(f"{attention}o_proj.weight", (hidden, q)),
            weights.take(output_bias, (hidden,)) if weights.has(output_bias) else None,
        ),
        mlp_norm=weights.take(f"{prefix}post_attention_layernorm.weight", (hidden,)),
        gate=make_linear(weights.take(f"{prefix}mlp.gate_proj.weight", (inner, hidden))),
        up=make_linear(weights.take(f"{prefix}mlp.up_proj.weight", (inner, hidden))),
        down=make_linear(weights.take(f"{prefix}mlp.down_proj.weight", (hidden, inner))),
    )
