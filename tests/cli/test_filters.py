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
from agentbus.cli.filters_try import first_change
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
    assert "prose.txt: extract/3 and offload/1 left nothing out." in asked


def test_why_a_text_is_no_json_is_said(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text('{"a": 1, "b": [1, 2')
    shown = " ".join(invoke(path).output.split())
    assert "such a text: it is no JSON (line 1, column 20: expecting ',' delimiter)." in shown


def test_a_filter_that_took_over_says_from_which_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"row {number} of quite ordinary content\n" for number in range(900)))
    shown = " ".join(invoke(path, "--query", "whales").output.split())
    assert "offload/1" in shown and "tokens fewer; extract/3 left nothing out." in shown


def test_a_query_that_leaves_nothing_out_is_said_beside_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"a" : 1 , "b" : 2 , "c" : 3 }')
    asked = " ".join(invoke(path, "--query", "What?").output.split())
    assert "tokens fewer; extract/3 and offload/1 left nothing out." in asked
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


def words(count: int) -> list[str]:
    """Return lines that nothing can be made of but references to them."""
    return [" ".join(f"{n * m * 7919 % 9973:x}" for m in range(1, 9)) for n in range(1, count + 1)]


@pytest.fixture
def versions(tmp_path: Path) -> list[Path]:
    """Two texts, the second of which begins otherwise and then has what the first has."""
    old = words(60)
    new = [*[line[::-1] for line in old[:20]], *old[20:]]
    paths = [tmp_path / "old.txt", tmp_path / "new.txt"]
    for path, lines in zip(paths, (old, new), strict=True):
        path.write_text("\n".join(lines) + "\n")
    return paths


def test_files_that_are_given_together_refer_to_each_other(versions: list[Path]) -> None:
    old, new = json.loads(invoke(*versions, "--json").output)["files"]
    assert old["form"] is None
    assert new["form"] in ("dedupe/1", "diff/1")
    assert "again" in new["text"] and new["kept"] == "bytes"
    assert new["delivered"] < new["sent"] / 2
    for path in versions:
        (alone,) = json.loads(invoke(path, "--json").output)["files"]
        assert alone["form"] is None


def test_a_query_is_asked_about_all_files(tmp_path: Path) -> None:
    paths = [tmp_path / "sea.txt", tmp_path / "land.txt"]
    for path in paths:
        about = [f"Of {path.stem} number {n} little is known, and nobody asks." for n in range(200)]
        path.write_text(" ".join([*about, f"The whales of {path.stem} sing."]))
    found = json.loads(invoke(*paths, "--query", "Do whales sing?", "--json").output)["files"]
    for path, one in zip(paths, found, strict=True):
        assert one["form"] == "extract/3"
        assert f"The whales of {path.stem} sing." in one["text"]
        assert one["delivered"] < one["sent"] / 3


def test_a_rule_is_tried(rows: Path) -> None:
    for use, form in {"yaml": "yaml/1", "json": "json-plain/2", "fold": "fold/1"}.items():
        (found,) = json.loads(invoke(rows, "--use", use, "--json").output)["files"]
        assert found["form"] == form, use
    (found,) = json.loads(invoke(rows, "--use", "fold,json", "--json").output)["files"]
    assert found["form"] == "json-plain/2"


def test_extract_keeps_the_share_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "whales.txt"
    path.write_text(" ".join(f"Whale {n} sings song {n * 7919 % 997} at sea." for n in range(300)))
    for keep in (0.5, 0.1):
        arguments = ("--use", "extract", "--query", "Which whale sings?", "--keep", keep, "--json")
        (found,) = json.loads(invoke(path, *map(str, arguments)).output)["files"]
        assert keep * 0.8 < found["delivered"] / found["sent"] <= keep
    shown = " ".join(invoke(path, "--use", "extract").output.split())
    assert "whales.txt: extract/3 left nothing out." in shown
    assert "least to do with a --query, and there is none." in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--use", "zip"), "use: must be of lossless, json, "),
        (("--use", "json,"), "use: must be of lossless, json, "),
        (("--use", "json,json"), "use: names one twice"),
        (("--use", "mask"), "use: mask is for old results of tools"),
        (("--use", "extract", "--keep", "3"), "keep: must be between 0 and 1, not 3.0"),
    ],
)
def test_what_is_no_rule_is_refused(rows: Path, arguments: tuple[str, ...], said: str) -> None:
    result = invoke(rows, *arguments)
    assert result.exit_code == 1
    assert said in result.output


