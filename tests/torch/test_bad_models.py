"""Models from strangers: files that lie, loop, panic or compute nonsense end typed."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from agentbus_torch import sandbox
from agentbus_torch.chat import read_chat_template
from agentbus_torch.engine import load_engine
from agentbus_torch.gguf_file import GGUFFile
from agentbus_torch.gguf_tokenizer import _LLAMA3
from agentbus_torch.load import load
from agentbus_torch.model_text import read_model_text
from agentbus_torch.tokens import Vocabulary
from jinja2 import TemplateError
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers

from agentbus.context import Prompt, Turn, probe
from agentbus.engine import GenerateRequest, Sampling
from agentbus.errors import AgentbusError, ContextTooLong, EngineFailed, MisuseError, ModelBroken
from tests.torch.test_torch_engine import ask
from tests.torch.tiny import TinyModel, assert_broken, tiny_settings, write_tokenizer

SETTINGS = tiny_settings(kv_tokens=256)
CUE = Turn("assistant", "", "writer")
Edit = Callable[[Path], None]


def _json(name: str, change: Callable[[Any], None]) -> Edit:
    def edit(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return edit


def _header(**changes: object) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header["model.norm.weight"].update(changes)
        written = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(written)) + written + content[8 + length :])

    return edit


def _config(**changes: object) -> Edit:
    return _json("config.json", lambda config: config.update(changes))


def _template(template: object) -> Edit:
    return _json("tokenizer_config.json", lambda config: config.update(chat_template=template))


def _tokenizer(**changes: object) -> Edit:
    return _json("tokenizer.json", lambda tokenizer: tokenizer.update(changes))


def _bytes(name: str, content: bytes) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return edit


def _pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


BROKEN: dict[str, Edit] = {
    "endless_layers": _config(num_hidden_layers=float("inf")),
    "endless_window": _config(max_position_embeddings=10**400),
    "layer_types_of_lists": _config(
        model_type="qwen2", use_sliding_window=True, sliding_window=8, layer_types=[[], []]
    ),
    "endless_shape": _header(shape=[float("inf")]),
    "shape_that_takes_minutes_to_multiply": _header(shape=[10**4000] * 4000),
    "endless_offset": _header(data_offsets=[0, float("inf")]),
    "shards_with_endless_names": _bytes(
        "model.safetensors.index.json", json.dumps({"weight_map": {"a": "x" * 5000}}).encode()
    ),
    "pipe": _pipe,
    "list_of_no_templates": _template([5, []]),
    "deep_expression": _template("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"),
    "deep_blocks": _template("{% if 1 %}" * 3000 + "{% endif %}" * 3000),
    "long_number": _template("{{ " + "9" * 10000 + " }}"),
    "long_template": _template("x" * 2_000_000),
    "template_that_is_no_text": _bytes("chat_template.jinja", b"\xff\xfe"),
    "tokenizer_that_panics_when_read": _tokenizer(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "tokenizer_that_panics_when_used": _tokenizer(
        pre_tokenizer={"type": "FixedLength", "length": 0}
    ),
    "tokenizer_that_knows_no_word": _tokenizer(
        model={
            "type": "WordPiece",
            "vocab": {"a": 0},
            "unk_token": "u",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        }
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_folder_that_lies_is_one_plain_error(how: str, tmp_path: Path) -> None:
    assert_broken(tmp_path, BROKEN[how])


LOOPS = {
    "loops": "{% for i in messages * 999 %}{% for j in messages * 999 %}{% for k in messages * 999 %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "repeats": "{{ 'a' * 9999999999 }}",
    "repeats_lists": "{{ messages * 9999999999 }}",
    "pads": "{{ 'a'.center(9999999999) }}",
    "pads_bytes": "{{ 'a'.encode().ljust(9999999999) }}",
    "pads_numbers": "{{ (1).to_bytes(9999999999, 'big') }}",
    "fills": "{{ messages|batch(9999999999, 'a')|list }}",
    "slices": "{{ messages|slice(9999999999)|list }}",
    "indents": "{{ 'a'|indent(9999999999, true) }}",
    "indents_json": "{{ messages|tojson(indent=9999999999) }}",
    "rounds": "{{ 1|round(-9999999999) }}",
    "rounds_up": "{{ 1.5|round(9999999999, 'ceil') }}",
    "adds": "{{ ([[1]] * 999999)|sum(start=[]) }}",
    "formats": "{{ '{:>9999999999}'.format('a') }}",
    "formats_as_c": "{{ '%9999999999d' % 1 }}",
    "powers": "{{ 10 ** 10 ** 8 }}",
    "products": "{% set n = namespace(x=10) %}{% for i in range(99999) %}{% set n.x = n.x * n.x %}"
    "{% endfor %}",
    "lorem": "{{ lipsum(n=100000) }}",
    "reads": "{% include '/etc/passwd' %}",
    "imports": "{% import 'os' as os %}{{ os.environ }}",
    "climbs": "{{ raise_exception.__globals__ }}{{ x.y.z }}",
}


@pytest.mark.parametrize("how", LOOPS)
def test_a_template_that_would_never_end_is_stopped(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "MAX_STEPS", 5000)
    write_tokenizer(tmp_path, LOOPS[how])
    try:
        render = read_chat_template(tmp_path)
    except ModelBroken:
        return
    with pytest.raises((TemplateError, TypeError)):
        render([{"role": "user", "content": "x"}], True)
    assert not probe(render).append_only


def test_names_of_a_templates_own_are_its_own(tmp_path: Path) -> None:
    source = "{% set n = namespace(sum=1, format='f') %}{{ n.sum }}{{ n.format }}"
    write_tokenizer(tmp_path, source + "{{ [messages]|tojson(indent=2)|length }}{{ 1.5|round(1) }}")
    assert read_chat_template(tmp_path)([], False) == "1f81.5"


def test_steps_are_counted_for_each_rendering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "MAX_STEPS", 12)
    write_tokenizer(tmp_path, "{% for m in messages %}{{ m.content.strip() }}{% endfor %}")
    render = read_chat_template(tmp_path)
    for _ in range(5):
        assert render([{"role": "user", "content": " x "}] * 6, False) == "x" * 6
    with pytest.raises(Exception, match="12 steps"):
        render([{"role": "user", "content": " x "}] * 7, False)


def _spoil(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.anyio
async def test_weights_that_are_no_numbers_give_no_answer(tmp_path: Path) -> None:
    engine = load_engine(str(_spoil(TinyModel().write(tmp_path))), SETTINGS)
    prompt = Prompt((Turn("user", "Tides?"),), CUE)
    requests = [
        GenerateRequest(prompt=prompt, max_tokens=4),
        GenerateRequest(prompt=prompt, max_tokens=4, logprobs=2),
        GenerateRequest(prompt=prompt, max_tokens=4, sampling=Sampling(temperature=1.0)),
        GenerateRequest(prompt=prompt, forced=(5, 6)),
    ]
    for request in requests:
        with pytest.raises(EngineFailed, match="not numbers"):
            await ask(engine, request)
    with pytest.raises(EngineFailed, match="not numbers"):
        await engine.score(prompt, ["x"])
    with pytest.raises(EngineFailed, match="not numbers"):
        await engine.embed(["x"])
    assert engine.stats().locked_blocks == engine.stats().running == 0
    await engine.aclose()


def _pattern(folder: Path, pattern: str) -> Path:
    """Have a tokenizer split text by a pattern, as real ones do."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_text_over_which_a_tokenizer_panics(tmp_path: Path) -> None:
    """Llama 3's own pattern gives up over so many blanks, in a way that ends threads."""
    write_tokenizer(tmp_path)
    vocabulary = Vocabulary.load(_pattern(tmp_path, _LLAMA3))
    with pytest.raises(MisuseError, match="retry-limit"):
        vocabulary.plain(" " * 12_000_000 + "x")
    assert vocabulary.decode(vocabulary.plain("hello")) == "hello"


