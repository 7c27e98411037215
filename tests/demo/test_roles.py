from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentbus.demo.roles import (
    DEFAULT_QUESTION,
    MAX_DOCUMENT_BYTES,
    ROLES,
    ROUNDS,
    load_default_document,
    load_document,
    steps,
)
from agentbus.errors import UnreadableFile
from agentbus.names import check_agent_name


def test_four_agents_speak_three_times_in_turn() -> None:
    hops = steps()
    assert len(ROLES) == 4
    assert ROUNDS == 3
    assert [step.target for step in hops] == [role.name for role in ROLES] * ROUNDS
    assert [step.source for step in hops] == ["user", *(step.target for step in hops[:-1])]
    assert [step.index for step in hops] == list(range(12))


def test_names_are_valid_and_asks_distinct() -> None:
    for role in ROLES:
        check_agent_name(role.name)
    asks = [step.ask for step in steps()]
    assert len(set(asks)) == len(asks)


def test_the_shipped_document_is_there() -> None:
    document = load_default_document()
    assert document.startswith("# A tidal mill")
    assert 2000 < len(document) < 5000
    assert DEFAULT_QUESTION.endswith("?")


def test_an_ordinary_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "paper.txt"
    file.write_bytes("\ufeff Grüße\r\nEnde \n".encode())
    assert load_document(file) == "Grüße\nEnde"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"\xff\xfe\x00text", "not UTF-8"),
        (b"GGUF\0\0\0", "not text"),
        (b"x" * (MAX_DOCUMENT_BYTES + 1), "larger than 256 KiB"),
    ],
)
def test_an_unusable_file_is_one_plain_sentence(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "paper.txt"
    file.write_bytes(content)
    with pytest.raises(UnreadableFile, match=problem) as caught:
        load_document(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "paper.txt"
    file.write_bytes(b"x" * MAX_DOCUMENT_BYTES)
    assert len(load_document(file)) == MAX_DOCUMENT_BYTES


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, problem in [
        (tmp_path / "missing", "no such file"),
        (tmp_path, "folder"),
        (pipe, "not an ordinary file"),
        (Path("nul\0byte"), "no such file"),
    ]:
        with pytest.raises(UnreadableFile, match=problem):
            load_document(path)
