"""JSON without what its reader can do without: quotes around plain words, and keys said again in
every row.

    {name:{first_name:Mia,last_name:Li},flights:[
    number,origin,seats{basic,economy}:
    HAT069,JFK,17,12
    HAT083,JFK,16,7]}

- An array of objects of the same keys is a table: after `[` and a line end the keys, with those of
  nested objects in braces, then a colon, then a line for each object. So is an object of such
  objects; there each line begins with the object's own key and a colon.
- A string stands without quotes if it cannot be taken for anything else: `"12"` keeps them.
- All else is JSON without white space.

It was inspired by TOON (https://toonformat.dev), which has a line for each key; nested tables and no
indentation take fewer tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from json import JSONDecoder
from typing import Final, Literal, TypeAlias

from ..errors import FormBroken
from .json_value import MAX_DEPTH, Lexeme, Value, compact, equal, parse, quoted, scalar

__all__ = ["PlainJSON", "PlainJSONLines"]

Shape: TypeAlias = "tuple[tuple[str, Shape | None], ...]"
"""An object's keys, with the shapes of those that are objects."""

_NAME: Final = "json-plain/2"
_LINES: Final = "JSON Lines, one by one:\n"
_MIN_ROWS: Final = 2
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.$-]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|NaN|-?Infinity")
_WORDS: Final = {"true": True, "false": False, "null": None}
_SPECIAL: Final = re.compile('[,{}\\[\\]"\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]')
_STRINGS: Final = JSONDecoder()
_END: Final = re.compile(r"[,{}\[\]\n]")


class PlainJSON:
    """The form; value-exact: what is read back is JSON without white space."""

    name = _NAME
    exact: Literal["value"] = "value"

    def write(self, text: str) -> str | None:
        """See `Form.write`."""
        try:
            value = parse(text)
        except ValueError:
            return None
        if not isinstance(value, tuple | list):
            return None
        parts: list[str] = []
        _write(value, parts.append)
        written = "".join(parts)
        return written if len(written) < len(text) else None

    def read(self, written: str) -> str:
        """See `Form.read`."""
        reader = _Reader(written)
        value = reader.value(0)
        reader.expect_end()
        return compact(value)

    def is_same(self, text: str, read: str) -> bool:
        """Compare values."""
        return equal(text, read)


class PlainJSONLines:
    """JSON Lines as one table, or as an array: value-exact, line by line.

    A first line says what it was; the last line's end is there if the text had it.
    """

    name = "json-lines/1"
    exact: Literal["value"] = "value"

    def write(self, text: str) -> str | None:
        """See `Form.write`."""
        try:
            values = _lines(text)
        except ValueError:
            return None
        if len(values) < _MIN_ROWS or not all(isinstance(one, tuple | list) for one in values):
            return None
        parts: list[str] = [_LINES]
        _write(values, parts.append)
        written = "".join(parts) + "\n" * text.endswith("\n")
        return written if len(written) < len(text) else None

    def read(self, written: str) -> str:
        """See `Form.read`."""
        if not written.startswith(_LINES):
            raise FormBroken(self.name, "its first line is another")
        ended = written.endswith("\n")
        reader = _Reader(written.removeprefix(_LINES).removesuffix("\n"))
        values = reader.value(0)
        reader.expect_end()
        if not isinstance(values, list):
            raise FormBroken(self.name, "it is no array")
        return "\n".join(map(compact, values)) + "\n" * ended

    def is_same(self, text: str, read: str) -> bool:
        """Compare the values of all lines."""
        try:
            same = _lines(text) == _lines(read)
        except ValueError:
            return False
        return same and text.endswith("\n") == read.endswith("\n")


def _lines(text: str) -> list[Value]:
    return [parse(line) for line in text.removesuffix("\n").split("\n")]


def _is_plain(text: str) -> bool:
    """Say whether a string can do without quotes."""
    return (
        bool(text)
        and not _SPECIAL.search(text)
        and text == text.strip()
        and text not in _WORDS
        and not _NUMBER.fullmatch(text)
    )


def _key(text: str) -> str:
    return text if _KEY.fullmatch(text) else quoted(text)


def _write(value: Value, put: Callable[[str], None]) -> None:
    if isinstance(value, str):
        put(value if _is_plain(value) else quoted(value))
    elif isinstance(value, tuple):
        put("{")
        _write_pairs(value, put)
        put("}")
    elif isinstance(value, list):
        put("[")
        shape = _common_shape(value)
        if shape is None:
            _write_row(value, put)
        else:
            put(f"\n{_head(shape)}:")
            for one in value:
                put("\n")
                _write_row(_cells(one, shape), put)
        put("]")
    else:
        put(scalar(value))


def _write_pairs(pairs: tuple[tuple[str, Value], ...], put: Callable[[str], None]) -> None:
    shape = _common_shape([one for _, one in pairs])
    if shape is not None:
        put(f"\n{_head(shape)}:")
    for number, (key, one) in enumerate(pairs):
        if shape is not None:
            put(f"\n{_key(key)}:")
            _write_row(_cells(one, shape), put)
        else:
            put(f"{',' if number else ''}{_key(key)}:")
            _write(one, put)


