"""Answers of a real engine that are kept to a schema or to a call, with the tiny model."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
import torch
from agentbus_torch.choose import Chooser, pick
from agentbus_torch.engine import TorchEngine, load_engine
from agentbus_torch.grammar import MAX_GRAMMARS, Grammars, Matcher, allowed
from agentbus_torch.tool_calls import FORMATS, ToolFormat, read_calls

from agentbus.engine import GenerateRequest, Sampling
from agentbus.errors import ConfigError, InvalidSchema
from agentbus.testing.contracts.answers import answer, ids, prompt
from tests.torch.schemas import random_schema
from tests.torch.tiny import DEVICE, TinyModel, tiny_settings, vocabulary, write_tokenizer

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
pytest.importorskip("llguidance", reason="llguidance (the extra 'grammar') is not installed")

WORDS = vocabulary()
ENDS = frozenset({0, 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(window=2048).write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[TorchEngine]:
    opened = load_engine(str(folder), tiny_settings(kv_tokens=4096))
    yield opened
    await opened.aclose()


@pytest.fixture
def grammars(tmp_path: Path) -> Grammars:
    write_tokenizer(tmp_path)
    # a model's matrix is often wider than its tokenizer
    return Grammars((tmp_path / "tokenizer.json").read_text(), len(WORDS) + 37, sorted(ENDS))


def decode(tokens: list[int]) -> str:
    from tokenizers import decoders

    return str(decoders.ByteLevel().decode([WORDS[n] for n in tokens]))


def babble(grammars: Grammars, schema: Mapping[str, object], seed: int) -> str:
    """Say what a model that knows nothing says under a grammar."""
    chooser = Chooser(
        Sampling(temperature=1.0, seed=seed), end_ids=ENDS, matcher=grammars.of_schema(schema)
    )
    scores = torch.zeros(1, len(WORDS) + 37, device=DEVICE)
    tokens: list[int] = []
    for _ in range(1500):
        (chosen,) = pick(scores, [chooser]).read()
        assert chosen.error is None
        if chosen.ends:
            return decode(tokens)
        tokens.append(chosen.token)
        if chosen.complete:
            return decode(tokens)
    raise AssertionError(f"no end: {decode(tokens)[:200]}")


@pytest.mark.parametrize("seed", range(50))
def test_every_answer_is_valid_by_its_schema(seed: int, grammars: Grammars) -> None:
    schema = random_schema(seed)
    jsonschema.Draft202012Validator.check_schema(schema)
    for draw in range(4):
        jsonschema.validate(json.loads(babble(grammars, schema, draw)), schema)


@pytest.mark.anyio
async def test_an_engines_answers_are_valid(engine: TorchEngine) -> None:
    for seed in range(50):
        schema = random_schema(seed)
        warm = Sampling(temperature=1.0, seed=seed) if seed % 2 else Sampling()
        request = GenerateRequest(
            prompt=prompt("Tides."), max_tokens=1500, schema=schema, sampling=warm
        )
        pieces, finished = await answer(engine, request)
        assert finished.reason == "end"
        value = json.loads("".join(piece.text for piece in pieces))
        jsonschema.validate(value, schema)
    assert engine.stats().locked_blocks == 0


@pytest.mark.anyio
async def test_a_schema_and_a_free_answer_share_kv(engine: TorchEngine) -> None:
    """What is asked of the answer changes nothing in the prompt's KV."""
    free = GenerateRequest(prompt=prompt("Tides."), max_tokens=3, ignore_end=True)
    first, _ = await answer(engine, free)
    kept = GenerateRequest(prompt=prompt("Tides."), max_tokens=9, schema={"enum": [1, 2]})
    _, finished = await answer(engine, kept)
    assert finished.usage.prefilled_tokens == 1
    assert (await answer(engine, free))[0] == first


REFUSED: dict[str, dict[str, Any]] = {
    "unknown_type": {"type": "tide"},
    "unknown_keyword": {"type": "array", "uniqueItems": True},
    "dangling_reference": {"$ref": "#/$defs/nothing"},
    "bad_pattern": {"type": "string", "pattern": "("},
    "look_behind": {"type": "string", "pattern": "(?<=a)b"},
    "nothing_is_valid": {"anyOf": []},
    "empty_range": {"type": "integer", "minimum": 3, "maximum": 2},
    "too_large": {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(6000)}},
    "leniency_of_its_own": {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}},
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_compiled_is_a_typed_error(case: str, engine: TorchEngine) -> None:
    request = GenerateRequest(prompt=prompt("Tides."), max_tokens=9, schema=REFUSED[case])
    with pytest.raises(InvalidSchema) as refused:
        await answer(engine, request)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600
    assert engine.stats().locked_blocks == engine.stats().running == 0
    call = GenerateRequest(
        prompt=prompt("Tides."),
        tools=({"name": "tide", "parameters": REFUSED[case]},),
        tool_choice="required",
    )
    with pytest.raises(InvalidSchema):
        await answer(engine, call)


