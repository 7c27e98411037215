"""Calls of tools in the families' formats, whole, in pieces, and broken."""

from __future__ import annotations

import itertools
import json

import pytest
from agentbus_torch.tool_calls import (
    FORMATS,
    MAX_CALL_CHARACTERS,
    MAX_CALLS,
    ToolCallReader,
    find_format,
    read_calls,
)
from hypothesis import given
from hypothesis import strategies as st

from agentbus.engine import ToolCall

NAMES = frozenset({"tide", "moon"})
TIDE = ToolCall("tide", {"port": "Brest", "hours": [1, 2]})
MOON = ToolCall("moon", {})
TIDE_JSON = '{"name": "tide", "arguments": {"port": "Brest", "hours": [1, 2]}}'
MOON_JSON = '{"name": "moon", "arguments": {}}'

READ = {
    "hermes": (
        "hermes",
        f"I look.\n<tool_call>\n{TIDE_JSON}\n</tool_call>\n<tool_call>{MOON_JSON}</tool_call>\n",
        "I look.\n",
        [TIDE, MOON],
    ),
    "hermes_list": (
        "hermes",
        f"<tool_call>[{TIDE_JSON}, {MOON_JSON}]</tool_call>",
        "",
        [TIDE, MOON],
    ),
    "hermes_unclosed": ("hermes", f"<tool_call>\n{TIDE_JSON}\n", "", [TIDE]),
    "hermes_none": ("hermes", 'A <tool or {"name": "tide"}', 'A <tool or {"name": "tide"}', []),
    "llama3": (
        "llama3",
        '{"name": "tide", "parameters": {"port": "Brest", "hours": [1, 2]}}',
        "",
        [TIDE],
    ),
    "llama3_tagged": (
        "llama3",
        ' <|python_tag|>{"name": "moon", "parameters": {}}; {"name": "moon", "parameters": {}}',
        " ",
        [MOON, MOON],
    ),
    "llama3_text": ("llama3", "Braces { come later }", "Braces { come later }", []),
    "mistral": (
        "mistral",
        f"Well. [TOOL_CALLS] [{TIDE_JSON}, {MOON_JSON}]",
        "Well. ",
        [TIDE, MOON],
    ),
    "mistral_named": (
        "mistral",
        '[TOOL_CALLS]tide[ARGS]{"port": "Brest", "hours": [1, 2]}[TOOL_CALLS]moon{}',
        "",
        [TIDE, MOON],
    ),
    "arguments_as_text": (
        "hermes",
        '<tool_call>{"name": "moon", "arguments": "{}"}</tool_call>',
        "",
        [MOON],
    ),
}


def run(kind: str, pieces: list[str]) -> tuple[str, ToolCallReader]:
    reader = ToolCallReader(FORMATS[kind], NAMES)
    shown = "".join(map(reader.add, pieces))
    return shown + reader.rest(), reader


@pytest.mark.parametrize("case", READ)
@given(cuts=st.lists(st.integers(0, 120), max_size=8))
def test_calls_are_read_wherever_the_text_is_cut(case: str, cuts: list[int]) -> None:
    kind, text, expected, calls = READ[case]
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    for parts in (pieces, list(text)):
        shown, reader = run(kind, parts)
        assert (shown, reader.calls, reader.malformed) == (expected, calls, 0)


BROKEN = {
    "not_json": ("hermes", "<tool_call>tide, please</tool_call>"),
    "cut_off": ("hermes", '<tool_call>{"name": "tide", "argum'),
    "unknown_tool": ("hermes", '<tool_call>{"name": "sun", "arguments": {}}</tool_call>'),
    "no_name": ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    "arguments_are_a_list": ("hermes", '<tool_call>{"name": "tide", "arguments": []}</tool_call>'),
    "name_is_a_list": ("hermes", '<tool_call>{"name": ["tide"], "arguments": {}}</tool_call>'),
    "not_a_number": ("hermes", '<tool_call>{"name": "tide", "arguments": {"a": NaN}}</tool_call>'),
    "infinite": ("hermes", '<tool_call>{"name": "tide", "arguments": {"a": 1e999}}</tool_call>'),
    "deep": ("hermes", "<tool_call>" + "[" * 100_000 + "</tool_call>"),
    "text_behind": ("llama3", '{"name": "tide", "parameters": {}} and so on'),
    "other_json": ("llama3", '{"tide": "spring"}'),
    "empty": ("mistral", "[TOOL_CALLS]"),
    "one_of_two": ("mistral", f'[TOOL_CALLS][{TIDE_JSON}, {{"name": "sun"}}]'),
    "too_many": ("mistral", "[TOOL_CALLS][" + ",".join([MOON_JSON] * (MAX_CALLS + 1)) + "]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_call_is_text_and_is_counted(case: str) -> None:
    kind, text = BROKEN[case]
    shown, reader = run(kind, [text[n : n + 7] for n in range(0, len(text), 7)])
    assert (shown, reader.calls, reader.malformed) == (text, [], 1)


def test_a_good_call_behind_a_malformed_one_is_read() -> None:
    bad = "<tool_call>?</tool_call>"
    shown, reader = run("hermes", [f"{bad}\n<tool_call>{MOON_JSON}</tool_call>"])
    assert (shown, reader.calls, reader.malformed) == (bad + "\n", [MOON], 1)


def test_a_call_without_end_is_not_kept_for_ever() -> None:
    reader = ToolCallReader(FORMATS["hermes"], NAMES)
    text = "<tool_call>" + "x" * MAX_CALL_CHARACTERS
    assert reader.add(text) == text and reader.malformed == 1 and reader.rest() == ""


@given(st.text('<tool_ca>/{}"name:mo[],;\n', max_size=60), st.sampled_from(sorted(FORMATS)))
def test_nothing_is_lost_of_what_is_no_call(text: str, kind: str) -> None:
    shown, reader = run(kind, list(text))
    assert shown == text or reader.calls


def test_numbers_of_a_call_are_those_that_were_written() -> None:
    number = 12345678901234567890123
    inner = f'{{"port": {number}}}'
    for arguments in (inner, json.dumps(inner)):
        text = f'{{"name": "tide", "arguments": {arguments}}}'
        assert read_calls(text, NAMES) == (ToolCall("tide", {"port": number}),)


def test_what_a_call_is_not_is_read_once() -> None:
    blanks = " " * 100_000
    assert read_calls("[];" * 300_000, frozenset({"find"})) == ()
    assert read_calls(f"find{blanks}x", frozenset({"find"})) == ()
    assert read_calls(f"find{blanks}[CALL_ID]x1[ARGS]{blanks}{{}}", frozenset({"find"})) == (
        ToolCall("find", {}),
    )


def test_the_format_is_that_of_the_template() -> None:
    assert find_format("… '<|python_tag|>' …") is FORMATS["llama3"]
    assert find_format("… '[TOOL_CALLS]' …") is FORMATS["mistral"]
    assert find_format("… <tool_call> …") is find_format("") is FORMATS["hermes"]