def excerpts(output: str) -> list[str]:
    """Return what is shown of texts before and after, without headings."""
    lines = output.partition("┏")[0].splitlines()
    headings = [n for n, line in enumerate(lines) if line.endswith("──")]
    ends = [*headings[1:], len(lines)]
    return ["\n".join(lines[n + 1 : end]).strip() for n, end in zip(headings, ends, strict=True)]


def test_the_first_mark_is_shown_with_lines_around_it(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text("\n".join(f"step {n}: {n * 7919 % 1000} widgets" for n in range(2000)))
    (whole,) = json.loads(invoke(path, "--use", "offload", "--json").output)["files"]
    lines = whole["text"].split("\n")
    mark = next(n for n, line in enumerate(lines) if "left out here" in line)
    before, after = excerpts(invoke(path, "--use", "offload", "--lines", "4").output)
    assert after.startswith(f"… {mark - 2} lines before\nstep {mark - 2}: ")
    assert f"\n[lines {mark + 1}-" in after
    assert before.startswith(f"… {mark - 2} lines before\nstep {mark - 2}: ")
    assert f"\nstep {mark}: " in before and f"\nstep {mark + 2}: " not in before


def test_what_a_file_refers_to_is_shown_where_it_does(versions: list[Path]) -> None:
    new = excerpts(invoke(*versions, "--lines", "6", "--use", "dedupe").output)[-1]
    assert new.startswith("… 15 lines before\n")
    assert "again]" in new


def test_in_a_form_of_its_own_the_first_reference_is_shown() -> None:
    form = ["[", "a,b:", "1,2", '[lines 3-9 of "x" again]', "3,4]"]
    assert first_change('[{"a":1,"b":2}]', "\n".join(form)) == 3
    assert first_change('[{"a":1,"b":2}]', "\n".join(form[:3])) == 0


def test_short_texts_are_shown_whole(tmp_path: Path) -> None:
    path = tmp_path / "two"
    for text in ("a\nb", "a\nb\n"):
        path.write_text(text)
        assert excerpts(invoke(path, "--lines", "2").output) == ["a\nb"]
        assert excerpts(invoke(path).output) == ["a\nb"]
        assert excerpts(invoke(path, "--lines", "1").output) == ["a\n… 1 more line"]


@pytest.mark.parametrize(
    ("width", "columns"),
    [(80, "tokens after saved kept"), (40, "saved"), (36, "saved")],
)
def test_a_narrow_terminal_keeps_names_and_what_is_saved(
    width: int, columns: str, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = invoke(rows, rows, "--lines", "0").output
    table = [line for line in shown.splitlines() if line[:1] in "┏┃│└"]
    assert all(line[-1] in "┓┃│┘" for line in table), "cut off"
    assert table[1].replace("┃", " ").split() == ["file", "form", *columns.split()]
    assert "rows.json" in shown and "json-plain/2" in shown


def test_no_file_commands_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b]0;title\x07.txt"
    path.write_text("\x1b]52;c;aGk=\x07 \x1b[2J \x9b2J \x7f \u202egnp.exe [bold]one[/bold]\n" * 3)
    shown = invoke(path, "--use", "strip").output
    assert not set(shown) & set("\x07\x1b\x7f\x9b\u202e")
    assert "␛[2J" in shown
    assert "[bold]one[/bold]" in shown
    missing = invoke(tmp_path / "\x1b[2J")
    assert "\x1b" not in missing.output
    assert "cannot read" in missing.output


def test_a_file_name_that_is_no_utf8_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "\udcff.txt"
    path.write_text("Nothing to gain here.")
    assert "�.txt" in invoke(path).output
    assert json.loads(invoke(path, "--json").output)["files"][0]["file"] == str(path)
