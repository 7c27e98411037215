"""Tiny models with random weights, made on the spot: a token for each byte and for `th`, ChatML.

Tests open them on a CPU, or on the device that `AGENTBUS_TEST_DEVICE` names: `cuda`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from agentbus_torch.load import load
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from agentbus.config import EngineSettings
from agentbus.errors import ModelBroken

__all__ = [
    "CHATML",
    "DEVICE",
    "SPECIAL",
    "TinyModel",
    "assert_broken",
    "tiny_settings",
    "write_tokenizer",
]

DEVICE = torch.device(os.environ.get("AGENTBUS_TEST_DEVICE", "cpu"))
"""Where tests compute."""
tiny_settings = partial(EngineSettings, dtype="float32", threads=1, device=str(DEVICE))
"""Makes the settings of an engine that runs a tiny model there, exactly."""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """Return the special tokens, then a token for each byte, then `th`."""
    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]


def write_tokenizer(folder: Path, template: str = CHATML) -> None:
    """Write a tokenizer and a chat template."""
    tokens = {token: number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": template, "eos_token": SPECIAL[2]})
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """The shape of a tiny model."""

    model_type: str = "llama"
    layers: int = 2
    hidden: int = 32
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 16
    """The smallest that the GPU's kernels have tiles for."""
    window: int = 512
    tied: bool = True
    bias: bool = False
    rope: Mapping[str, object] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)
    """What a family's config says beside."""

    @property
    def config(self) -> dict[str, object]:
        """What goes to `config.json`."""
        return {
            "model_type": self.model_type,
            "architectures": [f"{self.model_type.title()}ForCausalLM"],
            "hidden_act": "silu",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": 2 * self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "vocab_size": len(vocabulary()),
            "max_position_embeddings": self.window,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", **self.rope},
            "attention_bias": self.bias,
            "tie_word_embeddings": self.tied,
            "eos_token_id": 2,
            **self.more,
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the weights' names and shapes."""
        hidden, inner, size = self.hidden, 2 * self.hidden, len(vocabulary())
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (size, hidden),
            "model.norm.weight": (hidden,),
        }
        if not self.tied:
            shapes["lm_head.weight"] = (size, hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            for name, rows in (("q", q), ("k", kv), ("v", kv)):
                shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (rows, hidden)
                if self.bias:
                    shapes[f"{prefix}.self_attn.{name}_proj.bias"] = (rows,)
            shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, q)
            if self.bias and self.model_type == "llama":
                shapes[f"{prefix}.self_attn.o_proj.bias"] = (hidden,)
            for name in ("q", "k") if self.model_type == "qwen3" else ():
                shapes[f"{prefix}.self_attn.{name}_norm.weight"] = (self.head_size,)
            shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
            for name in ("gate", "up"):
                shapes[f"{prefix}.mlp.{name}_proj.weight"] = (inner, hidden)
            shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, inner)
        return shapes

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights: large enough that contexts matter, the same each time."""
        generator = torch.Generator().manual_seed(20)
        return {
            name: 1 + 0.1 * torch.randn(shape, generator=generator)
            if name.endswith("norm.weight")
            else 0.3 * torch.randn(shape, generator=generator)
            for name, shape in self.shapes().items()
        }

    def write(self, folder: Path, *, template: str = CHATML) -> Path:
        """Write a model folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        write_tokenizer(folder, template)
        save_file(self.weights(), folder / "model.safetensors", metadata={"format": "pt"})
        return folder


def assert_broken(folder: Path, damage: Callable[[Path], None]) -> None:
    """Check that a model with that damage is refused in one line that names its folder."""
    damage(TinyModel().write(folder))
    with pytest.raises(ModelBroken) as caught:
        load(str(folder), tiny_settings(kv_tokens=256))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