@pytest.mark.anyio
async def test_others_go_on_while_a_schema_is_compiled(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, resume = threading.Event(), threading.Event()
    original = Grammars.of_schema

    def slowly(grammars: Grammars, schema: Mapping[str, object]) -> Matcher:
        compiling.set()
        resume.wait(20)
        return original(grammars, schema)

    monkeypatch.setattr(Grammars, "of_schema", slowly)
    kept = GenerateRequest(prompt=prompt("Tides."), max_tokens=9, schema={"const": 12})
    said = []

    async def ask() -> None:
        said.extend((await answer(engine, kept))[0])

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        with anyio.fail_after(20):
            while not compiling.is_set():
                await anyio.lowlevel.checkpoint()
        free = GenerateRequest(prompt=prompt("Moon."), max_tokens=3, ignore_end=True)
        assert len(ids((await answer(engine, free))[0])) == 3 and not said
        resume.set()
    assert "".join(piece.text for piece in said).strip() == "12"


def test_masks_are_those_of_each_row(grammars: Grammars) -> None:
    matchers = [grammars.of_schema({"enum": values}) for values in (["a"], [1, 2], [True, None])]
    mask = allowed(matchers[::2], len(WORDS) + 37)
    first = [{WORDS[n] for n in row.nonzero()[:, 0].tolist()} for row in mask]
    assert '"' in first[0] and first[1] >= {"t", "n"} and "1" not in first[0] | first[1]
    assert mask.shape == (2, len(WORDS) + 37) and not mask[:, len(WORDS) :].any()


def test_compiled_grammars_are_kept_and_bounded(grammars: Grammars) -> None:
    first = grammars.of_schema({"const": 7})
    first.accept(WORDS.index("7"))
    again = grammars.of_schema({"const": 7})  # begins anew
    assert allowed([again], len(WORDS) + 37)[0, WORDS.index("7")]
    for number in range(MAX_GRAMMARS + 5):
        grammars.of_schema({"const": number})
    assert len(grammars._compiled) == MAX_GRAMMARS


TOOLS: dict[str, dict[str, Any]] = {
    "tide": {
        "type": "object",
        "properties": {"port": {"enum": ["Brest", "Dover"]}, "hours": {"const": 3}},
        "required": ["port"],
        "additionalProperties": False,
    },
    "moon": {"type": "object", "properties": {}, "additionalProperties": False},
}


def said(grammars: Grammars, tool_format: ToolFormat, seed: int, once: bool) -> str:
    tools = {"tide": TOOLS["tide"]} if once else TOOLS
    grammar = tool_format.grammar(tools, lambda text: None, once=once)
    chooser = Chooser(
        Sampling(temperature=1.0, seed=seed), end_ids=ENDS, matcher=grammars.of_text(grammar)
    )
    scores = torch.zeros(1, len(WORDS) + 37, device=DEVICE)
    scores[0, sorted(ENDS)] = 2.0
    tokens: list[int] = []
    while True:
        (chosen,) = pick(scores, [chooser]).read()
        if chosen.ends:
            return decode(tokens)
        tokens.append(chosen.token)
        if chosen.complete:
            return decode(tokens)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("once", [True, False])
def test_required_calls_can_be_read_and_are_valid(
    name: str, once: bool, grammars: Grammars
) -> None:
    tool_format = FORMATS[name]
    for seed in range(5):
        text = said(grammars, tool_format, seed, once)
        parts = text.removeprefix(tool_format.tag).split("</tool_call>\n<tool_call>")
        for part in parts:
            calls = read_calls(part.replace("</tool_call>", ""), frozenset(TOOLS))
            assert calls and (not once or len(calls) == 1 == len(parts))
            for call in calls:
                jsonschema.validate(call.arguments, TOOLS[call.name])


class Exhausted:
    """A parser that is over llguidance's limits."""

    def unsafe_compute_mask_ptr(self, pointer: int, size: int) -> None:
        pass

    def is_error(self) -> bool:
        return True

    def get_error(self) -> str:
        return "too complex"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_over_its_limits_ends_its_own_answer_only(
    temperature: float, grammars: Grammars
) -> None:
    warm = Sampling(temperature=temperature, seed=1)
    good = Chooser(warm, end_ids=ENDS, matcher=grammars.of_schema({"const": 7}))
    spent = Chooser(warm, end_ids=ENDS, matcher=Matcher(cast(Any, Exhausted())))
    first, second = pick(torch.zeros(2, len(WORDS) + 37, device=DEVICE), [spent, good]).read()
    assert isinstance(first.error, InvalidSchema) and "too complex" in str(first.error)
    assert second.error is None and WORDS[second.token] in ("7", "Ġ")


def test_without_the_package_the_error_names_the_extra(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "llguidance":
            raise ImportError("No module named 'llguidance'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"fm-agentbus\[grammar\]"):
        grammars.of_schema({"const": 1})


def test_a_tokenizer_that_is_larger_than_its_model(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    small = Grammars((tmp_path / "tokenizer.json").read_text(), 100, sorted(ENDS))
    with pytest.raises(ConfigError, match="vocab size"):
        small.of_schema({"type": "string"})
