"""GGUF files: read, converted, cached; broken ones refused."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from agentbus_torch.config import read_config
from agentbus_torch.convert import converted
from agentbus_torch.load import load
from agentbus_torch.rope import _frequencies
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers

from agentbus.config import EngineSettings
from agentbus.errors import AgentbusError, ModelBroken
from tests.torch.test_model import IDS, forced_logits, make_runner, reference_logits
from tests.torch.tiny import CHATML, SPECIAL, TinyModel, vocabulary

gguf = pytest.importorskip("gguf", reason="gguf is not installed")

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}


def gguf_name(name: str) -> str:
    head, _, kind = name.rpartition(".")
    if head == "model.embed_tokens":
        return f"token_embd.{kind}"
    if head == "model.norm":
        return f"output_norm.{kind}"
    _, _, layer, rest = head.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def pair_rows(rows: numpy.ndarray, heads: int) -> numpy.ndarray:
    """Reorder q or k rows as llama.cpp's converter does."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1)
    return numpy.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def write_gguf(
    path: Path,
    model: TinyModel,
    *,
    architecture: str = "llama",
    factors: numpy.ndarray | None = None,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(model.layers)
    writer.add_context_length(model.window)
    writer.add_embedding_length(model.hidden)
    writer.add_feed_forward_length(2 * model.hidden)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_size)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary())
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(vocabulary()) - len(SPECIAL)))
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    window = model.more.get("sliding_window")
    if isinstance(window, int):
        writer.add_sliding_window(window)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for name, tensor in model.weights().items():
        values = tensor.numpy()
        if "q_proj" in name and architecture == "llama":
            values = pair_rows(values, model.heads)
        if "k_proj" in name and architecture == "llama":
            values = pair_rows(values, model.kv_heads)
        writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", TinyModel())


def test_weights_come_out_as_they_were(source: Path, tmp_path: Path) -> None:
    folder = converted(source, str(tmp_path / "cache"))
    found = load_file(folder / "model.safetensors")
    expected = TinyModel().weights()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_it_computes_what_the_folder_computes(source: Path, tmp_path: Path) -> None:
    ours = forced_logits(make_runner(converted(source, str(tmp_path / "cache"))), IDS, 40)
    folder = TinyModel().write(tmp_path / "folder")
    torch.testing.assert_close(ours, forced_logits(make_runner(folder), IDS, 40))


FAMILIES = {
    "qwen2": TinyModel(model_type="qwen2", bias=True),
    "qwen3": TinyModel(model_type="qwen3", head_size=16),
    "mistral": TinyModel(model_type="mistral", more={"sliding_window": 20}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_compute_what_transformers_computes(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family]
    architecture = "llama" if family == "mistral" else family
    source = write_gguf(tmp_path / "m.gguf", model, architecture=architecture)
    folder = converted(source, str(tmp_path / "cache"))
    found = forced_logits(make_runner(folder), IDS, 40)
    expected = reference_logits(model.write(tmp_path / "folder"), IDS)[39:-1]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


def test_rope_factors_are_those_of_llama_3(tmp_path: Path) -> None:
    """Llama 3.1's files hold what its config's scaling comes to, a factor for each frequency."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    folder = TinyModel(rope=scaling).write(tmp_path / "folder")
    plain, scaled = (
        _frequencies(read_config(model)) for model in (TinyModel().write(tmp_path / "p"), folder)
    )
    factors = (plain / scaled).numpy()
    source = write_gguf(tmp_path / "m.gguf", TinyModel(), factors=factors)
    found = forced_logits(make_runner(converted(source, str(tmp_path / "cache"))), IDS, 40)
    torch.testing.assert_close(found, reference_logits(folder, IDS)[39:-1], atol=2e-4, rtol=2e-4)


def test_text_is_split_as_the_model_was_trained(source: Path, tmp_path: Path) -> None:
    folder = converted(source, str(tmp_path / "cache"))
    splitter = Tokenizer.from_file(str(folder / "tokenizer.json")).pre_tokenizer
    known = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    for text in ("In 2024, don't  stop\n\n  at 3.14!", " x  7", "naïve ☕\t", "a\r\n b"):
        assert splitter.pre_tokenize_str(text) == known.pre_tokenize_str(text)


def test_it_is_converted_once(source: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    folder = converted(source, cache)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert converted(source, cache) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "agentbus.json"])
def test_a_broken_cache_is_rebuilt(name: str, source: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    folder = converted(source, cache)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    assert converted(source, cache) == folder
    assert (folder / name).read_bytes() == whole
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_changed_file_is_converted_anew(source: Path, tmp_path: Path) -> None:
    first = converted(source, str(tmp_path / "cache"))
    write_gguf(source, TinyModel(layers=1))
    assert converted(source, str(tmp_path / "cache")) != first


def test_a_cache_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelBroken, match="choose another cache folder"):
        converted(source, str(tmp_path / "file"))


def test_another_architecture(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", TinyModel(), architecture="gemma")
    with pytest.raises(ModelBroken, match="'gemma' are not supported"):
        converted(source, str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.1, 0.3, 0.6, 0.95, 0.9999])
def test_a_file_that_is_cut_off(share: float, source: Path, tmp_path: Path) -> None:
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelBroken, match=r"download it again|not a GGUF"):
        converted(source, str(tmp_path / "cache"))


@pytest.mark.parametrize("position", [*range(0, 64, 3), *range(64, 9000, 463)])
def test_damage_anywhere_is_typed(position: int, source: Path, tmp_path: Path) -> None:
    content = bytearray(source.read_bytes())
    content[position] ^= 0xA5
    source.write_bytes(content)
    settings = EngineSettings(
        dtype="float32", cache_dir=str(tmp_path / "cache"), kv_tokens=256, threads=1
    )
    try:
        load(str(source), settings)
    except AgentbusError:
        pass  # or the flip was harmless, such as one in a value
