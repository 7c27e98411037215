"""Which peers a run measures, what it says of the others, and the command line's ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.errors import PeerLost
from perf import __main__ as command
from perf.children import ChildFailed
from perf.micro.bus import CASES, SUITE
from perf.peers import Peer
from perf.report import Row
from perf.suite import Progress, Suite, select

HERE = Peer("here")
GONE = Peer("gone", ("no-such-distribution",))
ROW = Row("toy", "one", "p50_us", 1.0, "us", "here", 2.0, 2.0)


async def _run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    progress("running")
    if not quick:
        raise ChildFailed("here ended early")
    return [ROW] if "here" in peers else []


TOY = Suite(name="toy", peers=(HERE, GONE), method="none.", run=_run)


def test_all_installed_peers_are_chosen_and_the_missing_named() -> None:
    selection = select(TOY, [])
    assert selection.peers == (HERE,)
    assert selection.skipped == (
        "skipped gone: no-such-distribution not installed; `make peers` installs it",
    )


def test_only_the_peers_asked_for_are_chosen() -> None:
    assert select(TOY, ["here", "here"]).peers == (HERE,)
    assert select(TOY, ["here"]).skipped == ()
    assert select(TOY, ["gone"]).peers == ()


def test_an_unknown_peer_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no peer 'herre'; it has here, gone"):
        select(TOY, ["herre"])


def test_every_peer_of_the_suite_has_a_case() -> None:
    in_cases = {peer for case in CASES.values() for peer in case.peers}
    assert in_cases == {peer.name for peer in SUITE.peers}


def test_an_error_of_the_bus_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def lose(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
        raise PeerLost("broker")

    monkeypatch.setattr(command, "SUITES", {"toy": replace(TOY, run=lose)})
    assert command.main(["toy"]) == 1
    assert "perf: the process 'broker' went away" in capsys.readouterr().err


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SUITES", {"toy": TOY})


@pytest.mark.usefixtures("toy")
def test_a_missing_peer_is_skipped_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "rows.json"
    peers = ["--peer", "here", "--peer", "gone"]
    assert command.main(["toy", "--quick", *peers, "--json", str(target)]) == 0
    said = capsys.readouterr()
    assert "skipped gone" in said.err and "make peers" in said.err
    assert said.err.endswith("running\n")  # what is under way, as no terminal shows a spinner
    assert "p50_us" in said.out
    assert target.exists()


@pytest.mark.usefixtures("toy")
def test_a_broken_contender_ends_the_run_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "rows.json"
    assert command.main(["toy", "--json", str(target)]) == 1
    assert "perf: here ended early" in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.usefixtures("toy")
def test_misuse_is_found_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["toy", "--peer", "herre"]) == 2
    with pytest.raises(SystemExit) as exit_info:
        command.main(["toy", "--json", str(tmp_path / "no" / "folder.json")])
    assert exit_info.value.code == 2
    assert "cannot write" in capsys.readouterr().err
