"""Questions with long contexts, which two parts of the suite `filters` ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perf.macro.questions import HOTPOT, NQ, XQUAD, read_questions
from perf.macro.recorded import DATA

QA = DATA / "qa"


def item(number: int) -> dict[str, Any]:
    return {
        "id": f"n{number}",
        "question": f"Who was last to see thing {number}?",
        "context": f"Thing {number}\nIt was seen by nobody. Gold {number} was last to see it. "
        f"Then came Gold {number}, who saw nothing.",
        "answers": ["Silver", f"Gold {number}"],
    }


def write(folder: Path, name: str, items: list[dict[str, Any]]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in items))
    return path


@pytest.mark.parametrize(("name", "number"), [(XQUAD, 149), (NQ, 60), (HOTPOT, 65)])
def test_contexts_hold_what_answers(name: str, number: int) -> None:
    if not QA.is_dir():
        pytest.skip(f"{QA} is not there")
    questions = read_questions(QA / name)
    assert questions == read_questions(QA / name)
    assert len(questions) == number
    for one in questions:
        assert one.evidence and all(sentence in one.text for sentence in one.evidence)
        assert len({*one.documents}) == len(one.documents)
        found = {one.text[start:end] for start, end in one.places}
        if name != HOTPOT:
            assert one.answer in found and one.answer in one.evidence[0]
            assert len(one.documents) in ((4, 5) if name == XQUAD else (20,))
    firsts = sum(one.evidence[0] in one.documents[0] for one in questions)
    assert 0 < firsts < number / 2, "the right document stands anywhere"


def test_paragraphs_stand_among_those_of_their_article() -> None:
    if not QA.is_dir():
        pytest.skip(f"{QA} is not there")
    questions = {one.query: one for one in read_questions(QA / XQUAD)}
    found = questions["When was the mausoleum returned to the Lord's Enclosure in Mongolia?"]
    assert all("Genghis" in one or "Temüjin" in one or "Mongol" in one for one in found.documents)


@pytest.mark.parametrize("others", [19, 5])
def test_documents_stand_among_others(tmp_path: Path, others: int) -> None:
    items = [item(number) for number in range(30)]
    path = write(tmp_path, NQ, items)
    questions = read_questions(path, others)
    for one, question in zip(items, questions, strict=True):
        assert question.text.count("\n\n") == others
        assert {question.text[a:b] for a, b in question.places} == {question.answer}
        assert question.answer == one["answers"][1], "the one that stands there"
        assert question.evidence == (f"{question.answer} was last to see it.",)
        assert one["context"] in question.documents
    places = {q.documents.index(i["context"]) for i, q in zip(items, questions, strict=True)}
    assert len(places) > others / 2
    assert questions == read_questions(path, others)


def test_paragraphs_of_an_article_stand_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [item(number) for number in range(150)]
    questions = read_questions(write(tmp_path, XQUAD, items))
    assert len(questions) == 149, "one is alone"
    assert all(items[number]["context"] in questions[0].documents for number in range(5))
    assert len(questions[0].documents) == 5
    assert read_questions(write(tmp_path, XQUAD, items[:9])) == []
    assert "skipped" in capsys.readouterr().err


def test_answers_count_in_the_documents_with_the_facts(tmp_path: Path) -> None:
    text = "One\nGold is here.\n\nTwo\nSee below. Gold is there.\n\nThree\nNo Gold."
    row = {
        "id": "h",
        "question": "?",
        "context": text,
        "answers": ["Gold"],
        "supporting_facts": [["Two", 1], ["Two", 9]],
    }
    (question,) = read_questions(write(tmp_path, HOTPOT, [row]))
    at = text.index("Gold is there")
    assert question.places == ((at, at + 4),)
    assert question.evidence == ("Gold is there.",)
    assert question.text == text
