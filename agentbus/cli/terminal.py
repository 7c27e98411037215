"""Texts of others as a terminal shows them: none of it is a command to the terminal, or markup."""

from __future__ import annotations

import os
import sys
from typing import Final

from rich.markup import escape

__all__ = ["literal", "print_line", "visible"]

_PICTURES: Final = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_HIDDEN: Final = (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""More control characters, and those that turn the direction of what follows."""
_HALVES: Final = range(0xD800, 0xE000)
"""Halves of characters, as names of files may have for bytes that are no UTF-8."""
_SHOWN: Final = {**_PICTURES, 0x7F: 0x2421, **dict.fromkeys((*_HIDDEN, *_HALVES), 0xFFFD)}


def visible(text: str) -> str:
    """Return a text with signs in the place of control characters, but for tabs and line ends."""
    return text.replace("\r\n", "\n").translate(_SHOWN)


def literal(text: str) -> str:
    """Return markup that shows a text, with its control characters as signs."""
    return escape(visible(text))


def print_line(text: str) -> None:
    """Print a text and a line end: on a terminal as `visible` makes it, elsewhere as it is.

    Where nobody reads it, the command ends, as rich has it.
    """
    try:
        print(visible(text) if sys.stdout.isatty() else text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered
        raise SystemExit(1) from None
