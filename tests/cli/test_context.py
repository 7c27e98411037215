"""`agentbus context`: what stands in calls, how two differ, what their prefixes lose."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentbus.cli import counting
from agentbus.cli.app import app
from agentbus.cli.context_files import read_sessions
from agentbus.context import probe
from agentbus.engine import ModelText
from agentbus.errors import ConfigError, ModelNotFound, UnreadableFile

CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "You plan. It is 10:00."},
    {"role": "user", "content": "Explain the tides."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "High at noon."},
]
GROWN = [*TALK, {"role": "assistant", "content": "At noon."}]
LATER = [{"role": "system", "content": "You plan. It is 10:07."}, *GROWN[1:]]


def model_text(model: str) -> ModelText:
    if model == "none":
        raise ModelNotFound(model, "give a path")
    template = probe(rewriting) if model == "rewriting" else None
    return ModelText(lambda text: len(text.split()), template)


def rewriting(messages: Sequence[Mapping[str, str]], cue: bool) -> str:
    """Render as templates do that move the system turn behind all others."""
    if len(messages) > 5:
        raise ValueError("too many")
    told = [m["content"] for m in messages if m["role"] == "system"]
    said = [f"<{m['role']}>{m['content']}" for m in messages if m["role"] != "system"]
    return "".join((*said, *told, "<assistant>" if cue else ""))


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "open_model_text", model_text)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["context", *map(str, arguments)])


def printed(*arguments: str | Path) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    path = tmp_path / "calls.jsonl"
    lines = [json.dumps({"messages": messages}) for messages in (TALK, GROWN, LATER)]
    path.write_text("\n".join(lines) + "\n\n")
    return path


def test_show_names_the_segments_of_the_last_call(calls: Path) -> None:
    shown = printed("show", calls)
    assert [(s["name"], s["author"], s["tokens"]) for s in shown["segments"]] == [
        ("role", "assistant", 5),
        ("user", "user", 3),
        ("note", "transcript", 0),
        ("tool_call", "assistant", 6),
        ("note", "transcript", 0),
        ("tool_result", "find", 3),
        ("message", "assistant", 2),
    ]
    assert shown["total"] == 19
    assert len(shown["root"]) == 64
    text = invoke("show", calls, "--call", "1").stdout
    assert "6 segments, 17 tokens." in text
    assert text.startswith("calls.jsonl: session 1 of 1, call 1 of 3")
    assert "Tokens of smollm2" in text


def test_roots_show_that_a_transcript_grew(calls: Path, tmp_path: Path) -> None:
    one = printed("show", calls, "--call", "1")
    two = printed("show", calls, "--call", "2")
    assert two["segments"][:6] == one["segments"]
    same = tmp_path / "same.json"
    same.write_text(json.dumps(TALK, indent=1))
    assert printed("show", same)["root"] == one["root"]


def test_diff_says_where_two_calls_part(calls: Path) -> None:
    found = printed("diff", calls)
    assert found["cause"] == "volatile"
    assert found["segment"] == "role of assistant"
    assert "'10:00' became '10:07'" in found["detail"]
    assert (found["equal"], found["lost"]) == (0, 16)
    assert [(p["sign"], p["name"]) for p in found["parts"][:3]] == [
        ("-", "role of assistant"),
        ("+", "role of assistant"),
        ("=", "user"),
    ]
    assert [p["sign"] for p in found["parts"][2:]] == ["="] * 4
    text = invoke("diff", calls).stdout.replace("\n", " ")
    assert "<tool_call> {" in text
    assert text.startswith("Equal: 0 parts whole, the first ")
    assert "They part at role of assistant: time or identifier" in text


def test_diff_of_two_files_and_of_one_that_grew(calls: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps({"messages": TALK}))
    two.write_text(json.dumps({"messages": GROWN}))
    assert printed("diff", one, two)["cause"] == "extended"
    assert "2 tokens are new" in invoke("diff", one, two).stdout
    two.write_text(json.dumps({"messages": [{"role": "user", "content": "Else."}]}))
    assert "They share nothing." in invoke("diff", one, two).stdout
    none = tmp_path / "none.json"
    none.write_text('{"calls": []}')
    for files, words in (
        ([one], "has 1 of 2 calls; name a second file"),
        ([none], "has 0 of 2 calls; name another"),
        ([none, one], "has 0 of 1 calls; name another"),
        ([one, two, calls], "takes one file or two"),
    ):
        result = invoke("diff", *files)
        assert result.exit_code == 1
        assert words in result.stderr


def test_a_part_that_stands_twice_is_new_once(tmp_path: Path) -> None:
    said = [{"role": "user", "content": text} for text in ("One.", "Two.", "Two.")]
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join(json.dumps(call) for call in (said[:2], said[1:])))
    parts = printed("diff", path)["parts"]
    assert [part["sign"] for part in parts] == ["-", "=", "+"]


def test_lint_grades_each_call_and_totals(calls: Path) -> None:
    found = printed("lint", calls)
    rows = found["sessions"][0]["calls"]
    assert [row["cause"] for row in rows] == ["first", "extended", "volatile"]
    assert [row["against"] for row in rows] == [None, 1, 2]
    assert [row["lost"] for row in rows] == [0, 0, 16]
    assert found["total"] == {"calls": 3, "tokens": 61, "shared": 24, "lost": 16}
    assert found["unit"] == "tokens"
    text = invoke("lint", calls).stdout.replace("\n", " ")
    assert "3 calls, 61 tokens: 24 shared with an earlier call (39%), 16 lost" in text


def test_lint_reads_sessions_of_prompts_each_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "sessions.jsonl.gz"
    session = {
        "id": "s1",
        "calls": [{"input": "One.\n\nTwo."}, {"input": "One.\n\nTwo.\n\nThree."}],
    }
    other = {"calls": [{"input": "One.\n\nTwo."}, {"input": ""}]}
    path.write_bytes(gzip.compress(f"{json.dumps(session)}\n{json.dumps(other)}\n".encode()))
    found = printed("lint", path)
    assert [s["session"] for s in found["sessions"]] == ["s1", "line 2"]
    assert [c["cause"] for c in found["sessions"][1]["calls"]] == ["first", "extended"]
    assert found["total"] == {"calls": 4, "tokens": 7, "shared": 2, "lost": 0}
    shown = printed("show", path, "--session", "1", "--call", "2")
    assert [s["name"] for s in shown["segments"]] == ["line 1", "line 3", "line 5"]


def test_tools_are_part_of_a_call(tmp_path: Path) -> None:
    path = tmp_path / "tools.jsonl"
    tools = [[{"type": "function", "function": {"name": name}}] for name in ("find", "look")]
    path.write_text("\n".join(json.dumps({"messages": TALK, "tools": t}) for t in tools))
    assert printed("lint", path)["sessions"][0]["calls"][1]["cause"] == "tools"


def test_without_a_tokenizer_characters_are_counted_and_said(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(model: str) -> ModelText:
        raise ConfigError(f"engine {model!r}", "nothing is installed")

    monkeypatch.setattr(counting, "open_model_text", nothing)
    found = printed("lint", calls)
    assert found["unit"] == "characters"
    assert found["total"]["characters"] > 61
    assert "nothing is installed" in invoke("show", calls).stdout.replace("\n", " ")


def test_a_template_that_rewrites_is_said_and_costs(calls: Path) -> None:
    found = printed("lint", calls, "--model", "rewriting")
    assert "Its chat template" in found["notes"][1]
    rows = found["sessions"][0]["calls"]
    assert [row["cause"] for row in rows] == ["first", "template", "volatile"]
    assert rows[1]["lost"] > 0
    assert "whole" in invoke("lint", calls, "--model", "rewriting").stdout


def test_a_template_that_cannot_render_the_calls_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    talk = [{"role": "user", "content": f"Word {n}."} for n in range(8)]
    path.write_text("\n".join(json.dumps({"messages": talk[:n]}) for n in (7, 8)))
    found = printed("lint", path, "--model", "rewriting")
    assert [c["cause"] for c in found["sessions"][0]["calls"]] == ["first", "extended"]


def test_a_model_that_was_named_must_be_there(calls: Path) -> None:
    result = invoke("lint", calls, "--model", "none")
    assert result.exit_code == 1
    assert "model 'none' was not found" in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it is empty"),
        ("nothing", "not JSON: "),
        ('{"messages": [\n]\n', "line 3"),
        ('{"messages": []}\n{', "line 2 is not JSON"),
        ("7", "not a transcript"),
        ('["x"]', "not a transcript"),
        ('{"calls": [7]}', "calls[0]: not a transcript"),
        ('{"calls": 7}', "not a transcript"),
        ('{"messages": [{"role": "robot"}]}', "messages[0].role: not one of"),
        ('{"messages": []}\n{"messages": 7}', "line 2: messages: not a list"),
        ('{"messages": [], "tools": [7]}', "tool 0: not an object"),
        ('{"id": "s", "calls": [{"messages": [{"role": "tool"}]}]}', "messages[0].tool_call_id"),
    ],
)
def test_what_cannot_be_read_is_said_by_its_place(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(UnreadableFile) as caught:
        read_sessions(path, "assistant")
    assert words in str(caught.value)
    result = invoke("lint", path)
    assert result.exit_code == 1
    assert words in result.stderr.replace("\n", " ")


@pytest.mark.parametrize("name", ["missing.json", "cut.gz", "plain.gz"])
def test_files_that_are_not_there_or_not_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "cut.gz":
        path.write_bytes(gzip.compress(b"{}" * 1000)[:-9])
    elif name == "plain.gz":
        path.write_text("{}")
    with pytest.raises(UnreadableFile, match=name):
        read_sessions(path, "assistant")


def test_a_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.gz"
    path.write_bytes(gzip.compress(b" " * 5000 + b"[]"))
    monkeypatch.setattr("agentbus.cli.context_files.MAX_FILE", 5000)
    with pytest.raises(UnreadableFile, match="over 5000 bytes"):
        read_sessions(path, "assistant")


def test_what_is_not_in_the_file_cannot_be_shown(calls: Path) -> None:
    for option, number in (("--session", "2"), ("--call", "4")):
        result = invoke("show", calls, option, number)
        assert result.exit_code == 1
        assert option in result.stderr
