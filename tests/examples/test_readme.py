"""What the README tells people to write and to type does what it says."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentbus.cli.app import app
from agentbus.engine import ToolCall
from agentbus.engine.fake import Reply
from agentbus.testing import open_bus

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(README) if kind == language]


def run_program(text: str, folder: Path) -> str:
    path = folder / "team.py"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_runs_on_a_scripted_engine(tmp_path: Path) -> None:
    program, *_ = blocks("python")
    assert program.count('"smollm2"') == 1
    shown = run_program(program.replace('"smollm2"', '"fake:echo"'), tmp_path)
    assert re.search(r"I read \d turns", shown)
    assert re.search(r"^[1-9]\d* tokens reused, [1-9]\d* prefilled$", shown, re.MULTILINE)


def test_its_test_passes(tmp_path: Path) -> None:
    program, _, test = blocks("python")
    (tmp_path / "team.py").write_text(program, encoding="utf-8")
    (tmp_path / "test_team.py").write_text(test, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.anyio
async def test_its_agent_calls_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, agent, _ = blocks("python")
    (tmp_path / "pilot_of_readme.py").write_text(agent, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    pilot = importlib.import_module("pilot_of_readme").Pilot
    called = Reply(calls=(ToolCall("tide", {"day": "Monday"}),))
    async with open_bus() as bus:
        model = await bus.script("small", [called, " At noon.\n Or not."])
        await bus.spawn(pilot, name="pilot", model="small")
        assert await bus.request("pilot", "When?", returns=str) == " At noon."
    assert model.requests[0].sampling.temperature == 0.7
    assert '{"day": "Monday"}' in model.prompts[1]
    assert "Monday: at noon" in model.prompts[1]


@pytest.mark.model
def test_the_program_runs_on_the_small_model(tmp_path: Path) -> None:
    program, *_ = blocks("python")
    shown = run_program(program, tmp_path)
    assert re.search(r"^[1-9]\d* tokens reused, [1-9]\d* prefilled$", shown, re.MULTILINE)


def commands() -> list[list[str]]:
    """Return the `agentbus` commands in the README, as words."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in split if words and words[0] == "agentbus"]


def names() -> set[str]:
    """Return the names of all commands that there are."""
    single = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    return single | {str(group.name) for group in app.registered_groups}


def test_the_commands_and_their_options_exist() -> None:
    found = commands()
    assert {words[0] for words in found} == names()
    for name, *words in found:
        path = [name, words[0]] if name in ("context", "filters", "keys") else [name]
        shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        for option in (word for word in words if word.startswith("--")):
            assert option in shown.stdout


def test_links_lead_somewhere_and_make_targets_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake (\w+)", "\n".join(blocks("sh"))):
        assert f"\n{target}:" in makefile


def test_nobody_is_sent_to_another_project_of_our_import_name() -> None:
    installed = re.findall(r"pip install ([^#`\n]*)", README)
    assert len(installed) >= 5
    assert not [words for words in installed if "agentbus" in words.replace("fm-agentbus", "")]


def test_the_rules_decide_what_it_says(tmp_path: Path) -> None:
    rules = "\n".join(blocks("toml"))  # all settings of the README make one file
    path = tmp_path / "agentbus.toml"
    path.write_text(rules, encoding="utf-8")
    explained = [words for words in commands() if words[:2] == ["acl", "explain"]]
    assert len(explained) == 2
    for words in explained:
        done = CliRunner().invoke(app, [*words, "--config", str(path)])
        assert done.exit_code == 0, done.stdout + done.stderr
        assert f"({path}, line" in done.stdout
    denied = ["acl", "explain", "key:ann+agent:writer", "request", "payments"]
    done = CliRunner().invoke(app, [*denied, "--config", str(path)])
    assert (done.exit_code, "rule 3" in done.stdout) == (1, True)
