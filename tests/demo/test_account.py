from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.demo import account as account_module
from agentbus.demo.account import (
    Ids,
    LogEntry,
    UnequalWork,
    account,
    find_turn_start,
    read_log,
    split_turns,
)
from agentbus.errors import UnreadableFile

START = 1
SYSTEM: Ids = (START, 50, 51, 52)
DOCUMENT: Ids = (START, 60, 61, 62, 63)
ASK_A: Ids = (START, 70, 71)
ASK_B: Ids = (START, 72, 73)
CUE_A: Ids = (START, 80)
CUE_B: Ids = (START, 81)
SAID_A: Ids = (90, 91)
SAID_B: Ids = (92, 93, 94)
END: Ids = (2,)


def entry(prompt: Ids, generated: Ids, reused: int) -> LogEntry:
    return LogEntry(
        label="x",
        tenant="t",
        prompt_ids=prompt,
        generated_ids=generated,
        reused=reused,
        prefilled=len(prompt) - reused,
    )


def shared_layout() -> list[LogEntry]:
    first = SYSTEM + DOCUMENT + ASK_A + CUE_A
    second = first + SAID_A + END + ASK_B + CUE_B
    return [entry(first, SAID_A, 0), entry(second, SAID_B, len(first))]


def test_each_delivered_turn_counts_once_and_the_last_cue_by_itself() -> None:
    counted = account(shared_layout(), START)
    first, second = counted.hops
    assert first.new == len(SYSTEM + DOCUMENT + ASK_A)
    assert second.new == len(CUE_A + SAID_A + END + ASK_B + CUE_B)
    assert (first.reusable, second.reusable) == (0, second.prompt - len(END + ASK_B + CUE_B))
    assert counted.new == first.new + second.new
    assert counted.prefilled == len(SYSTEM + DOCUMENT + ASK_A + CUE_A) + second.prefilled
    assert counted.reused == second.reused == first.prompt
    assert counted.ratio == pytest.approx(counted.prefilled / counted.new)


def test_a_document_read_by_two_under_different_roles_counts_once() -> None:
    other = (START, 53, 54)
    calls = [
        entry(SYSTEM + DOCUMENT + CUE_A, SAID_A, 0),
        entry(other + DOCUMENT + CUE_A, SAID_A, 0),
    ]
    assert account(calls, START).new == len(SYSTEM + DOCUMENT + other + CUE_A)


def test_a_message_in_two_renderings_counts_twice() -> None:
    own, quoted = CUE_A + SAID_A + END, (START, 7, 80, *SAID_A, *END)
    calls = [
        entry(SYSTEM + own + CUE_A, SAID_B, 0),
        entry(SYSTEM + quoted + CUE_B, SAID_B, 0),
    ]
    assert account(calls, START).new == len(SYSTEM + own + CUE_A + quoted + CUE_B)


def test_a_claim_to_have_reused_what_nobody_computed_is_refused() -> None:
    first, second = shared_layout()
    with pytest.raises(UnequalWork, match="had been computed"):
        account([entry(first.prompt_ids, SAID_A, 4), second], START)
    reusable = len(first.prompt_ids + SAID_A)
    account([first, entry(second.prompt_ids, SAID_B, reusable)], START)
    with pytest.raises(UnequalWork, match="had been computed"):
        account([first, entry(second.prompt_ids, SAID_B, reusable + 1)], START)


def test_figures_that_do_not_add_up_are_refused() -> None:
    first, _ = shared_layout()
    with pytest.raises(UnequalWork, match="are not the prompt's"):
        account([first.model_copy(update={"prefilled": 3})], START)


@given(st.lists(st.lists(st.integers(3, 9), max_size=4).map(tuple), min_size=1, max_size=6))
def test_turns_are_cut_at_their_starts_and_lose_nothing(turns: list[Ids]) -> None:
    marked = [(START, *turn) for turn in turns]
    assert split_turns(tuple(t for turn in marked for t in turn), START) == marked


def test_what_stands_before_the_first_turn_stays_with_it() -> None:
    assert split_turns((9, START, 5, START, 6), START) == [(9, START, 5), (START, 6)]


def test_the_turn_start_is_the_first_id_that_stands_once_a_turn() -> None:
    chat = (9, START, 5, 2, START, 6, 2, START, 7)
    assert find_turn_start(chat, 3) == START
    with pytest.raises(UnequalWork):
        find_turn_start(chat, 4)


def test_a_log_is_read_by_tenant(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    calls = [*shared_layout(), shared_layout()[0].model_copy(update={"tenant": "other"})]
    log.write_bytes(b"".join(orjson.dumps(call.model_dump()) + b"\n" for call in calls))
    assert read_log(log, "t") == shared_layout()


@pytest.mark.parametrize("content", [b"{", b"[]\n", b'{"label": "x"}\n', b"\xff\n"])
def test_a_broken_log_is_refused(tmp_path: Path, content: bytes) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(content)
    with pytest.raises(UnreadableFile, match="not a token log"):
        read_log(log, "t")


def test_a_missing_or_huge_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableFile):
        read_log(tmp_path / "none", "t")
    monkeypatch.setattr(account_module, "MAX_LOG_BYTES", 4)
    (tmp_path / "log").write_bytes(b"12345")
    with pytest.raises(UnreadableFile, match="over 4 bytes"):
        read_log(tmp_path / "log", "t")
