"""The forward pass of a Llama-family model, as few torch operations as it takes.

It computes a batch of rows, of one sequence or of several; where their keys and values go, and
what stands before them, is an `Attention` backend's business. The rows of q, k and v are one
product; norms, residual sums and SwiGLU's gate are the business of the products beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .attention import Attention
from .batch import Batch
from .config import ModelConfig
from .linear import Linear, SwiGLU, make_head, make_linear, make_swiglu
from .norm import RMSNorm
from .rope import make_rope
from .weights import Weights

__all__ = ["Layer", "Model"]


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer does before and after its attention."""

    qkv: Linear
    heads_norm: Tensor | None
    """Weights [heads + kv_heads, head_size] of the norms of queries and keys (Qwen3)."""
    output: Linear
    act: SwiGLU
    down: Linear


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
        self.embedding = weights.take("model.embed_tokens.weight", shape)
        self.layers = [_layer(config, weights, n) for n in range(config.layers)]
        self.norm = RMSNorm(weights.take("model.norm.weight", (config.hidden,)), config.norm_eps)
        head = self.embedding if config.tied else weights.take("lm_head.weight", shape)
        self.head = make_head(head, self.norm)
        weights.refuse_rest(
            except_for=lambda name: name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq")
        )
        self.rope = make_rope(config, positions, dtype=self.dtype, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored as."""
        return self.embedding.dtype

    def forward(self, batch: Batch, attention: Attention) -> Tensor:
        """Compute a batch; return the hidden states [wanted, hidden] of its wanted rows.

        Keys and values of all rows are handed to `attention`, which holds those before them.
        """
        attention.prepare(batch)
        return self.compute(batch.tokens, batch.wanted, attention)

    def compute(self, tokens: Tensor, wanted: Tensor | None, attention: Attention) -> Tensor:
        """As `forward`, of rows that `attention` was told of before; without `wanted`, of all."""
        config = self.config
        x = functional.embedding(tokens, self.embedding)
        heads = (len(tokens), config.heads + 2 * config.kv_heads, config.head_size)
        last = config.layers - 1
        for number, layer in enumerate(self.layers):
            qkv = layer.qkv(x).view(heads)
            if layer.heads_norm is not None:
                both = qkv[:, : config.heads + config.kv_heads]
                both.copy_(
                    functional.rms_norm(both, heads[2:], None, config.norm_eps) * layer.heads_norm
                )
            attended = attention.attend(number, qkv)
            if number == last and wanted is not None:  # the other rows serve nobody any more
                x, attended = x[wanted], attended[wanted]
                if not len(x):
                    break
            x = layer.output.plus(attended, x)
            x = layer.down.plus(layer.act(x), x)
        return x

    def normed(self, hidden: Tensor) -> Tensor:
        """Return hidden states [rows, hidden] behind the last norm."""
        return self.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores [rows, vocabulary] of what follows hidden states [rows, hidden].

        They are float32 where that costs nothing, else as the weights are.
        """
        return self.head(hidden)


def _layer(config: ModelConfig, weights: Weights, number: int) -> Layer:
    prefix = f"model.layers.{number}."
    hidden, inner = config.hidden, config.intermediate
    q, kv = config.heads * config.head_size, config.kv_heads * config.head_size
    rows = (("q", q), ("k", kv), ("v", kv))
    attention = f"{prefix}self_attn."
    biases = [(f"{attention}{n}_proj.bias", (size,)) for n, size in rows]

    def norm(name: str) -> RMSNorm:
        return RMSNorm(weights.take(f"{prefix}{name}.weight", (hidden,)), config.norm_eps)

    qkv_bias = weights.fuse(biases) if weights.has(biases[0][0]) else None
    output_bias = f"{attention}o_proj.bias"
    return Layer(
        qkv=make_linear(
            weights.fuse([(f"{attention}{n}_proj.weight", (size, hidden)) for n, size in rows]),
            qkv_bias,
            norm=norm("input_layernorm"),
        ),
        heads_norm=_heads_norm(config, weights, attention) if config.qk_norm else None,
        output=make_linear(
            weights.take(f"{attention}o_proj.weight", (hidden, q)),
            weights.take(output_bias, (hidden,)) if weights.has(output_bias) else None,
        ),
        act=make_swiglu(
            weights.take(f"{prefix}mlp.gate_proj.weight", (inner, hidden)),
            weights.take(f"{prefix}mlp.up_proj.weight", (inner, hidden)),
            norm("post_attention_layernorm"),
        ),
        down=make_linear(weights.take(f"{prefix}mlp.down_proj.weight", (hidden, inner))),
    )


def _heads_norm(config: ModelConfig, weights: Weights, attention: str) -> Tensor:
    query, key = (
        weights.take(f"{attention}{name}_norm.weight", (config.head_size,)) for name in ("q", "k")
    )
    return torch.cat((query.expand(config.heads, -1), key.expand(config.kv_heads, -1))).contiguous()
