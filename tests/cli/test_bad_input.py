"""What a command is given and cannot use: one plain sentence, status 1, no traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentbus.cli.app import app

HERE = "tests.system.agents"

CASES = {
    "no socket": (["ps"], "nothing listens at {url}; is the bus started?"),
    "not a url": (["ps", "--bus", "tcp://host:1"], "'tcp://host:1' is not of the form unix://"),
    "no path": (["up", "--bus", "unix://"], "'unix://' is not of the form unix:///path"),
    "not a url to listen at": (["up", "--bus", "/tmp/x"], "'/tmp/x' is not of the form unix://"),
    "a path too long": (["up", "--bus", f"unix:///{'x' * 120}/b.sock"], "a socket's path at most"),
    "nothing to do": (["worker"], "name an agent (module:Class) or a model to --serve"),
    "no target": (["worker", "words"], "'words' is not of the form module:Class"),
    "no module": (["worker", "no_such_module:Writer"], "cannot import 'no_such_module'"),
    "no class": (["worker", f"{HERE}:Nobody"], f"module '{HERE}' has no 'Nobody'"),
    "no agent": (["worker", f"{HERE}:NOT_AN_AGENT"], "is not a subclass of Agent"),
    "an agent with arguments": (["worker", f"{HERE}:Needy"], "cannot be made without arguments"),
    "no process name": (["worker", f"{HERE}:Adder", "--name", "a/b"], "'a/b' is not a valid name"),
    "no dtype": (
        ["worker", f"{HERE}:Adder", "--dtype", "int3"],
        "must be auto, float32 or bfloat16",
    ),
    "no threads": (
        ["worker", "--serve", "fake:", "--threads", "-1"],
        "must be between 0 and 1024, not -1",
    ),
    "no prices": (
        ["worker", "--serve", "fake:", "--prices", "cheap"],
        "prices: takes three numbers, as in 0.2,0.02,1, not 'cheap'",
    ),
    "a gift": (["worker", "--serve", "fake:", "--prices", "1,-1,1"], "prices.reused: must be 0"),
    "no metrics address": (["up", "--metrics", "here"], "'here' is not HOST:PORT, for example"),
    "no settings file": (
        ["up", "--config", "{folder}/none.toml"],
        "cannot read {folder}/none.toml",
    ),
    "no patience": (
        ["worker", f"{HERE}:Adder", "--drain-timeout", "-1"],
        "drain_timeout: must be greater than 0 and finite, not -1",
    ),
    "nobody to ask": (["call", "adder", "1"], "nothing listens at {url}; is the bus started?"),
    "no JSON": (["call", "adder", "words"], "'words' is not JSON; a text needs quotes of its own"),
    "no keys for tcp": (
        ["ps", "--bus", "ab://127.0.0.1:1"],
        "keys: ab:// urls need keys (--keys, or keys=load_keys(…)); `agentbus keys",
    ),
    "nothing to look at": (["top", "--once"], "nothing listens at {url}; is the bus started?"),
    "nothing to examine": (["doctor", "--bus", "x"], "'x' is not of the form unix://"),
    "no template": (["demo", "--model", "fake:echo"], "fake:echo' has no chat template"),
    "no file": (["demo", "--input", "{folder}/none.txt"], "cannot read {folder}/none.txt: "),
    "a folder": (["demo", "--input", "{folder}"], "cannot read {folder}: it is a folder"),
    "not text": (["demo", "--input", "{folder}/binary"], "cannot read {folder}/binary: "),
    "nothing asked": (["demo", "--input", "{folder}/text"], "question: say what is asked about"),
}


@pytest.fixture
def folder(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for commands to run in, which they may change as they like."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("AGENTBUS_URL", f"unix://{socket_dir}/run/bus.sock")
    (socket_dir / "text").write_text("Nine boats lie in the harbour.")
    (socket_dir / "binary").write_bytes(b"\xff\xfe\x00\x81")
    return socket_dir


def invoke(arguments: Sequence[str], folder: Path) -> Result:
    return CliRunner().invoke(app, [argument.format(folder=folder) for argument in arguments])


def expected(sentence: str, folder: Path) -> str:
    return sentence.format(folder=folder, url=f"{folder}/run/bus.sock")


@pytest.mark.parametrize("case", CASES)
def test_one_sentence(case: str, folder: Path) -> None:
    arguments, sentence = CASES[case]
    result = invoke(arguments, folder)
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("agentbus: ")
    assert result.stderr.count("\n") == 1
    assert expected(sentence, folder) in result.stderr


@pytest.mark.parametrize("case", CASES)
def test_one_object(case: str, folder: Path) -> None:
    arguments, sentence = CASES[case]
    result = invoke([*arguments, "--json"], folder)
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stderr) == (1, "")
    error = json.loads(result.stdout)["error"]
    assert set(error) == {"code", "fields", "text"}
    assert expected(sentence, folder) in error["text"]


def test_an_unknown_option_is_the_command_lines_own_affair(folder: Path) -> None:
    result = invoke(["ps", "--no-such-option"], folder)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_without_a_command_the_help_lists_them(folder: Path) -> None:
    result = invoke(["--help"], folder)
    assert result.exit_code == 0
    for command in ("up", "worker", "ps", "demo"):
        assert command in result.stdout


def test_the_url_comes_from_the_environment_or_the_users_own_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENTBUS_URL")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert f"nothing listens at {folder}/agentbus/bus.sock" in invoke(["ps"], folder).stderr
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert f"nothing listens at {folder}/agentbus-" in invoke(["ps"], folder).stderr


@pytest.mark.parametrize("command", ["up", "worker"])
def test_options_say_what_they_are_for(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    assert "How log lines are written." in shown
    assert "The least important lines that are logged." in shown
