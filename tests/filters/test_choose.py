"""The form that takes fewest tokens, and none that loses anything."""

from __future__ import annotations

from typing import Literal

import pytest

from agentbus.errors import FormBroken
from agentbus.filters import LOSSLESS, Delivered, shortest

from .recorded import tool_outputs


class Form:
    """Writes what it is told to."""

    exact: Literal["bytes"] = "bytes"

    def __init__(self, name: str, written: str | None, read: str | None = "text") -> None:
        self.name = name
        self._written = written
        self._read = read

    def write(self, text: str) -> str | None:
        return self._written

    def read(self, written: str) -> str:
        if self._read is None:
            raise FormBroken(self.name, "it is broken")
        return self._read

    def is_same(self, text: str, read: str) -> bool:
        return text == read


def words(text: str) -> int:
    return len(text.split())


def test_the_shortest_is_delivered_the_first_of_equals() -> None:
    forms = [Form("long/1", "a b c"), Form("a/1", "a b"), Form("b/1", "c d"), Form("none/1", None)]
    found = shortest("text", forms, lambda text: 9 if text == "text" else words(text))
    assert found == Delivered("a b", "a/1", 9, 2)


@pytest.mark.parametrize("read", ["another text", None])
def test_what_cannot_be_had_back_is_not_delivered(read: str | None) -> None:
    found = shortest("text", [Form("liar/1", "", read)], words)
    assert found == Delivered("text", "", 1, 1)


def test_nothing_grows() -> None:
    assert shortest("text", [Form("same/1", "word")], words).form == ""


def test_all_forms_on_all_that_was_recorded() -> None:
    for name, text in tool_outputs():
        found = shortest(text, LOSSLESS, len)
        assert found.delivered_tokens == len(found.text) <= len(text), name
        if found.form:
            (form,) = (form for form in LOSSLESS if form.name == found.form)
            assert form.is_same(text, form.read(found.text)), name
        else:
            assert found.text == text, name
