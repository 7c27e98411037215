"""JSON as YAML in block style, for readers that are better at it than at brackets.

    name: Mia
    flights:
    - number: HAT069
      seats:
        basic: 17

It takes fewer tokens than indented JSON and hardly ever fewer than `json-plain`, so it is one to be
chosen, and not among the forms of which the shortest is taken. A reader of YAML 1.1 and one of 1.2
see the same values, but for numbers such as `1e5`, which 1.1 takes for text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from json import JSONDecoder
from typing import Final, Literal

from ..errors import FormBroken
from .json_value import MAX_DEPTH, Lexeme, Value, compact, equal, parse, quoted, scalar

__all__ = ["YAML"]

_NAME: Final = "yaml/1"
_MAX_KEY: Final = 1024
"""Characters of a key, as YAML allows them."""
_PLAIN: Final = re.compile(r"[^\W\d][\w ./@()+:-]*")
_TAKEN: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that are no text to YAML 1.1, in any case."""
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What YAML does not take as it is, or takes for a line end, and JSON does not escape."""
_BEYOND: Final = {"NaN": ".nan", "Infinity": ".inf", "-Infinity": "-.inf"}
_SAID: Final[dict[str, Value]] = {
    **{written: Lexeme(text) for text, written in _BEYOND.items()},
    "true": True,
    "false": False,
    "null": None,
    "{}": (),
    "[]": [],
}
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_STRINGS: Final = JSONDecoder()


class YAML:
    """The form; value-exact: what is read back is JSON without white space.

    It is for objects and arrays that are not empty, and have no key twice, which YAML forbids.
    """

    name = _NAME
    exact: Literal["value"] = "value"

    def write(self, text: str) -> str | None:
        """See `Form.write`. It may be longer than the text."""
        lines: list[str] = []
        try:
            _write(parse(text), "", "", lines.append)
        except ValueError:
            return None
        return "\n".join(lines)

    def read(self, written: str) -> str:
        """See `Form.read`."""
        return compact(_Reader(written).value())

    def is_same(self, text: str, read: str) -> bool:
        """Compare values."""
        return equal(text, read)


def _is_block(value: Value) -> bool:
    return isinstance(value, tuple | list) and bool(value)


def _is_plain(text: str) -> bool:
    """Say whether a string can do without quotes."""
    return (
        bool(_PLAIN.fullmatch(text))
        and text[-1] not in " :"
        and ": " not in text
        and text.lower() not in _TAKEN
    )


def _text(text: str) -> str:
    if _is_plain(text):
        return text
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted(text))


def _key(text: str) -> str:
    written = _text(text)
    if len(written) > _MAX_KEY:
        raise ValueError("a key is too long")
    return written


def _flat(value: Value) -> str:
    """Return what stands on the line of its key."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, tuple):
        return "{}"
    if isinstance(value, list):
        return "[]"
    return _BEYOND.get(written := scalar(value), written)


def _write(value: Value, first: str, rest: str, put: Callable[[str], None]) -> None:
    """Write lines of an object or array behind `first`, and behind `rest` from the second line on.

    Raises:
        ValueError: YAML cannot say it, or it is no object or array with anything in it.
    """
    if isinstance(value, list) and value:
        for number, one in enumerate(value):
            begin = f"{rest if number else first}- "
            if _is_block(one):
                _write(one, begin, f"{rest}  ", put)
            else:
                put(begin + _flat(one))
    elif isinstance(value, tuple) and value:
        if len(dict(value)) < len(value):
            raise ValueError("a key stands twice")
        for number, (key, one) in enumerate(value):
            begin = f"{rest if number else first}{_key(key)}:"
            if _is_block(one):
                put(begin)
                inner = rest if isinstance(one, list) else f"{rest}  "
                _write(one, inner, inner, put)
            else:
                put(f"{begin} {_flat(one)}")
    else:
        raise ValueError("it is no block")


class _Reader:
    """Reads what `_write` writes, line by line; columns say what belongs to what."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._at = 0

    def value(self) -> Value:
        """Read all of it."""
        value = self._block(0, 0)
        if self._at != len(self._lines):
            raise self._broken("something stands behind its end")
        return value

    def _block(self, column: int, depth: int) -> Value:
        """Read the object or array whose first line is the present one, from a column on."""
        if depth > MAX_DEPTH:
            raise self._broken("it is too deep")
        if self._line(column).startswith("- "):
            return self._array(column, depth)
        return self._object(column, depth)

    def _array(self, column: int, depth: int) -> Value:
        values: list[Value] = []
        while not values or self._goes_on(column, "- "):
            entry = self._line(column + 2)
            if entry.startswith("- ") or self._key_end(entry) is not None:
                values.append(self._block(column + 2, depth + 1))
            else:
                values.append(self._scalar(entry))
                self._at += 1
        return values

    def _object(self, column: int, depth: int) -> Value:
        pairs: list[tuple[str, Value]] = []
        while not pairs or (self._goes_on(column, "") and not self._goes_on(column, "- ")):
            line = self._line(column)
            end = self._key_end(line)
            if end is None:
                raise self._broken("a key is missing")
            key = self._scalar(line[:end])
            if not isinstance(key, str):
                raise self._broken("a key is no text")
            if end + 1 == len(line):
                self._at += 1
                inner = column if self._goes_on(column, "- ") else column + 2
                if not self._goes_on(inner, ""):
                    raise self._broken("a value is missing")
                pairs.append((key, self._block(inner, depth + 1)))
            else:
                pairs.append((key, self._scalar(line[end + 2 :])))
                self._at += 1
        return tuple(pairs)

    def _line(self, column: int) -> str:
        return self._lines[self._at][column:]

    def _goes_on(self, column: int, sign: str) -> bool:
        """Say whether the present line is indented so far, and goes on with a sign."""
        more = self._at < len(self._lines)
        return more and self._lines[self._at].startswith(" " * column + sign)

    def _key_end(self, line: str) -> int | None:
        """Return where the colon behind a key is; None if the line does not begin with a key."""
        if line.startswith('"'):
            end = self._quoted(line)[1]
        else:
            end = line.find(": ")
            end = len(line) - 1 if end < 0 else end
        return end if line[end:] == ":" or line.startswith(": ", end) else None

    def _quoted(self, text: str) -> tuple[str, int]:
        try:
            found: tuple[str, int] = _STRINGS.raw_decode(text)
        except ValueError as error:
            raise self._broken("a string does not end, or is damaged") from error
        return found

    def _scalar(self, text: str) -> Value:
        if text in _SAID:
            return _SAID[text]
        if _NUMBER.fullmatch(text):
            return Lexeme(text)
        if text.startswith('"'):
            string, end = self._quoted(text)
            if end == len(text):
                return string
        elif _is_plain(text):
            return text
        raise self._broken(f"{text[:40]!r} is no value")

    def _broken(self, problem: str) -> FormBroken:
        return FormBroken(_NAME, f"{problem} (at line {self._at + 1})")
