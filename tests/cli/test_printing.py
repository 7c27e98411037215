"""What all commands print: help as it is written, and JSON also where nobody reads it."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from agentbus.cli.app import app
from agentbus.cli.runtime import print_json


def test_help_says_names_in_brackets() -> None:
    shown = CliRunner().invoke(app, ["worker", "--help"], env={"COLUMNS": "200"}).stdout
    assert "agentbus.toml's [engine]." in shown


def test_a_command_ends_where_nobody_reads_its_json(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        with pytest.raises(SystemExit):
            print_json({"left": "behind"})
