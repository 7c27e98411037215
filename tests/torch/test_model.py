"""The forward pass and the files it reads, on tiny models, against `transformers`."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from agentbus_torch.config import read_config
from agentbus_torch.load import load, load_runner
from agentbus_torch.runner import Runner
from agentbus_torch.sequence import Call

from agentbus.config import EngineSettings
from agentbus.errors import AgentbusError, ConfigError, ModelNotFound
from tests.torch.tiny import DEVICE, TinyModel, assert_broken, tiny_settings
from tests.torch.under_way import let_run_ahead

SETTINGS = tiny_settings(kv_tokens=1024)
IDS = tuple(3 + (7 * n * n + n) % 250 for n in range(70))

SHAPES = {
    "grouped": TinyModel(),
    "one_kv_head": TinyModel(kv_heads=1),
    "ungrouped": TinyModel(kv_heads=4),
    "small_heads": TinyModel(head_size=8),
    "wide_heads": TinyModel(head_size=32),
    "bias": TinyModel(bias=True),
    "untied": TinyModel(tied=False),
    "qwen2": TinyModel(model_type="qwen2", bias=True),
    "qwen2_sliding": TinyModel(
        model_type="qwen2",
        bias=True,
        layers=3,
        more={"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "qwen3": TinyModel(model_type="qwen3"),
    "qwen3_sliding": TinyModel(
        model_type="qwen3",
        layers=3,
        more={
            "use_sliding_window": True,
            "sliding_window": 9,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen_not_sliding": TinyModel(model_type="qwen3", more={"sliding_window": 9}),
    "mistral": TinyModel(model_type="mistral", more={"sliding_window": None}),
    "mistral_sliding": TinyModel(model_type="mistral", more={"sliding_window": 33}),
    "mistral_short_sliding": TinyModel(model_type="mistral", more={"sliding_window": 1}),
    "linear_rope": TinyModel(rope={"rope_type": "linear", "factor": 4.0}),
    "llama3_rope": TinyModel(
        rope={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    ),
}


def make_runner(folder: Path, settings: EngineSettings = SETTINGS) -> Runner:
    return load_runner(folder, read_config(folder), settings, (2,))


def forced_logits(
    runner: Runner, ids: tuple[int, ...], first: int, *, reuse: bool = True
) -> torch.Tensor:
    """Return the scores [len(ids) - first, vocabulary] behind each of `ids[first - 1 : -1]`."""
    call = Call(prompt=ids[:first], max_tokens=0, forced=ids[first:], namespace=b"t", reuse=reuse)
    sequence = runner.add(call)
    rows = []
    while not sequence.ended:
        runner.step()
        if sequence.logits is not None:
            rows.append(sequence.logits)
    runner.finish(sequence)
    return torch.stack(rows).cpu()


def reference_logits(folder: Path, ids: tuple[int, ...]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        scores: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return scores


@pytest.mark.parametrize("name", SHAPES)
def test_it_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    if SHAPES[name].head_size < 16 and DEVICE.type == "cuda":
        pytest.skip("no kernel has tiles for it")
    folder = SHAPES[name].write(tmp_path)
    runner = make_runner(folder)
    expected = reference_logits(folder, IDS)[39:-1]
    cold = forced_logits(runner, IDS, 40)
    torch.testing.assert_close(cold, expected, atol=2e-4, rtol=2e-4)
    warm = forced_logits(runner, IDS, 40)
    torch.testing.assert_close(warm, expected, atol=2e-4, rtol=2e-4)
    runner.check_integrity()


@pytest.mark.parametrize("rows", [1, 2, 5, 30, 60, 300])
def test_prompts_of_all_lengths_and_chunks(rows: int, tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path)
    ids = tuple(3 + (11 * n) % 251 for n in range(rows + 1))
    found = forced_logits(make_runner(folder), ids, rows)
    expected = reference_logits(folder, ids)[rows - 1 : -1]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", ["grouped", "qwen3_sliding", "mistral_sliding"])
def test_bfloat16_stays_close(name: str, tmp_path: Path) -> None:
    folder = SHAPES[name].write(tmp_path)
    runner = make_runner(folder, tiny_settings(dtype="bfloat16", kv_tokens=1024))
    found = forced_logits(runner, IDS, 40).float()
    expected = reference_logits(folder, IDS)[39:-1]
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_interleaved_conversations_keep_their_kv_apart(tmp_path: Path) -> None:
    """Forks and returns: the window must notice which blocks it does not mirror."""
    folder = TinyModel().write(tmp_path)
    runner = make_runner(folder, tiny_settings(kv_tokens=192, block_size=4))
    fork = IDS[:30] + tuple(reversed(IDS[30:]))
    for ids in (IDS, fork, IDS[:25], fork[:50], IDS, tuple(reversed(IDS)), fork, IDS):
        first = len(ids) - 6
        again = forced_logits(runner, ids, first)
        alone = forced_logits(make_runner(folder), ids, first)
        torch.testing.assert_close(again, alone, atol=2e-4, rtol=2e-4)
        runner.check_integrity()


def test_a_call_without_reuse_leaves_no_trace_in_the_window(tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path)
    runner = make_runner(folder)
    first = forced_logits(runner, IDS, 50)
    forced_logits(runner, tuple(reversed(IDS)), 50, reuse=False)
    torch.testing.assert_close(forced_logits(runner, IDS, 50), first, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("ahead", [False, True], ids=["at_once", "ahead"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_broken_computation_leaves_no_trace(
    steps: int, ahead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TinyModel().write(tmp_path)
    runner = let_run_ahead(make_runner(folder), ahead)
    sequence = runner.add(Call(prompt=IDS[:40], max_tokens=5, namespace=b"t"))
    for _ in range(steps):
        runner.step()

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(runner.steps, "hidden", fail)
        outcomes = runner.step()
        if sequence.error is None:  # a step was under way
            outcomes = runner.step()
        assert outcomes == [(sequence, None)]
    assert str(sequence.error) == "out of luck"
    runner.finish(sequence)
    assert runner.stats().locked == 0 and (steps or runner.stats().cached == 0)
    runner.check_integrity()
    found, alone = forced_logits(runner, IDS, 50), forced_logits(make_runner(folder), IDS, 50)
    torch.testing.assert_close(found, alone, atol=2e-4, rtol=2e-4)


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _weights(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(edit(path.read_bytes()))

    return apply


def _garble_header(content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    return b"".join((content[:8], b"x" * length, content[8 + length :]))


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _text(name: str, text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_text(text)

    return apply


def _config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "config.json", **changes)


def _template(template: str | None) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "tokenizer_config.json", chat_template=template)


BROKEN = {
    "cut_off": _weights(lambda content: content[:-100]),
    "cut_in_header": _weights(lambda content: content[:20]),
    "empty": _weights(lambda content: b""),
    "absurd_header": _weights(lambda content: struct.pack("<Q", 2**60) + content[8:]),
    "garbled_header": _weights(_garble_header),
    "no_weights": _without("model.safetensors"),
    "no_config": _without("config.json"),
    "no_tokenizer": _without("tokenizer.json"),
    "bad_tokenizer": _text("tokenizer.json", "{}"),
    "bad_config": _text("config.json", "[1]"),
    "config_without_layers": _config(num_hidden_layers=None),
    "other_shape": _config(hidden_size=64),
    "fewer_layers": _config(num_hidden_layers=1),
    "other_type": _config(model_type="gpt2"),
    "qwen3_without_norms": _config(model_type="qwen3"),
    "no_window": _config(model_type="mistral", sliding_window=-4),
    "unknown_layers": _config(
        model_type="qwen2", use_sliding_window=True, sliding_window=8, layer_types=["odd"] * 2
    ),
    "too_few_layer_types": _config(
        model_type="qwen2",
        use_sliding_window=True,
        sliding_window=8,
        layer_types=["full_attention"],
    ),
    "absurd_layers": _config(num_hidden_layers=10**9),
    "own_rope_factors": _config(rope_parameters={"rope_type": "factors", "factors": [1.0]}),
    "other_rope": _config(rope_parameters={"rope_type": "yarn", "factor": 2}),
    "no_template": _template(None),
    "bad_template": _template("{% for %}"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_is_one_plain_error(how: str, tmp_path: Path) -> None:
    assert_broken(tmp_path, BROKEN[how])


@pytest.mark.parametrize(
    "name",
    ["", "no-such-model", "/no/such/folder", "x" * 5000, "~no-such-user/model", "a\0b"],
    ids=range(6),
)
def test_a_missing_model_says_what_to_do(name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"\.gguf"):
        load(name, SETTINGS)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"x")
    with pytest.raises(ModelNotFound, match=r"not a \.gguf file"):
        load(str(path), SETTINGS)


@pytest.mark.parametrize(
    ("dtype", "multiplies", "taken"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
    ],
)
def test_what_a_device_multiplies_itself_is_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    multiplies: bool,
    taken: torch.dtype,
) -> None:
    for owner, name in (
        (torch.cpu, "_is_avx512_bf16_supported"),
        (torch.cuda, "is_bf16_supported"),
    ):
        monkeypatch.setattr(owner, name, lambda **_: multiplies)
    runner = load(str(TinyModel().write(tmp_path)), tiny_settings(dtype=dtype)).runner
    assert runner.model.dtype == taken
    assert runner.fingerprint.dtype == str(taken).removeprefix("torch.")


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'cuda:99' cannot be used"):
        load(str(TinyModel().write(tmp_path)), EngineSettings(device="cuda:99"))


@pytest.mark.parametrize("position", range(0, 400, 23))
def test_damage_anywhere_in_the_header_is_typed(position: int, tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[position] ^= 0x15
    weights.write_bytes(content)
    try:
        load(str(folder), SETTINGS)
    except AgentbusError:
        pass  # or the flip was harmless, such as one in the metadata