def _write_row(values: Iterator[Value] | list[Value], put: Callable[[str], None]) -> None:
    for number, value in enumerate(values):
        if number:
            put(",")
        _write(value, put)


def _shape(value: Value) -> Shape | None:
    if not isinstance(value, tuple) or not value:
        return None
    return tuple((key, _shape(one)) for key, one in value)


def _common_shape(values: list[Value]) -> Shape | None:
    """Return the shape that several values have, if they are objects of one; else None."""
    if len(values) < _MIN_ROWS:
        return None
    shape = _shape(values[0])
    return None if any(_shape(value) != shape for value in values[1:]) else shape


def _head(shape: Shape) -> str:
    return ",".join(_key(key) + (f"{{{_head(one)}}}" if one else "") for key, one in shape)


def _cells(value: Value, shape: Shape) -> Iterator[Value]:
    """Yield what stands in an object of that shape, with that of nested ones in their places."""
    assert isinstance(value, tuple)
    for (_, one), (_, inner) in zip(value, shape, strict=True):
        if inner is None:
            yield one
        else:
            yield from _cells(one, inner)


class _Reader:
    """Reads one text, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def value(self, depth: int) -> Value:
        """Read a value."""
        if depth > MAX_DEPTH:
            raise self._broken("it is too deep")
        first = self._text[self._at : self._at + 1]
        if first == "{":
            return self._object(depth)
        if first == "[":
            return self._array(depth)
        if first == '"':
            return self._quoted()
        return self._bare()

    def expect_end(self) -> None:
        """Raise if anything is left."""
        if self._at != len(self._text):
            raise self._broken("something stands behind its end")

    def _object(self, depth: int) -> Value:
        self._at += 1
        shape: Shape | None = None
        if self._takes("\n"):
            shape = self._head(depth + 1)
            self._expect(":")
            self._expect("\n")
        elif self._takes("}"):
            return ()
        pairs: list[tuple[str, Value]] = []
        while True:
            key = self._key()
            self._expect(":")
            if shape is None:
                pairs.append((key, self.value(depth + 1)))
            else:
                pairs.append((key, self._row(shape, depth + 1, first=True)))
            if self._takes("}"):
                return tuple(pairs)
            self._expect("," if shape is None else "\n")

    def _array(self, depth: int) -> Value:
        self._at += 1
        if self._takes("\n"):
            return self._table(depth)
        values: list[Value] = []
        if self._takes("]"):
            return values
        while True:
            values.append(self.value(depth + 1))
            if self._takes("]"):
                return values
            self._expect(",")

    def _table(self, depth: int) -> Value:
        shape = self._head(depth + 1)
        self._expect(":")
        rows: list[Value] = []
        while True:
            self._expect("\n")
            rows.append(self._row(shape, depth + 1, first=True))
            if self._takes("]"):
                return rows

    def _head(self, depth: int) -> Shape:
        if depth > MAX_DEPTH:
            raise self._broken("it is too deep")
        shape: list[tuple[str, Shape | None]] = []
        while True:
            key = self._key()
            inner = None
            if self._takes("{"):
                inner = self._head(depth + 1)
                self._expect("}")
            shape.append((key, inner))
            if not self._takes(","):
                return tuple(shape)

    def _row(self, shape: Shape, depth: int, *, first: bool) -> Value:
        pairs: list[tuple[str, Value]] = []
        for key, inner in shape:
            if inner is not None:
                pairs.append((key, self._row(inner, depth + 1, first=first)))
            else:
                if not first:
                    self._expect(",")
                pairs.append((key, self.value(depth + 1)))
            first = False
        return tuple(pairs)

    def _key(self) -> str:
        if self._text[self._at : self._at + 1] == '"':
            return self._quoted()
        found = _KEY.match(self._text, self._at)
        if found is None:
            raise self._broken("a key is missing")
        self._at = found.end()
        return found[0]

    def _quoted(self) -> str:
        try:
            text, self._at = _STRINGS.raw_decode(self._text, self._at)
        except ValueError as error:
            raise self._broken("a string does not end, or is damaged") from error
        return str(text)

    def _bare(self) -> Value:
        end = _END.search(self._text, self._at)
        stop = len(self._text) if end is None else end.start()
        text, self._at = self._text[self._at : stop], stop
        if text in _WORDS:
            return _WORDS[text]
        if _NUMBER.fullmatch(text):
            return Lexeme(text)
        if not _is_plain(text):
            raise self._broken(f"{text[:40]!r} is no value")
        return text

    def _takes(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _expect(self, sign: str) -> None:
        if not self._takes(sign):
            raise self._broken(f"{sign!r} is missing")

    def _broken(self, problem: str) -> FormBroken:
        return FormBroken(_NAME, f"{problem} (at character {self._at})")
