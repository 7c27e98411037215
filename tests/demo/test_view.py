from __future__ import annotations

import io

import pytest
from rich.console import Console

from agentbus.demo.events import HopEnded, HopResult, HopStarted, HopText, Leg
from agentbus.demo.script import Conversation
from agentbus.demo.view import LiveView, replay_view, show_comparison

from .helpers import comparison_of

RESULT = HopResult(
    text=" Nine boats.",
    legs=(Leg("one", 120, 5), Leg("two", 100, 5)),
    prompt_tokens=2200,
    reused=2100,
    prefilled=100,
    decoded=48,
    ttft_s=0.081,
    wall_s=1.5,
)
EVENTS = (
    HopStarted("agentbus", 0, "user", "planner", "unix"),
    HopText("agentbus", 0, " Nine [bold]"),
    HopText("agentbus", 0, "boats\x1b[2J."),
    HopEnded("agentbus", 0, RESULT),
)


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=60, color_system=None), file


@pytest.mark.parametrize("terminal", [True, False])
def test_a_hop_is_told_whole(terminal: bool) -> None:
    target, file = console(terminal=terminal)
    view = LiveView(target)
    for event in EVENTS:
        view(event)
    lines = file.getvalue().splitlines()
    assert lines[0] == " 1  user → planner  unix"
    assert lines[1] == "Nine [bold]boats\N{REPLACEMENT CHARACTER}[2J."
    assert lines[2].strip() == (
        "220 bytes sent · 100 tokens read, 2,100 reused · 48 written · "
        "first text after 81 ms · 1.50 s"
    )
    assert len(lines) == 3


def test_on_a_terminal_text_appears_as_it_comes() -> None:
    target, file = console(terminal=True)
    view = LiveView(target)
    for event in EVENTS[:2]:
        view(event)
    assert file.getvalue().endswith("Nine [bold]")


def test_a_replay_without_a_terminal_is_plain_lines() -> None:
    target, file = console(terminal=False)
    with replay_view(target, hops=1, ways=1) as show:
        for event in EVENTS:
            show(event)
    assert file.getvalue().count("\n") == 1
    assert file.getvalue().startswith("hop 1, agentbus: 220 bytes sent")


def test_a_replay_on_a_terminal_shows_how_far_it_is() -> None:
    target, file = console(terminal=True)
    with replay_view(target, hops=2, ways=2) as show:
        for event in EVENTS:
            show(event)
    assert "1/4" in file.getvalue()
    assert "hop 1, agentbus" in file.getvalue()


def test_the_end_shows_table_and_sentences(conversation: Conversation) -> None:
    target, file = console(terminal=False)
    show_comparison(target, comparison_of(conversation))
    assert "side by side" in file.getvalue()
    assert "Equal work, checked" in file.getvalue()
