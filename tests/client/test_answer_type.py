"""The value that a model's answer holds: found in what stands around it, and never guessed."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from pydantic import AfterValidator, BaseModel, Field
from typing_extensions import TypedDict

from agentbus.client.answer_type import MAX_ANSWER, AnswerType, Unreadable, answer_type
from agentbus.errors import InvalidSchema


class Part(BaseModel):
    """A part."""

    properties: int
    title: str | None = None


class Verdict(BaseModel):
    """What was found."""

    verdict: Literal["yes", "no"]
    score: Annotated[float, Field(ge=0, le=1)] = 0.5
    parts: list[Part] = []
    day: date | None = None


@dataclass
class Point:
    """A point."""

    x: int
    next: list[Point]


class Row(TypedDict):
    """A row."""

    id: int


class Colour(enum.Enum):
    """Colours."""

    RED = "red"


YES = Verdict(verdict="yes")


def problem(kind: Any, answer: str) -> str:
    with pytest.raises(Unreadable) as raised:
        answer_type(kind).read(answer)
    return str(raised.value)


@pytest.mark.parametrize(
    "answer",
    [
        '{"verdict":"yes"}',
        ' {"verdict": "yes"}\n',
        '```json\n{"verdict": "yes"}\n```',
        '```\n{"verdict": "yes"}\n```',
        'Here it is:\n```json\n{\n  "verdict": "yes"\n}\n```\nCan I help you with more?',
        'The answer [1] is {"verdict": "yes"}, by {all} that I know.',
        'By {all} that I know, {"verdict": "yes"} {"verdict": "no"}',
        '<think>\nIs it {"verdict": "no"}? No.\n</think>\n\n{"verdict": "yes"}',
        'Is it {"verdict": "no"}? No.\n</think>\n```json\n{"verdict": "yes"}\n```',
        '{"verdict": "yes", "other": {"deep": [1, 2]}}',
    ],
)
def test_it_is_found_in_what_stands_around_it(answer: str) -> None:
    assert answer_type(Verdict).read(answer) == YES


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "no JSON object"),
        ("yes", "no JSON object"),
        ("{verdict: yes}", "no JSON object"),
        ('{"verdict": "yes"', "at character 18"),
        ('{"verdict": "no", "parts": [{"verdict": "yes"}]', "delimiter"),
        ('Well: {"a": {"verdict": "yes"}', "delimiter"),
        ('<think>{"verdict": "yes"}', "no JSON object"),
        ('{"verdict": "maybe"}', "verdict: Input should be 'yes' or 'no'"),
        ('{"verdict": "yes", "score": "1"}', "score: Input should be a valid number"),
        ('{"verdict": "yes", "score": 2}', "less than or equal to 1"),
        ('{"verdict": "yes", "score": true}', "score"),
        ('{"verdict": "yes", "score": NaN}', "NaN is no JSON"),
        ('{"verdict": "yes", "x": -Infinity}', "-Infinity is no JSON"),
        ('{"verdict": "yes", "x": 1e999}', "the number 1e999 is too large"),
        ('{"verdict": "yes", "x": -' + "9" * 400 + "}", "the number -999"),
        ('{"verdict": "yes", "verdict": "no"}', "'verdict' stands twice"),
        ('{"verdict": "yes", "x": [{"a": 1, "a": 1}]}', "'a' stands twice"),
        ('{"verdict": "yes", "parts": [{}, {"properties": "1"}]}', "parts.1.properties: Input"),
        ('{"verdict": "yes", "score": ' + "1" * 5000 + "}", "number"),
        ('{"verdict": "yes", "day": "\\ud800"}', "hex escape"),
        ('[{"verdict": "yes"}]', "Input should be an object"),
        ("null", "Input should be an object"),
    ],
)
def test_what_is_none_is_refused_and_why(answer: str, why: str) -> None:
    assert why in problem(Verdict, answer)


@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        (int, " 42\n", 42),
        (int, "```\n42\n```", 42),
        (int, "<think>7?</think>42", 42),
        (bool, "true", True),
        (str, '"</think>"', "</think>"),
        (list[int], "They are [1, 2].", [1, 2]),
        (list[int], "[see there] [2]x[", [2]),
        (object, "anything: [1]", [1]),
        (list[Row], '[{"id": 1}]', [{"id": 1}]),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (dict[str, int], 'so {"a": 1}', {"a": 1}),
        (Colour, '"red"', Colour.RED),
        (Part | None, "null", None),
        (Part | None, 'It is {"properties": 3}', Part(properties=3)),
        (Point, 'x {"x": 1, "next": [{"x": 2, "next": []}]}', Point(1, [Point(2, [])])),
        (Annotated[int, Field(ge=5)], "5", 5),
        (date, '"2024-05-01"', date(2024, 5, 1)),
    ],
)
def test_types_of_all_sorts(kind: Any, answer: str, value: Any) -> None:
    assert answer_type(kind).read(answer) == value


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (int, "In 1066"),
        (int, "1066 and all that"),
        (int, "1.0"),
        (int, '"42"'),
        (bool, "True"),
        (bool, "1"),
        (str, "red"),
        (Colour, "red"),
        (list[int], '{"a": [1]}'),
        (Annotated[int, Field(ge=5)], "4"),
    ],
)
def test_no_value_is_guessed(kind: Any, answer: str) -> None:
    problem(kind, answer)


def test_the_schema_is_closed_and_says_no_more_than_needed() -> None:
    schema = answer_type(Verdict).schema
    assert (
        schema["additionalProperties"] is schema["$defs"]["Part"]["additionalProperties"] is False
    )
    assert set(schema["$defs"]["Part"]["properties"]) == {"properties", "title"}
    assert schema["properties"]["verdict"] == {"enum": ["yes", "no"], "type": "string"}
    assert answer_type(Row).schema["additionalProperties"] is False
    assert answer_type(Point).schema["$defs"]["Point"]["additionalProperties"] is False


def test_the_form_in_words() -> None:
    asked = answer_type(list[int]).asked("Which?")
    assert asked == (
        "Which?\n\nAnswer with JSON alone, which is valid by this JSON schema:\n"
        '{"items":{"type":"integer"},"type":"array"}'
    )
    assert answer_type(list[int]).asked("").startswith("Answer with JSON alone")


@pytest.mark.parametrize("kind", [Callable[[], int], type("Own", (), {})])
def test_a_type_that_json_cannot_stand_for(kind: Any) -> None:
    with pytest.raises(InvalidSchema, match="has none"):
        AnswerType(kind)


@pytest.mark.parametrize("kind", [lambda a=1: a, len, test_a_type_that_json_cannot_stand_for])
def test_a_function_is_no_type_and_is_not_called(kind: Any) -> None:
    with pytest.raises(InvalidSchema, match="it is a function"):
        answer_type(kind)


def test_a_schema_is_no_type() -> None:
    with pytest.raises(InvalidSchema, match="a type is asked for, not a schema"):
        answer_type({"type": "object"})


def test_annotations_without_a_hash_are_no_matter() -> None:
    assert answer_type(Annotated[int, {"unit": "m"}]).read("3") == 3


def test_what_is_read_is_bounded() -> None:
    begin, end = '{"verdict": "yes", "x": "', '"}'
    longest = begin + "x" * (MAX_ANSWER - len(begin) - len(end)) + end
    assert answer_type(Verdict).read(longest) == YES
    assert "over the limit" in problem(Verdict, longest + " ")


def test_what_is_told_is_bounded() -> None:
    answer = '{"verdict": "yes", "parts": [' + ",".join(['{"properties": "x"}'] * 500) + "]}"
    told = problem(Verdict, answer)
    assert told.endswith("; and 492 more")
    assert len(told) < 1000
    long = '{"' + "k" * 100_000 + '": 1, "' + "k" * 100_000 + '": 1}'
    assert len(problem(Verdict, long)) < 300


def test_a_validator_of_ones_own_says_why_and_its_faults_are_its_own() -> None:
    def even(number: int) -> int:
        if number == 5:
            raise ValueError("!" * 5000)
        if number == 1:
            raise ZeroDivisionError
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number

    kind = Annotated[int, AfterValidator(even)]
    assert "3 is odd" in problem(kind, "3")
    assert len(problem(kind, "5")) == 200
    with pytest.raises(ZeroDivisionError):
        answer_type(kind).read("1")


@pytest.mark.parametrize(
    "hostile",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "{" * 400_000,
        "{ " * 400_000,
        '{"' * 400_000,
        '{"a": ' + "9" * 900_000 + "}",
        '{"a": "' + "\\u" * 400_000,
        "</think>" * 100_000 + "<think>" * 20_000,
        "```\n" * 200_000,
        " " * 900_000 + "{",
        "x" * (MAX_ANSWER + 1),
        "\x00",
        '{"verdict": "\x00"}',
    ],
)
@pytest.mark.parametrize("kind", [Verdict, list[Any], int, Part | None])
def test_hostile_answers_are_refused_in_linear_time(hostile: str, kind: Any) -> None:
    begun = time.process_time()
    problem(kind, hostile)
    assert time.process_time() - begun < 2


@given(some.text(alphabet='{}[]":,\\ \nvyes1`<>/', max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_or_refused(answer: str) -> None:
    for kind in (Verdict, dict[str, Any], list[Any], int, Any):
        try:
            answer_type(kind).read(answer)
        except Unreadable as error:
            assert str(error)
