"""JSON texts in one form: equal values have equal bytes.

Objects have their keys in order of code points, numbers their shortest lexeme, strings no escapes
that JSON does not ask for, and there are no blanks. So far as RFC 8785 goes, but for numbers: they
stay exact here, whatever a double holds. What a value means is `tools`' business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, DecimalException
from typing import Any

__all__ = ["MAX_DEPTH", "MAX_DIGITS", "check", "parse", "write"]

MAX_DEPTH = 64
"""Arrays and objects within each other."""
MAX_DIGITS = 400
"""Digits of a number, and the largest power of ten in it; doubles end at 308."""
_PLAIN_DIGITS = 21
_SMALLEST_PLAIN = -7


def _number(lexeme: str) -> Decimal:
    if len(lexeme) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} characters")
    try:
        value = Decimal(lexeme)
    except DecimalException as error:
        raise ValueError(f"a number out of range: {lexeme[:40]}") from error
    if not value.is_finite() or (value and abs(value.adjusted()) > MAX_DIGITS):
        raise ValueError(f"a number out of range: {lexeme[:40]}")
    return value


def _constant(lexeme: str) -> None:
    raise ValueError(f"{lexeme} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:40]!r} stands twice in one object")
            seen.add(key)
    return found


def parse(text: str | bytes) -> Any:
    """Read one JSON value: numbers are exact, as `Decimal`.

    Raises:
        ValueError: it is not JSON, holds a key twice or half a character, or is over a limit.
    """
    try:
        value = json.loads(
            text,
            parse_int=_number,
            parse_float=_number,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except RecursionError as error:
        raise ValueError(f"more than {MAX_DEPTH} levels deep") from error
    check(value)
    return value


def check(value: Any) -> None:
    """Look whether a JSON value is within the limits, and can be written as UTF-8.

    Raises:
        ValueError: it is too deep, or holds half a character.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return
    raise ValueError(f"more than {MAX_DEPTH} levels deep")


def _inside(item: Any) -> list[Any]:
    if isinstance(item, str):
        _check_text(item)
    elif isinstance(item, Mapping):
        for key in item:
            _check_text(key)
        return list(item.values())
    return item if isinstance(item, list) else []


def _check_text(text: Any) -> None:
    try:
        str.encode(text)
    except UnicodeEncodeError as error:
        raise ValueError("half a character") from error
    except TypeError as error:
        raise ValueError(f"a key that is no text: {text!r}") from error


def write(value: Any) -> str:
    """Write a value that `parse` returned, in the one form."""
    if isinstance(value, Mapping):
        inner = ",".join(f"{_text(key)}:{write(value[key])}" for key in sorted(value))
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{','.join(map(write, value))}]"
    if isinstance(value, Decimal):
        return _lexeme(value)
    return _text(value)


def _text(value: str | bool | None) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lexeme(value: Decimal) -> str:
    if not value:
        return "0"
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    power = int(exponent) + len(text) - len(text.rstrip("0"))
    text = text.rstrip("0")
    minus = "-" if sign else ""
    first = power + len(text) - 1
    if power >= 0 and first < _PLAIN_DIGITS:
        return minus + text + "0" * power
    if _SMALLEST_PLAIN < first < 0:
        return f"{minus}0.{'0' * (-first - 1)}{text}"
    if 0 <= first < _PLAIN_DIGITS:
        return f"{minus}{text[: first + 1]}.{text[first + 1 :]}"
    fraction = f".{text[1:]}" if len(text) > 1 else ""
    return f"{minus}{text[0]}{fraction}e{first:+d}"
