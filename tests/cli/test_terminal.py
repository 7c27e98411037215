"""Texts of others on a terminal, and in a pipe."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from agentbus.cli.runtime import json_text, print_json
from agentbus.cli.terminal import print_line, visible

HOSTILE = "\x1b]0;owned\x07 a\tb\nc \x9b2J\x7f \u202eevil"
SHOWN = "\u241b]0;owned\u2407 a\tb\nc \ufffd2J\u2421 \ufffdevil"


def test_a_text_goes_to_a_terminal_without_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_line(HOSTILE)
    print_json({"answer": "\x9b2J\u202e"})
    assert capsys.readouterr().out == f'{SHOWN}\n{{"answer":"\ufffd2J\ufffd"}}\n'


def test_a_text_goes_elsewhere_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(HOSTILE)
    assert capsys.readouterr().out == HOSTILE + "\n"


def test_whatever_a_message_holds_is_written_as_json() -> None:
    assert json_text({1: "a", None: [{b"k": b"v"}]}) == (
        '{"1": "a", "None": [{"b\'k\'": "b\'v\'"}]}'
    )
    assert json_text(["\ud800", 10**30]) == f'["\\ud800", {10**30}]'
    deep: Any = 7
    for _ in range(300):
        deep = [deep]
    assert json.loads(json_text(deep)) == deep
    for _ in range(100_000):
        deep = [deep]
    assert json_text(deep) == '"a list of too many levels"'
    assert json_text({1: 2}, indent=True) == '{\n  "1": 2\n}'


def test_a_line_cannot_be_written_over() -> None:
    assert visible("one\r\ntwo\rTWO\n") == "one\ntwo\u240dTWO\n"
