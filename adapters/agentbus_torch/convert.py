"""GGUF to a folder of config, tokenizer, template and float32 weights, once, in a cache.

A folder is written under another name and renamed when it is complete, so that a start that was
killed, or two at once, leave nothing half done. Its name holds the file's name, size and time of
change, and the version of this converter.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from blake3 import blake3

from agentbus.errors import AgentbusError, ModelBroken

from .config import read_json
from .gguf_file import GGUFFile
from .gguf_tokenizer import write_tokenizer
from .weights import TensorPlan, write_safetensors

__all__ = ["converted"]

_CONVERTER_VERSION = 2
_MANIFEST = "agentbus.json"
_MAX_NUMBER = 1e18
_STALE_AFTER_S = 3600.0
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_ROPE_FACTORS = "rope_freqs.weight"
_BLOCK_TENSORS = (
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
)
"""Names in GGUF and in safetensors, in the order that lets the loader fuse neighbours."""


def converted(source: Path, cache_dir: str) -> Path:
    """Return the folder that `source` was converted to, converting it if need be.

    Raises:
        ModelBroken: the file is damaged or not supported, or the cache cannot be written.
    """
    cache = Path(cache_dir).expanduser() if cache_dir else Path.home() / ".cache" / "agentbus"
    folder = cache / f"{source.stem}-{_identity(source)}"
    if _is_complete(folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        partial_folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache))
        try:
            _convert(source, partial_folder)
            _publish(partial_folder, folder)
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)
    except AgentbusError:
        raise
    except OSError as error:
        raise ModelBroken(
            str(source),
            f"its converted form cannot be written to {cache} ({error}); "
            "make room there, or choose another cache folder",
        ) from error
    return folder


def _identity(source: Path) -> str:
    status = source.stat()
    facts = [source.name, status.st_size, status.st_mtime_ns, _CONVERTER_VERSION]
    return blake3(json.dumps(facts).encode()).hexdigest()[:16]


def _is_complete(folder: Path) -> bool:
    """Return whether the folder holds all that was written, by the sizes in its manifest."""
    try:
        sizes = read_json(folder / _MANIFEST)
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (ModelBroken, OSError, ValueError):
        return False


def _remove_stale(cache: Path) -> None:
    for left in cache.glob(".partial-*"):
        try:
            if time.time() - left.stat().st_mtime > _STALE_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue  # another process was faster


def _publish(written: Path, folder: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in written.iterdir()}
    (written / _MANIFEST).write_text(json.dumps(sizes))
    try:
        os.rename(written, folder)
    except OSError:
        if _is_complete(folder):
            return  # another process converted it meanwhile
        os.rename(folder, written / "broken")
        moved = written.with_name(written.name + "-new")
        os.rename(written, moved)
        shutil.rmtree(moved / "broken", ignore_errors=True)
        os.rename(moved, folder)


def _convert(source: Path, folder: Path) -> None:
    file = GGUFFile(source)
    architecture = file.metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise ModelBroken(
            str(source),
            f"models of type {architecture!r} are not supported; "
            f"supported: {', '.join(_ARCHITECTURES)}",
        )
    config = _config(source, file, str(architecture))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(source, file.metadata, folder)
    write_safetensors(folder / "model.safetensors", _plans(source, file, config))


def _number(source: Path, metadata: Mapping[str, object], name: str) -> int | float:
    value = metadata.get(name)
    if not isinstance(value, int | float) or not 0 < value <= _MAX_NUMBER:
        raise ModelBroken(str(source), f"its {name!r} is missing or not a number")
    return value


def _layers(source: Path, file: GGUFFile, architecture: str) -> int:
    layers = int(_number(source, file.metadata, f"{architecture}.block_count"))
    if layers > len(file.tensors):
        raise ModelBroken(str(source), f"it names {layers} layers, more than it has tensors")
    return layers


def _config(source: Path, file: GGUFFile, architecture: str) -> dict[str, object]:
    metadata = file.metadata
    number = partial(_number, source, metadata)
    heads = int(number(f"{architecture}.attention.head_count"))
    hidden = int(number(f"{architecture}.embedding_length"))
    head_size = metadata.get(f"{architecture}.attention.key_length", hidden // heads)
    theta = metadata.get(f"{architecture}.rope.freq_base", 10000.0)
    if metadata.get(f"{architecture}.rope.dimension_count", head_size) != head_size:
        raise ModelBroken(str(source), "rope on a part of each head is not supported")
    if "token_embd.weight" not in file.tensors:
        raise ModelBroken(str(source), "its weights lack 'token_embd.weight'")
    return {
        "architectures": [_ARCHITECTURES[architecture]],
        "model_type": architecture,
        **_sliding(source, metadata, architecture),
        "hidden_act": "silu",
        "num_hidden_layers": _layers(source, file, architecture),
        "hidden_size": hidden,
        "intermediate_size": int(number(f"{architecture}.feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get(f"{architecture}.attention.head_count_kv", heads),
        "head_dim": head_size,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "max_position_embeddings": int(number(f"{architecture}.context_length")),
        "rms_norm_eps": number(f"{architecture}.attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_parameters": {"rope_theta": theta, **_rope(source, file, architecture)},
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "dtype": "float32",
    }


def _rope(source: Path, file: GGUFFile, architecture: str) -> dict[str, object]:
    """Return how frequencies are stretched. Llama 3.1's files hold a factor for each of them."""
    kind = file.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "none" and _ROPE_FACTORS in file.tensors:
        factors = [float(value) for value in file.values(_ROPE_FACTORS).ravel()]
        return {"rope_type": "factors", "factors": factors}
    if kind == "none":
        return {"rope_type": "default"}
    if kind == "linear":
        factor = _number(source, file.metadata, f"{architecture}.rope.scaling.factor")
        return {"rope_type": "linear", "factor": factor}
    raise ModelBroken(
        str(source), f"its rope scaling {kind!r} is not supported; use the model's safetensors"
    )


