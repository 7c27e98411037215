"""The form that takes fewest tokens, and none that loses anything."""

from __future__ import annotations

from typing import Literal

import pytest

from agentbus.context.earlier import Earlier
from agentbus.errors import FormBroken
from agentbus.filters import LOSSLESS, Delivered, shortest
from agentbus.filters.choose import Ways

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


class Refers:
    """Writes what it is told to, and reads what it is told to."""

    exact: Literal["bytes"] = "bytes"

    def __init__(self, name: str, written: dict[str, str], read: str | None = None) -> None:
        self.name = name
        self._written = written
        self._read = read
        self.reads = 0

    def write(self, text: str, earlier: Earlier) -> str | None:
        return self._written.get(text)

    def read(self, written: str, earlier: Earlier) -> str:
        self.reads += 1
        if self._read is None:
            return next(text for text, found in self._written.items() if found == written)
        return self._read


TEXT = "a text of a good many words, ten in all"
FORM = "in the form six words are left"


def test_references_are_written_into_forms_too() -> None:
    ways = Ways(TEXT, [Form("form/1", FORM, TEXT)], words)
    refers = Refers("ref/1", {TEXT: "four of these words again", FORM: "three words again"})
    found = ways.shortest_after([refers], Earlier())
    assert found == Delivered("three words again", "form/1 + ref/1", 10, 3)
    assert refers.reads == 1, "only what is delivered has to be read"


def test_no_form_is_tried_of_what_was_given_before() -> None:
    form = Form("form/1", FORM, TEXT)
    short = Refers("ref/1", {TEXT: "[1 2]", FORM: "."})
    long = Refers("ref/1", {TEXT: "[so many again]", FORM: "."})
    ways = Ways(TEXT, [form], words)
    assert ways.shortest_after([short], Earlier()) == Delivered("[1 2]", "ref/1", 10, 2)
    found = ways.shortest_after([long], Earlier())
    assert found == Delivered(".", "form/1 + ref/1", 10, 1)


def test_of_references_that_do_not_read_back_the_next_best_is_delivered() -> None:
    good = Refers("good/1", {TEXT: "four of these words again"})
    bad = Refers("bad/1", {TEXT: "two words"}, "another text")
    ways = Ways(TEXT, [Form("form/1", FORM, TEXT), Form("bad/1", "no", "another text")], words)
    assert ways.shortest_after([good, bad], Earlier()) == Delivered(
        "four of these words again", "good/1", 10, 5
    )
    assert ways.shortest_after([bad], Earlier()) == Delivered(FORM, "form/1", 10, 7)
    of_a_bad_form = Refers("ref/1", {"no": "."})
    assert ways.shortest_after([of_a_bad_form], Earlier()) == Delivered(FORM, "form/1", 10, 7)


def test_a_text_that_nothing_is_for_is_not_counted() -> None:
    ways = Ways(TEXT, [Form("none/1", None)], lambda _: pytest.fail("it was counted"))
    assert ways.shortest_after([Refers("ref/1", {})], Earlier()) is None


@pytest.mark.parametrize(("left", "form"), [(97, "ref/1"), (98, "")])
def test_references_have_to_leave_out_some(left: int, form: str) -> None:
    text = "x" * 100
    ways = Ways(text, [], len)
    found = ways.shortest_after([Refers("ref/1", {text: "y" * left})], Earlier())
    assert (found.form if found else "") == form
