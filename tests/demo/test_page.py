"""The page: whole in one file, well formed, with every figure, and nobody's markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agentbus.demo.page import render_page, write_page
from agentbus.demo.script import Conversation
from agentbus.demo.svg import Bar, Part, bars, lines, spans
from agentbus.demo.table import MEANINGS

from .helpers import comparison_of

_SVG = "{http://www.w3.org/2000/svg}"
_OPEN_ENDED = {"meta", "html"}


class _Balance(HTMLParser):
    """Checks that what is opened is closed; collects what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _OPEN_ENDED:
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in _OPEN_ENDED:
            assert self.open.pop() == tag


def plots_of(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page)]


def test_the_page_is_whole_in_one_file(conversation: Conversation, tmp_path: Path) -> None:
    path = write_page(comparison_of(conversation), tmp_path / "page.html")
    balance = _Balance()
    balance.feed(path.read_text(encoding="utf-8"))
    assert balance.open == [] and balance.fetched == []
    assert "<script" not in path.read_text(encoding="utf-8")


def test_every_hop_of_every_way_is_plotted(conversation: Conversation) -> None:
    compared = comparison_of(conversation)
    timeline, ttft, *by_hop = plots_of(render_page(compared))
    hops = sum(len(way.results) for way in compared.ways)
    assert len(timeline.findall(f"{_SVG}rect")) == 2 * hops
    assert len(ttft.findall(f"{_SVG}circle")) == hops
    assert len(by_hop) == 2 * len(compared.ways)
    tokens = [title.text for plot in by_hop[:2] for title in plot.iter(f"{_SVG}title")]
    for way in compared.ways:
        for hop in way.results:
            assert f"{hop.prefilled:,} tokens prefilled" in tokens
            assert f"{hop.reused:,} tokens reused" in tokens


def test_text_of_models_is_text(conversation: Conversation) -> None:
    hops = tuple(replace(hop, text="<script>alert(1)</script>&") for hop in conversation.hops)
    compared = replace(comparison_of(conversation), conversation=replace(conversation, hops=hops))
    page = render_page(compared)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page


def test_without_a_path_it_is_a_new_file(
    conversation: Conversation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compared = comparison_of(conversation)
    assert write_page(compared) != write_page(compared)
    assert len(list(tmp_path.glob("agentbus-hops-*.html"))) == 2


def test_lengths_are_to_scale() -> None:
    rows = [Bar("a", (Part(1, "red", ""), Part(3, "blue", ""))), Bar("b", (Part(2, "red", ""),))]
    for plot, length in ((spans(rows, "s"), "width"), (bars(rows, 4), "height")):
        found = ElementTree.fromstring(plot).findall(f"{_SVG}rect")
        first, second, third = (float(rect.attrib[length]) for rect in found)
        assert second == pytest.approx(3 * first, abs=0.02)
        assert third == pytest.approx(2 * first, abs=0.02)


def test_times_lie_on_a_logarithmic_scale() -> None:
    plot = ElementTree.fromstring(lines({"a": [10, 100, 1000, 0]}, {"a": "red"}, "ms"))
    first, second, third, nothing = (
        float(point.attrib["cy"]) for point in plot.findall(f"{_SVG}circle")
    )
    assert first - second == pytest.approx(second - third, abs=0.02)
    assert nothing == first > third
    labels = [text.text for text in plot.findall(f"{_SVG}text")]
    assert labels == ["1", "2", "3", "4", "10", "100", "1,000"]


@pytest.mark.parametrize("highest", [99_999, 15_593, 0.5])
def test_labels_of_axes_are_within_the_plot(highest: float) -> None:
    by_hop = bars([Bar("1", (Part(highest, "red", ""),))], highest)
    for plot in (by_hop, lines({"a": [highest]}, {"a": "red"}, "ms")):
        for text in ElementTree.fromstring(plot).findall(f"{_SVG}text"):
            if text.attrib["text-anchor"] == "end":
                wide = 8 * len(text.text or "")  # a digit of 12 px is at most so wide
                assert float(text.attrib["x"]) >= wide, text.text


def test_the_page_says_what_was_run_and_what_each_way_is(conversation: Conversation) -> None:
    page = render_page(comparison_of(conversation))
    assert "Model: tiny. Run at 2026-01-02T03:04:05+00:00 on a small machine" in page
    assert "engines with dtype auto, 1 thread." in page
    assert MEANINGS["plain"] in page
    assert "engine_cache" not in page  # it is not among the ways that were run


def test_nothing_to_plot_is_no_error() -> None:
    for plot in (
        spans([], "s"),
        bars([], 0),
        lines({}, {}, "ms"),
        lines({"a": [0]}, {"a": "r"}, ""),
    ):
        ElementTree.fromstring(plot)
