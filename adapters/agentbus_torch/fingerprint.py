"""What tells one model's KV from another's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from blake3 import blake3

from agentbus.errors import ModelBroken
from agentbus.kv import KVFingerprint

from .config import ModelConfig
from .weights import weight_files

__all__ = ["take_fingerprint"]

_SAMPLE_BYTES = 64 * 1024
"""Read at the beginning and at the end of each file of weights: hashing them whole would take
longer than loading them."""
_TEXTS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def take_fingerprint(
    folder: Path, config: ModelConfig, dtype: torch.dtype, block_size: int
) -> KVFingerprint:
    """Name all that shapes the KV of a model folder, but tokens and tenant.

    Weights are told apart by their files' names, sizes, times of change, and by samples of them.

    Raises:
        ModelBroken: a file is missing or cannot be read.
    """
    try:
        weights, texts = _weights(folder), _texts(folder)
    except OSError as error:
        raise ModelBroken(str(folder), f"it cannot be read ({error.strerror})") from error
    return KVFingerprint(
        model=repr(replace(config, rope_theta=0.0, rope_scaling=None)),
        weights=weights,
        dtype=str(dtype).removeprefix("torch."),
        rope=repr((config.rope_theta, config.rope_scaling)),
        tokenizer=texts,
        block_size=block_size,
    )


def _weights(folder: Path) -> bytes:
    hasher = blake3()
    for path in weight_files(folder):
        status = path.stat()
        hasher.update(repr((path.name, status.st_size, status.st_mtime_ns)).encode())
        with path.open("rb") as file:
            hasher.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, status.st_size - _SAMPLE_BYTES))
            hasher.update(file.read(_SAMPLE_BYTES))
    return hasher.digest()


def _texts(folder: Path) -> bytes:
    hasher = blake3()
    for path in (folder / name for name in _TEXTS):
        if path.is_file():
            content = path.read_bytes()
            hasher.update(repr((path.name, len(content))).encode())
            hasher.update(content)
    return hasher.digest()
