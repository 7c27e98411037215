"""Stop texts, wherever the text is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentbus.engine.stop import StopScanner

letters = st.text("ab", max_size=12)
stops = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


def run(pieces: list[str], texts: list[str]) -> tuple[str, str]:
    scanner = StopScanner(texts)
    shown = ""
    for piece in pieces:
        shown += scanner.add(piece)
        assert not any(text in shown for text in texts)
        if scanner.found:
            return shown, scanner.found
    return shown + scanner.rest(), ""


@given(st.lists(letters, max_size=6), stops)
def test_text_ends_before_the_first_stop(pieces: list[str], texts: list[str]) -> None:
    whole = "".join(pieces)
    shown, found = run(pieces, texts)
    assert bool(found) == any(text in whole for text in texts)
    if found:
        assert whole.startswith(shown + found)
    else:
        assert shown == whole


@given(letters, stops)
def test_letter_by_letter_the_first_to_end_counts(whole: str, texts: list[str]) -> None:
    shown, found = run(list(whole), texts)
    ends = [whole.find(text) + len(text) for text in texts if text in whole]
    assert len(shown + found) == min(ends, default=len(whole))


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    scanner = StopScanner(["END"])
    assert [scanner.add(part) for part in ("one E", "NO", " EN", "D two")] == [
        "one ",
        "ENO",
        " ",
        "",
    ]
    assert scanner.found == "END" and scanner.add("more") == scanner.rest() == ""
