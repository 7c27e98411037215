"""Model folders with random weights: the shape of a known model, and a tiny one.

Speed does not depend on what weights say. A folder is what every engine loads, so nothing here
knows how one works inside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

__all__ = ["LLAMA_8B", "TINY", "Shape", "write_folder"]

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPREAD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama-family model's sizes; heads of `head_size`, untied embeddings, bfloat16."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    window: int

    @property
    def layer_weights(self) -> int:
        """Weights that multiply a token in one layer."""
        attention = self.hidden * self.head_size * 2 * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def read_bytes(self) -> int:
        """Bytes of weights that one decoding step reads: all but the embedding table."""
        return 2 * (self.layers * self.layer_weights + self.hidden * self.vocabulary)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of one token."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_size

    def prefill_flops(self, tokens: int) -> float:
        """Return what a prompt takes at least: its layers, causal attention, one token's scores."""
        linear = (
            2.0 * tokens * self.layers * self.layer_weights + 2.0 * self.hidden * self.vocabulary
        )
        attention = 2.0 * self.layers * self.heads * self.head_size * tokens * (tokens + 1)
        return linear + attention

    @property
    def config(self) -> dict[str, object]:
        """What goes to `config.json`."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.window,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "dtype": "bfloat16",
        }


LLAMA_8B = Shape(
    name="llama-3.1-8b",
    layers=32,
    hidden=4096,
    intermediate=14336,
    heads=32,
    kv_heads=8,
    head_size=128,
    vocabulary=128256,
    window=16384,
)
"""The shape of Llama 3.1 8B, without its rope scaling, which costs nothing at run time."""
TINY = Shape(
    name="tiny",
    layers=2,
    hidden=64,
    intermediate=128,
    heads=4,
    kv_heads=2,
    head_size=16,
    vocabulary=1024,
    window=1024,
)


def write_folder(folder: Path, shape: Shape, device: torch.device) -> Path:
    """Write config, tokenizer and random weights, made on `device`, one file a layer."""
    torch.manual_seed(1)
    (folder / "config.json").write_text(json.dumps(shape.config))
    _write_tokenizer(folder, shape.vocabulary)
    where: dict[str, str] = {}
    for number, tensors in enumerate(_parts(shape)):
        name = f"model-{number:05}.safetensors"
        made = {key: _random(key, size, device).cpu() for key, size in tensors.items()}
        save_file(made, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _random(name: str, size: tuple[int, ...], device: torch.device) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(size, dtype=torch.bfloat16, device=device)
    return _SPREAD * torch.randn(size, dtype=torch.bfloat16, device=device)


def _parts(shape: Shape) -> Iterator[dict[str, tuple[int, ...]]]:
    hidden, inner = shape.hidden, shape.intermediate
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield {
            f"{prefix}self_attn.q_proj.weight": (q, hidden),
            f"{prefix}self_attn.k_proj.weight": (kv, hidden),
            f"{prefix}self_attn.v_proj.weight": (kv, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, q),
            f"{prefix}mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}mlp.up_proj.weight": (inner, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, inner),
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
        }
    yield {
        "model.embed_tokens.weight": (shape.vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (shape.vocabulary, hidden),
    }


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write a tokenizer of that many tokens: special ones, a byte each, then made-up words."""
    names = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"w{number}" for number in range(len(names), vocabulary)]
    tokens = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": _CHATML, "eos_token": _SPECIAL[2]})
    )
