"""A type whose values a model is asked for: as JSON that an answer holds. Pure.

An answer is read strictly, and tolerantly to what stands around the value: fences, prose, thoughts.
No value is guessed: text is no number here, JSON that does not end is none, a key that stands twice
is refused, so is a number that would be read as an infinite one, and what lies within broken JSON is
not taken for the whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from inspect import isroutine
from math import isinf
from typing import Any, Final

import pydantic
from pydantic.json_schema import GenerateJsonSchema

from ..errors import InvalidSchema

__all__ = ["AnswerType", "Unreadable", "answer_type"]

MAX_ANSWER: Final = 1_000_000
"""Characters of the longest answer that is read."""
_MAX_PROBLEMS: Final = 8
"""Of one value, that are told."""
_MAX_PROBLEM: Final = 200
"""Characters of each."""
_BEGINNINGS: Final = ("{", "[", '"', "```")
"""How an answer begins before which nobody thought aloud."""
_FENCED: Final = re.compile(r"```\w*\n(.*)\n```", re.DOTALL)
_OBJECT: Final = r'\{(?=\s*["}])'
_ARRAY: Final = r'\[(?=\s*[\[\]{"\-\dtfn])'
_OPENINGS: Final = {"object": _OBJECT, "array": _ARRAY, None: f"{_OBJECT}|{_ARRAY}"}
"""How a value begins that stands in prose, by the type that the schema names. Other values have to
be the whole answer: prose has numbers and words of its own."""


class Unreadable(ValueError):
    """An answer is not what was asked for; its text says why, in plain words."""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise Unreadable(f"the key {key[:_MAX_PROBLEM]!r} stands twice in one object")
        seen.add(key)


def _no_number(text: str) -> None:
    raise Unreadable(f"{text} is no JSON")


def _no_infinity(text: str) -> str:
    if isinf(float(text)):
        raise Unreadable(f"the number {text[:_MAX_PROBLEM]} is too large")
    return text


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_no_key_twice,
    parse_int=_no_infinity,
    parse_float=_no_infinity,
    parse_constant=_no_number,
)
"""Finds where a value ends; it is pydantic that reads it."""


class _Schema(GenerateJsonSchema):
    """JSON schemas that say no more than is needed, and whose objects have the fields of their type
    alone: a model that may write keys of its own does."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: Any) -> dict[str, Any]:
        return _closed(super().model_schema(schema))

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        return _closed(super().dataclass_schema(schema))

    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        return _closed(super().typed_dict_schema(schema))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema


class AnswerType:
    """One type: its JSON schema, and the value that an answer holds.

    Raises:
        InvalidSchema: it is no type that JSON can stand for.
    """

    __slots__ = ("_adapter", "_opening", "name", "schema")

    def __init__(self, kind: Any) -> None:
        self.name: str = getattr(kind, "__name__", None) or str(kind)
        if isroutine(kind):  # pydantic would call it with what the model says
            raise InvalidSchema(f"{self.name} has none (it is a function)")
        try:
            self._adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(kind)
            self.schema: dict[str, Any] = self._adapter.json_schema(schema_generator=_Schema)
        except pydantic.PydanticUserError as error:
            problem = str(error).partition("\n")[0]
            raise InvalidSchema(f"{self.name} has none ({problem})") from error
        opening = _OPENINGS.get(_type_of(self.schema))
        self._opening = None if opening is None else re.compile(opening)

    def asked(self, text: str) -> str:
        """Return what a model is asked, with the form of the answer in words."""
        schema = json.dumps(self.schema, ensure_ascii=False, separators=(",", ":"))
        form = f"Answer with JSON alone, which is valid by this JSON schema:\n{schema}"
        return f"{text}\n\n{form}" if text else form

    def read(self, answer: str) -> Any:
        """Return the value that an answer holds.

        Raises:
            Unreadable: it holds none of this type.
        """
        if len(answer) > MAX_ANSWER:
            raise Unreadable(f"it has {len(answer)} characters, over the limit of {MAX_ANSWER}")
        try:
            return self._adapter.validate_json(self._found(answer), strict=True)
        except pydantic.ValidationError as error:
            raise Unreadable(_problems_of(error)) from error

    def _found(self, answer: str) -> str:
        """Return the JSON that is the answer, or the first that stands in it."""
        said = _said(answer)
        try:
            _end_of(said, 0, len(said))
        except Unreadable:
            if self._opening is None:
                raise
        else:
            return said
        begin = self._opening.search(said)
        if begin is None:
            raise Unreadable(f"there is no JSON {_type_of(self.schema) or 'value'} in it")
        return said[begin.start() : _end_of(said, begin.start())]


def _said(answer: str) -> str:
    """Return an answer without the thoughts before it, and without the fence around it."""
    said = answer.strip()
    if not said.startswith(_BEGINNINGS):
        said = said.rpartition("</think>")[2].partition("<think>")[0].strip()
    fenced = _FENCED.fullmatch(said)
    return said if fenced is None else fenced[1].strip()


def _end_of(text: str, begin: int, expected: int | None = None) -> int:
    """Return where the value that begins there ends.

    Raises:
        Unreadable: it is no JSON, or does not end where it is to.
    """
    try:
        _, end = _DECODER.raw_decode(text, begin)
    except json.JSONDecodeError as error:
        problem = f"{error.msg[0].lower()}{error.msg[1:]} (at character {error.pos - begin + 1})"
        raise Unreadable(f"it is no JSON: {problem}") from error
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    if expected not in (None, end):
        raise Unreadable("there is more in it than JSON")
    return end


def _type_of(schema: dict[str, Any]) -> Any:
    """Return the type that a schema names, `None` if it names none or several."""
    reference = schema.get("$ref")
    if reference is not None:
        schema = schema.get("$defs", {}).get(reference.rpartition("/")[2], {})
    found = schema.get("type")
    return found if isinstance(found, str) else None


def _problems_of(error: pydantic.ValidationError) -> str:
    """Say what is wrong with a value, place by place."""
    problems = []
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(map(str, one["loc"]))
        problems.append(f"{where}: {one['msg']}" if where else one["msg"])
    more = len(problems) - _MAX_PROBLEMS
    told = "; ".join(problem[:_MAX_PROBLEM] for problem in problems[:_MAX_PROBLEMS])
    return f"{told}; and {more} more" if more > 0 else told


_made: Final[Callable[[Any], AnswerType]] = lru_cache(maxsize=1024)(AnswerType)


def answer_type(kind: Any) -> AnswerType:
    """Return the answer type of a Python type.

    Raises:
        InvalidSchema: it is none, or JSON cannot stand for it.
    """
    if isinstance(kind, dict):
        raise InvalidSchema("a type is asked for, not a schema; `call.answer` takes schemas")
    try:
        return _made(kind)
    except TypeError:  # annotations may hold what has no hash
        return AnswerType(kind)
