"""Mutated frames: whatever comes, there are messages or declared errors, and memory does not grow.

`python -m tests.fuzz` runs the same trials by the million.
"""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from agentbus.messages import Envelope, Kind
from agentbus.wire import Decoder

from .__main__ import main
from .process import ProcessCampaign
from .samples import envelopes
from .trials import TAKEN, Campaign, Finding

FRAMES = 20_000


@pytest.mark.promise("peer.hostile")
def test_mutated_frames_end_in_messages_or_declared_errors() -> None:
    campaign = Campaign(20)
    campaign.run(FRAMES)
    outcomes = campaign.outcomes
    assert outcomes.total() >= FRAMES
    # The mutations reach both sides of the checks, and each kind of refusal.
    assert min(outcomes[TAKEN], outcomes["MalformedFrame"]) > FRAMES // 20
    expected = {"FrameTooLarge", "VersionMismatch", "UnexpectedFrame", "InvalidMessage"}
    assert expected <= set(outcomes)


@pytest.mark.anyio
@pytest.mark.promise("peer.hostile", "ends.left-nothing")
async def test_mutated_envelopes_leave_a_process_as_it_was() -> None:
    campaign = ProcessCampaign(20)
    await campaign.run(FRAMES // 2)
    assert campaign.outcomes[TAKEN] > FRAMES // 20
    # Those that no peer may send end the link that brought them.
    for kind in ("CREDIT", "PUBLISH", "HANDOFF", "PART"):
        assert f"{kind} ended its link" in campaign.outcomes


def test_there_is_a_sample_of_every_kind() -> None:
    assert {envelope.kind for envelope in envelopes()} == set(Kind)


def test_mutated_frames_leave_nothing_in_memory() -> None:
    campaign = Campaign(21)
    tracemalloc.start()
    try:
        campaign.run(1000)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(30):
            campaign.run(100)
            gc.collect()  # an error that was raised and kept refers to its session
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 64 * 1024
    assert peak - before < 1024 * 1024


def test_the_same_seed_makes_the_same_trials() -> None:
    one, two, other = Campaign(5), Campaign(5), Campaign(6)
    for campaign in (one, two, other):
        campaign.run(2000)
    assert one.outcomes == two.outcomes != other.outcomes


def _overrun(decoder: Decoder, data: bytes) -> list[Envelope]:
    raise IndexError("behind the end")


@pytest.mark.pure
def test_a_defect_is_found_and_can_be_had_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "feed", _overrun)
    with pytest.raises(Finding, match=r"IndexError: behind the end \(seed 7, frame \d+\)"):
        Campaign(7).run(2000)


def test_the_command_says_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--frames", "4000", "--processes", "1"]) == 0
    said = capsys.readouterr().out
    assert "taken" in said and "frames in" in said and "MiB" in said
