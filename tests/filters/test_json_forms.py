"""JSON in fewer tokens: equal in value whatever it holds, or left as it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from agentbus.errors import FormBroken
from agentbus.filters import LOSSLESS, CompactJSON, PlainJSON, PlainJSONLines
from agentbus.filters.json_value import MAX_DEPTH, compact, flaw, parse

from .recorded import conversations, tool_outputs

FORMS = LOSSLESS[:3]
PLAIN, LINES = PlainJSON(), PlainJSONLines()

TRICKY = [
    *("", " ", "a", "true", "null", "1", "1.0", "-0", "1e5", "NaN", "-Infinity", "007", "+1", "٣"),
    *('"', "\\", "\\n", "\n", "\r\n", "\t", "\x00", "\x7f", "\u2028", "\x85", "\xa0", "﻿x"),
    *(
        ",",
        ":",
        "a:",
        ":a",
        "a,b",
        "{",
        "}",
        "[",
        "]",
        "[\na:\n",
        "a{b}",
        "#",
        "é",
        "漢字",
        "😀",
        "\ud83d",
    ),
    *("06:00:00", "03:00:00+1", "a b", " a", "a ", "'", "x" * 50, "a\\u0041", "//", "key"),
]
NUMBERS = [
    *("0", "-0", "1", "1.0", "1.10", "-1.5e-7", "1E400", "123456789012345678901234567890"),
    *("NaN", "Infinity", "-Infinity", "0.1", "9" * 5000),
]

strings = some.one_of(some.sampled_from(TRICKY), some.text(max_size=8))
numbers = some.sampled_from(NUMBERS)
scalars = some.one_of(
    numbers, strings.map(json.dumps), some.sampled_from(["true", "false", "null"])
)


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in pairs) + "}"


def _array(values: list[str]) -> str:
    return "[" + ", ".join(values) + "]"


@some.composite
def tables(draw: some.DrawFn, cells: some.SearchStrategy[str]) -> str:
    """Objects whose keys are the same, or nearly: in an array, or under keys of their own."""
    keys = draw(some.lists(strings, min_size=1, max_size=3))
    inner = draw(some.lists(strings, max_size=2))
    rows = []
    for _ in range(draw(some.integers(1, 4))):
        pairs = [(key, draw(cells)) for key in keys]
        nested = [(key, draw(cells)) for key in inner]
        pairs.insert(draw(some.integers(0, len(pairs))), ("nested", _object(nested)))
        if draw(some.integers(0, 9)) == 0:
            pairs.pop()
        rows.append(_object(pairs))
    if draw(some.booleans()):
        return _object([(draw(strings), row) for row in rows])
    return _array(rows)


texts = some.recursive(
    scalars,
    lambda inner: some.one_of(
        some.lists(inner, max_size=4).map(_array),
        some.lists(some.tuples(strings, inner), max_size=4).map(_object),
        tables(inner),
    ),
    max_leaves=20,
)


def check(text: str) -> None:
    for form in FORMS:
        written = form.write(text)
        if written is None:
            continue
        assert len(written) < len(text)
        assert form.is_same(text, form.read(written)), form.name
        assert form.write(text) == written


@given(texts)
@settings(max_examples=600, deadline=None)
@example('[{"a": 1}, {"a": 1}]')
@example('{"a": 1, "a": 2, "a": {}}')
@example("[[], {}, [[]], [{}], [{}, {}]]")
@example('[{"": {"": ""}}, {"": {"": ""}}]')
@example('  \t\r\n[1.0, 1, 1.00, -0, "1"]\n')
@example('["\\ud83d", "\\ud83d\\ude00", "\\u0000"]')
def test_its_value_is_the_same(text: str) -> None:
    check(text)


@given(some.text(alphabet='{}[]":,\\ \n\tabn1.-eu0', max_size=40))
@settings(max_examples=600, deadline=None)
def test_any_text_is_written_or_left(text: str) -> None:
    check(text)


@given(some.text(alphabet='{}[]":,\n ab1', max_size=30))
@settings(max_examples=600, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    """What is read has that value: writing it gives no other text of that length or less."""
    try:
        found = PLAIN.read(text)
    except FormBroken:
        return
    parse(found)


def test_how_it_looks() -> None:
    text = json.dumps(
        {
            "name": {"first": "Mia", "zip": "78750"},
            "flights": [
                {"number": "HAT069", "at": "06:00:00", "seats": {"basic": 17, "economy": 12}},
                {"number": "HAT083", "at": "03:00:00+1", "seats": {"basic": 16, "economy": 7}},
            ],
            "note": "kept, with a comma",
            "none": None,
        }
    )
    assert PLAIN.write(text) == (
        '{name:{first:Mia,zip:"78750"},flights:[\n'
        "number,at,seats{basic,economy}:\n"
        "HAT069,06:00:00,17,12\n"
        "HAT083,03:00:00+1,16,7],"
        'note:"kept, with a comma",none:null}'
    )


def test_how_objects_under_keys_look() -> None:
    text = json.dumps(
        {
            "variants": {
                "9612497925": {"options": {"color": "blue"}, "price": 50.88},
                "spare": {"options": {"color": "red"}, "price": 49.0},
            },
            "one": {"alone": {"a": 1}},
        }
    )
    assert PLAIN.write(text) == (
        '{variants:{\noptions{color},price:\n"9612497925":blue,50.88\nspare:red,49.0},'
        "one:{alone:{a:1}}}"
    )


@pytest.mark.parametrize(
    "broken",
    [
        *(
            "",
            "{",
            "[",
            "{a",
            "{a:",
            "{a:1",
            "{a:1,",
            "{a:1,}",
            "[1,",
            "[1,]",
            "[,]",
            "{:1}",
            "[1]x",
        ),
        *("[\n", "[\na", "[\na:", "[\na:]", "[\na:\n", "[\na:\n1,2]", "[\na,b:\n1]", "[\na{}:\n1]"),
        *(
            "{\n",
            "{\na",
            "{\na:",
            "{\na:}",
            "{\na:\nk",
            "{\na:\nk:",
            "{\na:\nk:1",
            "{\na:\nk:1,l:1}",
        ),
        *("{\na:\nk:1\n}", "{\na:\n:1}", "{\n}", "{\na,b:\nk:1}", "{\na:\n1}"),
        *('"a', '{"a:1}', '["\\x"]', "[ a]", "[a ]", "a\nb", "[" * 5000, "{a:" * 5000),
        "[\n" + "a{" * 5000,
    ],
)
def test_what_it_does_not_write_is_refused(broken: str) -> None:
    with pytest.raises(FormBroken) as raised:
        PLAIN.read(broken)
    assert "json-plain/2" in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "a", "12", "[1", "{'a': 1}", '{"a": 01}', '["\x01"]', "\ufeff[]"]
)
def test_what_is_no_json_is_left(text: str) -> None:
    assert [form.write(text) for form in FORMS] == [None] * 3


def test_depth_is_bounded() -> None:
    for depth in (MAX_DEPTH + 1, 900, 100_000):
        text = "[ " * depth + "1" + " ]" * depth
        assert [form.write(text) for form in FORMS] == [None] * 3
    just = "[ " * MAX_DEPTH + "1" + " ]" * MAX_DEPTH
    assert parse(PLAIN.read(PLAIN.write(just) or "")) == parse(just)
    brackets = json.dumps(["[[[[" * 100, "}}}"], indent=1)
    assert PLAIN.write(brackets) is not None


def test_time_is_linear() -> None:
    """Eight times the text takes nowhere near 64 times as long."""

    def taken(rows: int) -> float:
        made = [{"id": n, "name": f"row {n}", "in": {"a": [n, {"b": str(n)}]}} for n in range(rows)]
        text = json.dumps(made)
        begun = time.process_time()
        written = PLAIN.write(text)
        assert written is not None
        PLAIN.read(written)
        return time.process_time() - begun

    few = min(taken(2000) for _ in range(3))
    assert taken(16000) < 32 * few + 0.2


def recorded() -> Iterator[tuple[str, str]]:
    yield from tool_outputs()
    for name, messages in conversations():
        for message in messages:
            yield name, message["content"]


def test_all_that_was_recorded_is_the_same() -> None:
    written = 0
    for name, text in recorded():
        check(text)
        written += PLAIN.write(text) is not None
        assert name
    assert written > 300


@pytest.mark.parametrize(("kind", "share"), [("json_nested", 0.15), ("json_array", 0.25)])
def test_it_is_shorter_by(kind: str, share: float) -> None:
    for name, text in tool_outputs(kind):
        if name.endswith(".jsonl"):
            continue
        written = PLAIN.write(text)
        assert written is not None
        assert len(written) < (1 - share) * len(text), name


@given(some.lists(texts, min_size=1, max_size=5), some.sampled_from(["", "\n", "\n\n"]))
@settings(max_examples=300, deadline=None)
def test_lines_stay_lines(lines: list[str], end: str) -> None:
    text = "\n".join(line.replace("\n", " ") for line in lines) + end
    written = LINES.write(text)
    if written is None:
        return
    read = LINES.read(written)
    assert [parse(line) for line in read.split("\n") if line] == [parse(line) for line in lines]
    assert LINES.is_same(text, read)
    assert not LINES.is_same(text, read + "\n")
    assert not LINES.is_same(text, "[]\n" + read)


def test_how_lines_look() -> None:
    text = (
        '{"time": "09:00", "level": "info", "n": 1}\n{"time": "09:01", "level": "warn", "n": 2}\n'
        * 2
    )
    written = LINES.write(text)
    assert written == (
        "JSON Lines, one by one:\n[\ntime,level,n:\n"
        + ("09:00,info,1\n09:01,warn,2\n" * 2).removesuffix("\n")
        + "]\n"
    )
    for broken in ("", "[]", "JSON Lines, one by one:\n", "JSON Lines, one by one:\n{}"):
        with pytest.raises(FormBroken):
            LINES.read(broken)


def test_compact_json_is_json() -> None:
    assert (
        CompactJSON().write('{ "a" : [ 1.0, "\\u00e9", "\\ud800" ] }')
        == '{"a":[1.0,"é","\\ud800"]}'
    )
    assert compact(parse("[ ]")) == "[]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": nan}', "line 1, column 7: expecting value"),
        ('{"a": 1, "b" : [1, 2', "line 1, column 21: expecting ',' delimiter"),
        ('{\n "a": "x', "line 2, column 7: unterminated string starting"),
        ('{"a": 1} and more', "line 1, column 10: extra data"),
        ('{"a":1}\n{"a":2}\n{"a":', "line 3, column 6: expecting value"),
        ('{"a":1}\n\n{"a":2}\n', "line 2, column 1: expecting value"),
    ],
)
def test_it_is_said_why_a_text_is_no_json(text: str, said: str) -> None:
    assert all(form.write(text) is None for form in FORMS)
    assert flaw(text) == f"it is no JSON ({said})"


@pytest.mark.parametrize("text", ["[INFO] up", "[2024-01-01] up", "{{ name }}", "[x](y)", "", "{"])
def test_of_what_does_not_begin_as_json_nothing_is_said(text: str) -> None:
    assert flaw(text) == ""


@settings(deadline=None)
@given(some.one_of(texts, some.lists(texts, min_size=2).map("\n".join)))
def test_json_has_no_flaw(text: str) -> None:
    assert flaw(text) == ""


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 65 + "1" + "}" * 65])
def test_what_is_too_deep_is_called_so(text: str) -> None:
    assert flaw(text) == "it is too deep"
