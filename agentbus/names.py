"""Identifiers that cross the bus: agents' addresses, topics and patterns.

Each is checked once, when it is made; code behind the edge may trust what it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from .errors import InvalidName

__all__ = ["MAX_NAME_LENGTH", "Address", "check_agent_name", "check_pattern", "check_topic"]

MAX_NAME_LENGTH = 128
"""Longest name, key, topic or pattern, in characters."""

_AGENT_NAME = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_.$-]*")
_KEY = re.compile(r"[!-.0-~]+")
_TOKEN = re.compile(r"[A-Za-z0-9_$-]+")


def _check_length(name: str) -> None:
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidName(name[:32] + "…", f"longer than {MAX_NAME_LENGTH} characters")


def check_agent_name(name: str) -> str:
    """Return `name` if it names an agent: letters, digits, `_`, `-`, `.`, `$`.

    Raises:
        InvalidName: it does not.
    """
    _check_length(name)
    if not _AGENT_NAME.fullmatch(name):
        raise InvalidName(name, "use letters, digits, '_', '-' and '.'")
    return name


def check_topic(topic: str) -> str:
    """Return `topic` if it is dotted tokens without wildcards.

    Raises:
        InvalidName: it is not.
    """
    _check_length(topic)
    if not all(_TOKEN.fullmatch(token) for token in topic.split(".")):
        raise InvalidName(topic, "a topic is tokens of letters, digits, '_', '-' between dots")
    return topic


def check_pattern(pattern: str) -> str:
    """Return `pattern` if it is a topic whose tokens may be `*`, the last one also `>`.

    Raises:
        InvalidName: it is not.
    """
    _check_length(pattern)
    *body, last = pattern.split(".")
    for token in (*body, "*" if last == ">" else last):
        if token != "*" and not _TOKEN.fullmatch(token):
            raise InvalidName(
                pattern, "a pattern is a topic with '*' for one token, '>' at its end"
            )
    return pattern


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes: an agent's name and, optionally, the key of one instance."""

    name: str
    key: str = ""

    def __post_init__(self) -> None:
        check_agent_name(self.name)
        if self.key:
            _check_length(self.key)
            if not _KEY.fullmatch(self.key):
                raise InvalidName(self.key, "a key is printable ASCII without '/' or spaces")

    def __str__(self) -> str:
        return f"{self.name}/{self.key}" if self.key else self.name

    @staticmethod
    @lru_cache(maxsize=4096)
    def parse(text: str) -> Address:
        """Read `name` or `name/key`.

        Raises:
            InvalidName: it is neither.
        """
        name, slash, key = text.partition("/")
        if slash and not key:
            raise InvalidName(text, "nothing stands behind the '/'")
        return Address(name, key)