@pytest.mark.anyio
async def test_a_call_over_which_a_tokenizer_panics_ends_alone(tmp_path: Path) -> None:
    folder = _pattern(TinyModel().write(tmp_path), r"(a+)+$|b")
    engine = load_engine(str(folder), SETTINGS)
    bad = Prompt((Turn("user", "a" * 60 + "b"),), CUE)
    with pytest.raises(MisuseError, match="retry-limit"):
        await ask(engine, GenerateRequest(prompt=bad, max_tokens=2))
    await ask(engine, GenerateRequest(prompt=(5, 6), max_tokens=2))
    await engine.aclose()


@pytest.mark.anyio
async def test_what_no_window_holds_is_not_tokenized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(str(TinyModel().write(tmp_path)), SETTINGS)
    text = "." * 100_000
    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "plain", lambda *_: pytest.fail("tokenized"))
        with pytest.raises(ContextTooLong):
            await ask(engine, GenerateRequest(prompt=Prompt((Turn("user", text),), CUE)))
        with pytest.raises(ContextTooLong):
            await engine.embed([text])
        with pytest.raises(ContextTooLong):
            await engine.score((5,), [text])
    await engine.aclose()


GGUF: dict[str, dict[str, object]] = {
    "endless_layers": {"llama.block_count": 2**62},
    "no_heads": {"llama.attention.head_count": 0.5},
    "heads_in_a_list": {"llama.attention.head_count_kv": [1, 2]},
    "heads_that_do_not_fit": {"llama.attention.head_count": 7},
    "endless_hidden": {"llama.embedding_length": float("inf")},
    "no_number": {"llama.context_length": float("nan")},
}


def _write_gguf(path: Path) -> Path:
    pytest.importorskip("gguf", reason="gguf is not installed")
    from tests.torch.test_gguf import write_gguf

    return write_gguf(path, TinyModel())


@pytest.mark.parametrize("how", GGUF)
def test_a_gguf_file_that_lies(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write_gguf(tmp_path / "model.gguf")
    _lie(monkeypatch, GGUF[how])
    settings = tiny_settings(kv_tokens=64, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ModelBroken):
        load(str(path), settings)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_gguf_file_whose_tokenizer_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write_gguf(tmp_path / "model.gguf")
    _lie(monkeypatch, {"tokenizer.ggml.eos_token_id": -(10**12)})
    assert read_model_text(str(path)).count("tides") == 5
    _lie(monkeypatch, {"tokenizer.ggml.tokens": [5] * 3, "tokenizer.ggml.token_type": (1,) * 3})
    with pytest.raises(AgentbusError):
        read_model_text(str(path))


def _lie(monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]) -> None:
    read = GGUFFile._read

    def lie(self: GGUFFile, *args: Any) -> None:
        read(self, *args)
        self.metadata.update(changes)

    monkeypatch.setattr(GGUFFile, "_read", lie)
