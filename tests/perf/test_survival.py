"""The rows on extraction in the suite `filters`: what counts as an answer that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentbus.filters import BM25, Extract
from agentbus.filters.units import units_of
from perf.macro import survival
from perf.macro.questions import Question
from perf.macro.survival import _kept, _survives

FILLER = " ".join(f"Nothing happened on day {n} of the long year." for n in range(9))


def item(name: str, title: str, answer: str) -> dict[str, Any]:
    return {
        "id": name,
        "question": f"What is {title}?",
        "context": f"{title}\n{FILLER} The {title} is {answer}. {FILLER}",
        "answers": [answer],
    }


def write(folder: Path, name: str, items: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in items))


def test_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        tmp_path / "qa",
        "nq_long_answer.jsonl",
        [item(f"n{n}", f"thing{n}", f"gold{n}") for n in range(5)],
    )
    rows = survival.rows(
        tmp_path, len, ["head", "tail", "random"], quick=False, progress=lambda _: None
    )
    found = {
        (row.metric, row.peer): row for row in rows if row.case == "extract_nq_long_answer_bm25"
    }
    for rate in survival.RATES:
        row = found[f"at_{rate}_survival_percent", "head"]
        assert row.value == 100
        assert row.peer_value is not None and row.peer_value < 100
        assert 0 < found[f"at_{rate}_tokens", "tail"].value
    assert found["unlike_violations", None].value == 0
    assert "skipped squad_xquad_en.jsonl" in capsys.readouterr().err


def test_what_was_kept_is_found_again() -> None:
    text = (
        "".join(f"The river was seen on day {n} by many. " for n in range(40))
        + "The end.\n\nNow.\n"
    )
    units = units_of(text)
    shortened = Extract(ranker=BM25()).shorten(text, ref="ctx:1", query="day 7 river", count=len)
    assert shortened is not None
    kept = _kept(units, shortened.text)
    assert kept is not None and 7 in kept
    assert kept == {n for n, unit in enumerate(units) if unit.strip() in shortened.text}
    assert _kept(units, shortened.text.replace("day 7", "day 77")) is None
    assert _kept(units, shortened.text.replace("The river was seen on day 7 by many. ", "")) != kept


def asked(text: str, start: int, end: int) -> Question:
    return Question("q", "?", text[start:end], (text,), ((start, end),), ())


def test_a_sentence_must_be_there_whole() -> None:
    text = "One two. Three four. Five six."
    question = asked(text, text.index("Three"), text.index("Three") + 5)
    units = units_of(text)
    assert _survives(question, units, {1})
    assert not _survives(question, units, {0, 2})
    over = asked(text, 4, 12)
    assert _survives(over, units, {0, 1})
    assert not _survives(over, units, {1})
