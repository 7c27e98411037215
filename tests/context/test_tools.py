"""Tool schemas: equal meaning has equal bytes, other meanings have others."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.context import canonical_tools, merge_tools, read_call, write_call
from agentbus.context.canonical import parse, write
from agentbus.errors import ToolSchemaError

SEARCH: dict[str, Any] = {
    "name": "search",
    "description": "Finds pages.",
    "parameters": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 1},
            "limit": {"type": "integer", "default": 10, "enum": [10, 20, 5]},
        },
        "required": ["query", "limit"],
        "additionalProperties": False,
    },
}
READ: dict[str, Any] = {"name": "read", "parameters": {"type": "object"}}


def tool(parameters: Any) -> str:
    return canonical_tools([{"name": "f", "parameters": parameters}])


def test_the_form_of_a_list() -> None:
    assert canonical_tools([SEARCH, READ]) == (
        '[{"function":{"name":"read","parameters":{"type":"object"}},"type":"function"},'
        '{"function":{"description":"Finds pages.","name":"search","parameters":'
        '{"additionalProperties":false,"properties":{"limit":{"default":10,"enum":[10,20,5],'
        '"type":"integer"},"query":{"minLength":1,"type":"string"}},'
        '"required":["limit","query"],"type":"object"}},"type":"function"}]'
    )


def test_the_form_is_the_same_for_all_ways_to_write_a_list() -> None:
    expected = canonical_tools([SEARCH, READ])
    wrapped = [{"type": "function", "function": {**READ, "strict": False}}, SEARCH]
    assert canonical_tools(wrapped) == expected
    assert canonical_tools(json.dumps(wrapped, indent=3)) == expected
    assert canonical_tools(json.dumps(wrapped).encode()) == expected
    assert canonical_tools([{**READ, "description": "", "strict": None}, SEARCH]) == expected
    assert canonical_tools([READ, SEARCH, READ]) == expected
    assert canonical_tools(expected) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"minimum": 1}, {"minimum": 1.0}),
        ({"type": "string", "minLength": 0}, {"type": "string"}),
        ({"uniqueItems": False, "minItems": 0}, {}),
        ({"required": []}, {"properties": {}}),
        ({"additionalProperties": True}, {"additionalProperties": {}}),
        ({"additionalProperties": {"minLength": 0}}, {}),
        ({"items": {"readOnly": False}}, {}),
        ({"type": ["string"]}, {"type": "string"}),
        ({"type": ["null", "string"]}, {"type": ["string", "null"]}),
        ({"dependentRequired": {"a": ["c", "b"]}}, {"dependentRequired": {"a": ["b", "c"]}}),
        ({"$defs": {"a": {"required": ["y", "x"]}}}, {"$defs": {"a": {"required": ["x", "y"]}}}),
        ({"anyOf": [{"minLength": 0, "type": "string"}]}, {"anyOf": [{"type": "string"}]}),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"minItems": 0}}},
            {"$ref": "#/$defs/a", "$defs": {"a": {}}},
        ),
    ],
)
def test_equal_meaning_has_equal_bytes(one: Any, other: Any) -> None:
    assert tool(one) == tool(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"enum": [1, 2]}, {"enum": [2, 1]}),
        ({"prefixItems": [{"type": "string"}, {}]}, {"prefixItems": [{}, {"type": "string"}]}),
        ({"examples": [{"minLength": 0}]}, {"examples": [{}]}),
        ({"const": {"required": []}}, {"const": {}}),
        ({"default": ["b", "a"]}, {"default": ["a", "b"]}),
        ({"properties": {"required": {}}}, {}),
        ({"properties": {"minLength": {"type": "string"}}}, {"properties": {}}),
        ({"minLength": False}, {}),
        ({"uniqueItems": 0}, {}),
        ({"minLength": 1}, {}),
        ({"additionalProperties": False}, {}),
        (
            {"additionalProperties": True, "unevaluatedProperties": False},
            {"unevaluatedProperties": False},
        ),
        (
            {
                "$ref": "#/properties/a/additionalProperties",
                "properties": {"a": {"additionalProperties": {}}},
            },
            {"$ref": "#/properties/a/additionalProperties", "properties": {"a": {}}},
        ),
        ({"description": ""}, {}),
    ],
)
def test_other_meaning_has_other_bytes(one: Any, other: Any) -> None:
    assert tool(one) != tool(other)


NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS.map(float) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=15,
)


def shuffled(value: Any, seed: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        seed.shuffle(keys)
        return {key: shuffled(value[key], seed) for key in keys}
    return [shuffled(item, seed) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(value=JSON, seed=st.randoms(use_true_random=False))
def test_key_order_blanks_and_escapes_do_not_count(value: Any, seed: random.Random) -> None:
    text = write(parse(json.dumps(value)))
    loose = json.dumps(shuffled(value, seed), indent=seed.choice([None, 1]), ensure_ascii=False)
    assert write(parse(loose)) == text
    assert write(parse(text)) == text
    assert parse(text) == parse(json.dumps(value))


@settings(deadline=None)
@given(number=NUMBERS, power=st.integers(0, 8))
def test_a_number_has_one_lexeme(number: Any, power: int) -> None:
    lexemes = [f"{number:e}", f"{number:f}", f"{number.scaleb(-power):e}".replace("e", f"e{''}")]
    first, second, _ = (write(parse(lexeme)) for lexeme in lexemes)
    assert first == second
    assert parse(first) == number


def test_numbers_stay_exact_and_are_written_as_short_as_can_be() -> None:
    written = {
        "100": "100", "1e2": "100", "1.50": "1.5", "-0.0": "0", "0e9": "0", "1E+3": "1000",
        "12345678901234567890123": "1.2345678901234567890123e+22", "0.000001": "0.000001",
        "0.00000001": "1e-8", "9007199254740993": "9007199254740993", "1e21": "1e+21",
        "-2.5e-9": "-2.5e-9",
    }  # fmt: skip
    assert {lexeme: write(parse(lexeme)) for lexeme in written} == written


@settings(deadline=None)
@given(schemas=st.lists(st.sampled_from([SEARCH, READ, {"name": "z"}]), max_size=6))
def test_the_order_of_tools_does_not_count(schemas: list[dict[str, Any]]) -> None:
    assert canonical_tools(schemas) == canonical_tools(schemas[::-1])


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
        ("[NaN]", "NaN"),
        ('[{"name": "f", "name": "g"}]', "twice"),
        ('[{"name": "f", "description": "\\ud800"}]', "half a character"),
        ("[" * 10_000, "deep|JSON"),
        ("[" * 70 + "]" * 70, "levels deep"),
        ("[1e9999999999]", "number"),
        ("[" + "9" * 500 + "]", "number"),
        ("{}", "not a list"),
        ("[1]", "not an object"),
        ([{"type": "web_search"}], "name"),
        ([{"type": "custom", "function": {"name": "f"}}], "type and a function"),
        ([{"type": "function", "function": []}], "not an object"),
        ([{"name": "two words"}], "letters"),
        ([{"name": "f", "parameters": []}], "tool f: its parameters"),
        ([{"name": "f", "parameters": "{}"}], "tool f: its parameters"),
        ([{"name": "f", "description": 7}], "description"),
        ([{"name": "f", "strict": "yes"}], "strict"),
        ([{"name": "f"}, {"name": "f", "description": "other"}], "two different tools"),
        ([{"name": f"f{n}"} for n in range(1025)], "limit of 1024"),
        ([{"name": "f", "x": {1, 2}}], "not JSON"),
    ],
)
def test_what_is_no_list_of_tools_is_a_typed_error(tools: Any, words: str) -> None:
    with pytest.raises(ToolSchemaError) as caught:
        canonical_tools(tools)
    assert any(word in str(caught.value) for word in words.split("|")), str(caught.value)


def test_a_list_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(ToolSchemaError, match="over the limit of 4194304"):
        canonical_tools(" " * (4 * 1024 * 1024 + 1))


def test_lists_are_merged_and_one_alone_stays_as_it_is() -> None:
    assert merge_tools(["[ ]"]) == "[ ]"
    assert merge_tools(["[ ]", "[ ]"]) == "[ ]"
    one, two = canonical_tools([SEARCH]), canonical_tools([READ, SEARCH])
    assert merge_tools([one, two]) == merge_tools([two, one]) == two
    with pytest.raises(ToolSchemaError, match="search"):
        merge_tools([one, canonical_tools([{"name": "search"}])])


@settings(deadline=None)
@given(name=st.text(max_size=10), arguments=st.text(max_size=20) | JSON.map(json.dumps))
def test_a_call_is_read_as_it_was_written(name: str, arguments: str) -> None:
    assert read_call(write_call(name, arguments)) == (name, arguments)


def test_a_call_reads_as_models_write_it() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {"a":  1}}\n</tool_call>'
    assert write_call("f", '{"a":  1}') == text
    assert '"arguments": "{a"' in write_call("f", "{a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f()",
        '<tool_call>\n{"name": 1, "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": 1}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {}\n</tool_call>',
        '<tool_call>\n{"name": "f"}\n</tool_call>',
        '<tool_call>\n{"name": }\n</tool_call>',
        '<tool_call>\n{"name": ' + "[" * 100_000 + "}\n</tool_call>",
        '<tool_call>\n{"name": "f", "arguments": ' + "[" * 100_000 + "}\n</tool_call>",
    ],
)
def test_other_texts_are_no_calls(text: str) -> None:
    assert read_call(text) is None
