"""JSON as values that lose nothing: numbers as they are written, keys in order and as often as they
stand there.

Objects are tuples of pairs, arrays lists, numbers `Lexeme`s, all else Python's own. Two texts of one
value differ in white space and in how characters of strings are escaped, in nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from json.encoder import encode_basestring
from typing import Final, Literal, TypeAlias

__all__ = [
    "MAX_DEPTH",
    "CompactJSON",
    "Lexeme",
    "Value",
    "compact",
    "equal",
    "flaw",
    "parse",
    "quoted",
    "scalar",
]

MAX_DEPTH: Final = 64
"""Arrays and objects within each other; what is deeper is left as it is."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_BEGUN: Final = re.compile(r'\s*+(?:\{\s*+["}]|\[\s*+[\[{"\]])')
"""What JSON begins like, and a line of a log does not."""
_CONSTANTS: Final = {True: "true", False: "false", None: "null"}


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A number as it is written: `1.0` is not `1`, and no number is too long."""

    text: str


Value: TypeAlias = "tuple[tuple[str, Value], ...] | list[Value] | Lexeme | str | bool | None"

_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=Lexeme, parse_float=Lexeme, parse_constant=Lexeme
)


def parse(text: str) -> Value:
    """Return the value of a JSON text; `NaN` and `Infinity` are numbers.

    Raises:
        ValueError: it is none, or deeper than `MAX_DEPTH`.
    """
    try:
        value: Value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("it is too deep") from error
    _check_depth(value)
    return value


def equal(one: str, other: str) -> bool:
    """Say whether two texts are JSON of the same value."""
    try:
        return parse(one) == parse(other)
    except ValueError:
        return False


def flaw(text: str) -> str:
    """Say why a text that begins as JSON is none, and where; nothing of other texts.

    Of JSON Lines, the first line that is none counts.
    """
    if not _BEGUN.match(text):
        return ""
    first, *others = text.removesuffix("\n").split("\n")
    if others and not _flaw(first):
        return next(filter(None, map(_flaw, others, count(2))), "")
    return _flaw(text)


def _flaw(text: str, line: int = 0) -> str:
    try:
        parse(text)
    except json.JSONDecodeError as error:
        what = error.msg.lower().removesuffix(" at")
        return f"it is no JSON (line {line or error.lineno}, column {error.colno}: {what})"
    except ValueError as error:
        return str(error)
    return ""


def _check_depth(value: Value) -> None:
    level: list[Value] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Value] = []
        for one in level:
            if isinstance(one, tuple):
                inner += [part for _, part in one if isinstance(part, tuple | list)]
            elif isinstance(one, list):
                inner += [part for part in one if isinstance(part, tuple | list)]
        if not inner:
            return
        level = inner
    raise ValueError("it is too deep")


def quoted(text: str) -> str:
    """Return a string as JSON, with nothing escaped that need not be."""
    written = encode_basestring(text)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def scalar(value: Lexeme | bool | None) -> str:
    """Return what is neither string nor array nor object as JSON."""
    return value.text if isinstance(value, Lexeme) else _CONSTANTS[value]


def compact(value: Value) -> str:
    """Return a value as JSON without white space."""
    parts: list[str] = []
    _write(value, parts.append)
    return "".join(parts)


def _write(value: Value, put: Callable[[str], None]) -> None:
    if isinstance(value, str):
        put(quoted(value))
    elif isinstance(value, tuple):
        between = "{"
        for key, one in value:
            put(f"{between}{quoted(key)}:")
            _write(one, put)
            between = ","
        put("}" if value else "{}")
    elif isinstance(value, list):
        between = "["
        for one in value:
            put(between)
            _write(one, put)
            between = ","
        put("]" if value else "[]")
    else:
        put(scalar(value))


class CompactJSON:
    """JSON without white space: value-exact, and JSON itself."""

    name = "json-compact/1"
    exact: Literal["value"] = "value"

    def write(self, text: str) -> str | None:
        """See `Form.write`."""
        try:
            written = compact(parse(text))
        except ValueError:
            return None
        return written if len(written) < len(text) else None

    def read(self, written: str) -> str:
        """Return the text itself: it is JSON."""
        return written

    def is_same(self, text: str, read: str) -> bool:
        """Compare values."""
        return equal(text, read)