def _sliding(source: Path, metadata: Mapping[str, object], architecture: str) -> dict[str, object]:
    """Return the sliding window; a `llama` that has one is a Mistral."""
    name = f"{architecture}.attention.sliding_window"
    if not metadata.get(name):
        return {}
    if architecture != "llama":
        raise ModelBroken(
            str(source), "its sliding window is not supported; use the model's safetensors"
        )
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": int(_number(source, metadata, name)),
    }


def _plans(source: Path, file: GGUFFile, config: Mapping[str, object]) -> Iterator[TensorPlan]:
    names = {"token_embd.weight": "model.embed_tokens.weight"}
    for layer in range(int(str(config["num_hidden_layers"]))):
        for ours, theirs in _BLOCK_TENSORS:
            names[f"blk.{layer}.{ours}"] = f"model.layers.{layer}.{theirs}"
    names |= {"output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
    unknown = sorted(file.tensors.keys() - names.keys() - {_ROPE_FACTORS})
    if unknown:
        raise ModelBroken(str(source), f"it holds {unknown[0]!r}, which this engine does not know")
    llama = config["model_type"] in ("llama", "mistral")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, target in names.items():
        if name not in file.tensors:
            continue  # the loader names what is missing
        kind = name.split(".")[-2]
        paired = int(str(heads[kind])) if llama and kind in heads else 0
        shape = file.tensors[name].shape
        yield TensorPlan(target, shape, partial(_values, file, name, paired))


def _values(file: GGUFFile, name: str, paired_heads: int) -> bytes:
    """Return a tensor's float32 bytes.

    For `llama`, GGUF stores the rows of q and k so that the two of a rotary pair are neighbours;
    safetensors have the first halves of all pairs, then the second.
    """
    values = file.values(name)
    if paired_heads:
        rows = values.shape[0]
        pairs = values.reshape(paired_heads, rows // paired_heads // 2, 2, -1)
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    return values.tobytes()
