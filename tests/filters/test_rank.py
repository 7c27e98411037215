"""Ranking: words that are rare count more, endings do not count, and context does."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from math import log
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.filters import BM25
from agentbus.filters.bm25 import _okapi
from agentbus.filters.rank import best_first, in_context, shares

UNITS = ["Cats sat near mats. ", "Dogs sat near a cat. ", "It rained. ", "Nobody came."]


def score(query: str, *units: str) -> list[float]:
    return BM25().score(query, units)


def okapi(*asked: str) -> list[float]:
    texts = ["cat sat mat", "dog sat cat", "rain", "cat dog dog end all"]
    return _okapi(dict.fromkeys(asked, 1), [Counter(text.split()) for text in texts])


def test_scores_are_those_of_the_formula() -> None:
    # Robertson and Zaragoza 2009, with k1 = 1.2 and b = 0.75: "dog" is in 2 of 4 texts, which have
    # 12 words in all.
    rarity = log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    once = rarity * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / 3))
    twice = rarity * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 5 / 3))
    assert okapi("dog") == pytest.approx([0, once, 0, twice])


def test_a_word_that_is_rare_in_the_text_counts_more() -> None:
    assert okapi("mat")[0] > 2 * okapi("cat")[0] > 0


def test_a_word_that_is_everywhere_counts_still() -> None:
    assert min(score("cat", "a cat", "one cat", "the cat")) > 0


def test_short_texts_are_preferred() -> None:
    scores = okapi("cat")
    assert scores[0] == scores[1] > scores[3] > 0


def test_scores_of_two_words_add_up() -> None:
    assert okapi("cat", "dog") == pytest.approx(
        [one + other for one, other in zip(okapi("cat"), okapi("dog"), strict=True)]
    )


def test_what_a_unit_says_that_fits_is_looked_for_too() -> None:
    hops = ["The spire was drawn by Ada Lund. ", "Lund was born in Oslo. ", "It rained in Rome."]
    drawn, born, rained = score("Where was who drew the spire born?", *hops)
    assert drawn > born > 2 * rained
    drawn, born, rained = score("spire", *hops)
    assert drawn > 1 > born == 0.5 > rained == 0


@pytest.mark.parametrize(
    "name", ["net.ipv4.tcp_keepalive_time", "TcpKeepaliveTime", "tcpKeepaliveTime", "TCPKeepalive"]
)
def test_names_of_programs_are_found_by_their_parts(name: str) -> None:
    named, other = score("tcp keepalive", f"{name} = 7200\n", "dev.cdrom.lock = 1\n")
    assert named > 1 > other
    whole, part = score(name, f"{name} = 7200\n", "keepalive\n")
    assert whole > part > 0, "the whole name counts more"


@pytest.mark.parametrize("query", ["", "?", "who was it", "snow"])
def test_without_a_word_of_the_query_nothing_fits(query: str) -> None:
    assert score(query, *UNITS) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("cities", "city"),
        ("engines", "engine"),
        ("boiled", "boiling"),
        ("raised", "raises"),
        ("STRASSE", "straße"),
        ("1,500", "1 500"),
        ("東京都", "東京"),
        ("学校", "日本の学校です"),
        ("한국어", "한국어는"),
    ],
)
def test_words_are_found_in_other_forms(asked: str, said: str) -> None:
    assert score(asked, said, "nothing of it")[0] > 0
    assert score(said, asked, "nothing of it")[0] > 0


@pytest.mark.parametrize(("asked", "said"), [("bus", "bu"), ("thesis", "thesi"), ("京都", "東京")])
def test_other_words_are_not_found(asked: str, said: str) -> None:
    assert not any(score(asked, said, "nothing of it"))


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=8))
def test_any_text_has_scores(query: str, units: list[str]) -> None:
    scores = score(query, *units)
    assert len(scores) == len(units)
    assert all(one >= 0 for one in scores)


def test_scores_are_the_same_in_every_process() -> None:
    # Sums of floats depend on their order, and the order of sets on the process.
    program = (
        "from agentbus.filters import BM25\n"
        "words = [f'word{n}' for n in range(300)]\n"
        "units = [' '.join(words[n % 7 :: n % 5 + 1]) for n in range(40)]\n"
        "print(BM25().score(' '.join(words), units))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_units_beside_and_around_a_good_one_gain() -> None:
    units = [
        "one. ",
        "two. ",
        "three. ",
        "four.\n\n",
        "five. ",
        "six.\n",
        "seven.\r\n\r\n",
        "eight.",
    ]
    scores = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0]
    assert in_context(units, scores) == pytest.approx([0.4, 1.3, 0.4, 0.3, 0.6, 0.8, 2.6, 0.2])


def test_the_best_come_first_and_of_equal_ones_the_first() -> None:
    assert best_first([1.0, 3.0, 2.0, 3.0]) == [1, 3, 2, 0]
    assert shares([1.0, 4.0]) == [0.25, 1.0]
    assert shares([0.0]) == [0.0]
    assert shares([]) == best_first([]) == []


def test_without_a_good_one_none_gains() -> None:
    assert in_context(["one. ", "two."], [0.0, 0.0]) == [0.0, 0.0]
    assert in_context([], []) == []


def test_time_is_linear() -> None:
    def seconds(size: int) -> float:
        units = [f"unit {n} of word{n % 50} 漢字\n" for n in range(size)]
        query = " ".join(f"word{n}" for n in range(200))
        times = []
        for _ in range(3):
            start = process_time()
            in_context(units, BM25().score(query, units))
            times.append(process_time() - start)
        return min(times)

    assert seconds(16_000) < 20 * seconds(2_000)
