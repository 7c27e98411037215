"""Fingerprints: equal for one folder under equal settings, and for nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from agentbus_torch.config import read_config
from agentbus_torch.fingerprint import take_fingerprint

from agentbus.errors import ModelBroken
from tests.torch.tiny import TinyModel


def taken(folder: Path, dtype: torch.dtype = torch.float32, block_size: int = 16) -> bytes:
    return take_fingerprint(folder, read_config(folder), dtype, block_size).digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return TinyModel().write(tmp_path)


def flip(path: Path, position: int) -> None:
    """Change a byte of a file and keep its size and time."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_weights(folder: Path) -> None:
    flip(folder / "model.safetensors", -1)


def change_time(folder: Path) -> None:
    os.utime(folder / "model.safetensors", ns=(1, 1))


def change_rope(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("10000.0", "10001.0"))


def change_norm(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("1e-05", "1e-06"))


def change_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + "\n")


def change_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("")


def test_one_folder_has_one_fingerprint(folder: Path) -> None:
    assert taken(folder) == taken(folder)


@pytest.mark.parametrize(
    "change",
    [change_weights, change_time, change_rope, change_norm, change_tokenizer, change_template],
)
def test_whatever_changes_in_the_folder_shows(folder: Path, change: Callable[[Path], None]) -> None:
    before = taken(folder)
    change(folder)
    assert taken(folder) != before


def name_shard(folder: Path, name: str) -> None:
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_the_weights_that_are_read_show(folder: Path) -> None:
    """A folder may hold several sets of weights; its index says which one is the model."""
    shutil.copy2(folder / "model.safetensors", folder / "other.safetensors")
    name_shard(folder, "model.safetensors")
    before = taken(folder)
    name_shard(folder, "other.safetensors")
    assert taken(folder) != before
    (folder / "other.safetensors").rename(folder / "other.bin")
    name_shard(folder, "other.bin")
    named = taken(folder)
    flip(folder / "other.bin", -1)
    assert taken(folder) != named


def test_settings_that_shape_kv_show(folder: Path) -> None:
    assert taken(folder, dtype=torch.bfloat16) != taken(folder) != taken(folder, block_size=8)


def test_a_folder_that_cannot_be_read_is_said_so(folder: Path) -> None:
    config = read_config(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "nowhere")
    with pytest.raises(ModelBroken, match="cannot be read"):
        take_fingerprint(folder, config, torch.float32, 16)
