"""JSON as YAML: another reader of YAML finds the same values, whatever they are."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from agentbus.errors import FormBroken
from agentbus.filters import LOSSLESS, YAML
from agentbus.filters.json_value import MAX_DEPTH

from .recorded import tool_outputs
from .test_json_forms import TRICKY, texts

FORM = YAML()
HOSTILE = [
    *(
        "no",
        "No",
        "NULL",
        "~",
        "1e3",
        "0x1f",
        "0o7",
        "1_000",
        "12:30:00",
        "2024-05-01",
        ".nan",
        "=",
    ),
    *(": ", "a: b", "a:", ":a", "- ", "- a", "-", "? a", "# a", "a #b", "a # b", "!t", "&a", "*a"),
    *(
        "<<",
        "%T",
        "@a",
        "`a",
        "|",
        ">",
        "'a'",
        '"a"',
        "[a]",
        "{a}",
        "a, b",
        "---",
        "...",
        "a\n...\n",
    ),
    *(
        "two\nlines",
        "\nfirst",
        "last\n",
        "a\tb",
        "\t",
        "  in",
        "out  ",
        "\x85",
        "\u2028",
        "\x7f",
        "\x9f",
    ),
    *(
        "\ufeff",
        "\ufffe",
        "\uffff",
        "😀",
        "漢字",
        "٣",
        "a" * 2000,
        "https://a.b/c?d=e",
        "C:\\d",
        "x:y",
    ),
    *TRICKY,
]
strings = some.one_of(some.sampled_from(HOSTILE), some.text(max_size=12))
values = some.recursive(
    some.one_of(strings, some.integers(), some.booleans(), some.none()),
    lambda inner: some.one_of(
        some.lists(inner, max_size=4), some.dictionaries(strings, inner, max_size=4)
    ),
    max_leaves=20,
)


def by_another(written: str) -> Any:
    """Read YAML by PyYAML, with numbers as YAML 1.2 has them."""
    yaml = pytest.importorskip("yaml", reason="PyYAML, which reads what was written, is missing")

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        """YAML 1.1, but for numbers with an exponent and no point."""

    number = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?[eE][+-]?[0-9]+\Z")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-0123456789"))
    return yaml.load(written, Loader)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and list(one) == list(other)
            and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, list):
        return (
            isinstance(other, list)
            and len(one) == len(other)
            and all(same(*pair) for pair in zip(one, other, strict=True))
        )
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and one == other


def check(text: str) -> str | None:
    """See that a text is left, or reads back as it is."""
    written = FORM.write(text)
    if written is not None:
        assert FORM.is_same(text, FORM.read(written))
        assert FORM.write(text) == written
    return written


@given(values)
@settings(max_examples=600, deadline=None)
def test_another_reader_finds_the_same_values(value: Any) -> None:
    text = json.dumps(value)
    written = check(text)
    if written is None:
        long = any(len(key) >= 1024 for key in re.findall(r'"(\w+)": ', text))
        assert not value or not isinstance(value, dict | list) or long
    elif "\\ud83d" not in text:
        assert same(by_another(written), value)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_stay_what_they_are(text: str) -> None:
    key = text if len(text) < 1000 else "key"
    for value in ([text], {key: text}, [[text, {key: [text]}]], {"a": {key: {}, "b": text}}):
        written = check(json.dumps(value))
        assert written is not None
        if text != "\ud83d":
            assert same(by_another(written), value)


@given(texts)
@settings(max_examples=600, deadline=None)
@example('{"a": 1, "a": 2}')
@example('{"a": {"b": 1, "b": 1}}')
@example("[NaN, -Infinity, 1e5, -0, 1.10, 12345678901234567890123]")
def test_any_json_reads_back(text: str) -> None:
    check(text)


@given(some.text(alphabet='-: \n"a1{}[]', max_size=40))
@settings(max_examples=600, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = FORM.read(text)
    except FormBroken:
        return
    check(read)


def test_how_it_looks() -> None:
    text = json.dumps(
        {
            "name": "Mia Li",
            "zip": "78750",
            "flights": [{"number": "HAT069", "at": "06:00:00", "seats": {"basic": 17}}, [], {}],
            "notes": ["kept: with a colon", [1.5, None]],
        }
    )
    assert FORM.write(text) == (
        'name: Mia Li\nzip: "78750"\nflights:\n- number: HAT069\n  at: "06:00:00"\n  seats:\n'
        '    basic: 17\n- []\n- {}\nnotes:\n- "kept: with a colon"\n- - 1.5\n  - null'
    )


@pytest.mark.parametrize(
    "text",
    ["", "a", "1", '"a"', "{}", "[]", '{"a": 1, "a": 2}', "[1", json.dumps({"k" * 1025: 1})],
)
def test_what_it_is_not_for_is_left(text: str) -> None:
    assert FORM.write(text) is None


def test_depth_is_bounded() -> None:
    for depth in (MAX_DEPTH + 1, 100_000):
        assert FORM.write("[" * depth + "1" + "]" * depth) is None
    just = '{"a":[' * (MAX_DEPTH // 2) + "1" + "]}" * (MAX_DEPTH // 2)
    assert FORM.read(check(just) or "") == just


@pytest.mark.parametrize(
    "broken",
    [
        *(
            "",
            "a",
            "a:",
            "a: ",
            "a:b",
            "- a\nb",
            "a: 1\n",
            "a: 1\n b: 2",
            "a:\nb: 1",
            "- ",
            "-",
            "1: 2",
        ),
        *('"a', '"a"x: 1', '"a": "b', "a: no", "a: 01", "a:\n    b: 1", "- - 1\n - 2", "a: 1\n- 2"),
        *("- " * 5000 + "1", "a: 'b'", "a: |\n  b", "null: 1", " a: 1", "a: b: 1"),
    ],
)
def test_what_it_does_not_write_is_refused(broken: str) -> None:
    with pytest.raises(FormBroken, match="yaml/1"):
        FORM.read(broken)


def test_all_that_was_recorded_is_the_same() -> None:
    written = 0
    for name, text in tool_outputs("json_array", "json_nested"):
        if name.endswith(".jsonl"):
            continue
        found = check(text)
        assert found is not None, name
        if len(text) < 20_000:
            assert same(by_another(found), json.loads(text)), name
        written += 1
    assert written > 15


def test_it_is_there_to_be_chosen() -> None:
    assert FORM.name not in [form.name for form in LOSSLESS]
