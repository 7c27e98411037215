"""`agentbus filters try`: before, after, what it saves, and that nothing is lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentbus.cli import counting
from agentbus.cli.app import app
from agentbus.engine import ModelText
from agentbus.errors import ModelNotFound, UnreadableFile
from agentbus.filters import ESTIMATED, PlainJSON

ROWS = [{"id": n, "name": f"number {n}", "none": None} for n in range(40)]


def model_text(model: str) -> ModelText:
    if model == "none":
        raise ModelNotFound(model, "give a path")
    return ModelText(lambda text: -(-len(text) // 4), None)


@pytest.fixture(autouse=True)
def quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "open_model_text", model_text)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=1))
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["filters", "try", *map(str, arguments)], terminal_width=100)


def test_before_and_after_are_shown(rows: Path) -> None:
    shown = invoke(rows, "--lines", "3").output
    assert '[\n {\n  "id": 0,\n… 199 more lines' in shown
    assert "json-plain/2" in shown
    assert "[\nid,name,none:\n0,number 0,null\n… 39 more lines" in shown
    assert "value" in shown
    assert "Tokens of smollm2." in shown


def test_json_says_all(rows: Path, tmp_path: Path) -> None:
    prose = tmp_path / "prose.txt.gz"
    prose.write_bytes(gzip.compress(b"Nothing to gain here."))
    result = invoke(rows, prose, "--json")
    found: dict[str, Any] = json.loads(result.output)
    one, other = found["files"]
    assert found["unit"] == "tokens"
    assert one["form"] == "json-plain/2"
    assert one["sent"] == -(-len(rows.read_text()) // 4)
    assert one["delivered"] == -(-len(one["text"]) // 4)
    assert json.loads(PlainJSON().read(one["text"])) == ROWS
    assert (one["kept"], one["left_out"]) == ("value", [])
    assert one["why"] == f"{one['sent'] - one['delivered']} of {one['sent']} tokens fewer"
    assert other | {"file": ""} == {
        "file": "",
        "form": None,
        "why": "no filter is for such a text",
        "sent": 6,
        "delivered": 6,
        "left_out": [],
        "kept": "bytes",
        "text": "Nothing to gain here.",
    }


def test_many_files_are_summed_up(rows: Path) -> None:
    shown = invoke(rows, rows, "--lines", "0").output
    assert "2 files" in shown
    assert "number 0" not in shown


def test_long_lines_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_text("x" * 1000)
    assert "… 760 more characters" in " ".join(invoke(path).output.split())


def test_without_a_tokenizer_characters_are_counted(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "open_model_text", lambda _: model_text("none"))
    found = json.loads(invoke(rows, "--json").output)
    assert found["unit"] == "characters"
    assert found["files"][0]["sent"] == len(rows.read_text())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", None])
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken"
    if content is not None:
        path.write_bytes(content)
    result = invoke(path)
    assert result.exit_code != 0
    assert UnreadableFile.code in invoke(path, "--json").output
    assert str(path.name) in result.output


def test_a_query_leaves_something_out_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    lines = [f"step {n}: {n * 7919 % 1000} widgets were painted" for n in range(2000)]
    lines[1200] = "ValueError: no paint"
    path.write_text("\n".join(lines))
    (found,) = json.loads(invoke(path, "--query", "What went wrong?", "--json").output)["files"]
    assert found["delivered"] < found["sent"] / 3
    assert found["left_out"]
    assert "ValueError: no paint" in found["text"]
    assert "ctx:" in found["text"]
    gone = sum(last - first + 1 for first, last in found["left_out"])
    assert found["kept"] == f"all but {gone:,} lines"


def test_why_a_text_stays_as_it_is_is_said(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("Nothing to gain here.")
    assert "prose.txt: no filter is for such a text." in invoke(path).output
    asked = " ".join(invoke(path, "--query", "What?").output.split())
    assert "prose.txt: extract/1 and offload/1 left nothing out." in asked


def test_why_a_text_is_no_json_is_said(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text('{"a": 1, "b": [1, 2')
    shown = " ".join(invoke(path).output.split())
    assert "such a text: it is no JSON (line 1, column 20: expecting ',' delimiter)." in shown


def test_a_query_that_leaves_nothing_out_is_said_beside_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"a" : 1 , "b" : 2 , "c" : 3 }')
    asked = " ".join(invoke(path, "--query", "What?").output.split())
    assert "tokens fewer; extract/1 and offload/1 left nothing out." in asked
    assert "one.json:" not in invoke(path).output


def test_standard_input_is_a_file(rows: Path) -> None:
    arguments = ["filters", "try", "-", "--json"]
    result = CliRunner().invoke(app, arguments, input=rows.read_bytes())
    (found,) = json.loads(result.output)["files"]
    assert (found["file"], found["form"]) == ("-", "json-plain/2")
    assert "it is empty" in CliRunner().invoke(app, arguments, input=b"").output


def test_a_huge_text_is_not_counted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return len(text) // 4

    monkeypatch.setattr(counting, "open_model_text", lambda _: ModelText(count, None))
    path = tmp_path / "huge.txt"
    path.write_text("a word and another\n" * 300_000)
    shown = invoke(path, "--lines", "0").output
    assert max(counted) <= ESTIMATED
    assert f"{path.stat().st_size // 4:,}"[:4] in shown
    assert "huge.txt: it is too large for other forms." in shown
    assert "estimates" in shown
