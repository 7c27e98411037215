"""Very short runs of real contenders in real processes, and how those end."""

from __future__ import annotations

import os
import select
import sys

import pytest
from _pytest.mark import ParameterSet

from perf.children import ChildFailed, child, python_child
from perf.micro.bus import CASES
from perf.peers import AUTOGEN, AUTOGEN_GRPC, GRPC, NATS, REDIS, Peer
from perf.rounds import interleave
from perf.workloads import Load

BRIEF = Load(
    rounds=1,
    warmup_s=0.02,
    latency_s=0.02,
    rate_s=0.02,
    open_s=0.02,
    in_flight=8,
    one_core=True,
)


async def _figures(**contenders: str) -> dict[str, dict[str, float]]:
    seen: list[str] = []
    results = await interleave(contenders, BRIEF, seen.append)
    assert len(seen) == 2 * len(contenders)
    return results


@pytest.mark.anyio
async def test_the_floor_can_be_measured() -> None:
    peers = CASES["unix"].peers
    results = await _figures(raw=peers["raw_uvloop"], polling=peers["raw_uvloop_polling"])
    for figures in results.values():
        assert figures["req_s"] > 0
        assert 0 < figures["p50_us"] <= figures["p99_us"]
        assert ("open_p50_us" in figures) == (sys.platform == "linux")
        assert ("one_core_p50_us" in figures) == (sys.platform == "linux")


@pytest.mark.anyio
async def test_agentbus_can_be_measured() -> None:
    results = await _figures(
        inproc=CASES["inproc"].ours, unix=CASES["unix"].ours, tcp=CASES["tcp_curve"].ours
    )
    assert results["inproc"]["req_s"] > 0
    assert results["unix"]["req_s"] > 0
    assert results["tcp"]["req_s"] > 0


@pytest.mark.anyio
@pytest.mark.skipif(bool(AUTOGEN.missing()), reason="the peer is not installed")
async def test_autogen_can_be_measured() -> None:
    results = await _figures(autogen=CASES["inproc"].peers["autogen"])
    assert results["autogen"]["req_s"] > 0


def _installed(peer: Peer) -> ParameterSet:
    gone = bool(peer.missing())
    return pytest.param(
        peer.name, marks=pytest.mark.skipif(gone, reason="the peer is not installed")
    )


@pytest.mark.anyio
@pytest.mark.parametrize("peer", [_installed(peer) for peer in (NATS, GRPC, REDIS, AUTOGEN_GRPC)])
async def test_peers_across_processes_can_be_measured(peer: str) -> None:
    results = await _figures(**{peer: CASES["unix"].peers[peer]})
    assert results[peer]["req_s"] > 0
    assert ("open_p50_us" in results[peer]) == (sys.platform == "linux")


@pytest.mark.anyio
async def test_a_child_that_breaks_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildFailed, match="broken ended early"):
        await _figures(broken="perf.no_such_module:contend")
    assert "no_such_module" in capfd.readouterr().err


@pytest.mark.anyio
async def test_a_silent_child_is_given_up_and_ended() -> None:
    with pytest.raises(ChildFailed, match="mute was silent"):
        async with child("mute", sys.executable, "-c", "input()") as mute:
            await mute.hear(0.01)
    assert mute.process.returncode is not None


LEAVES_AN_ORPHAN = """
import subprocess, sys
argv = [sys.executable, "-c", "import time; time.sleep(600)"]
orphan = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
print(orphan.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="pidfd_open is Linux's")
async def test_what_a_group_leader_leaves_behind_is_killed() -> None:
    if sys.platform == "linux":
        argv = (sys.executable, "-c", LEAVES_AN_ORPHAN)
        async with child("leader", *argv, own_group=True) as leader:
            orphan = os.pidfd_open(int(await leader.hear(10)))
        ended, _, _ = select.select([orphan], [], [], 10)
        os.close(orphan)
        assert ended


@pytest.mark.anyio
async def test_a_child_must_say_that_it_is_ready() -> None:
    with pytest.raises(ChildFailed, match=r"wrote .* instead of 'ready'"):
        async with python_child("chatty", "this"):
            pytest.fail("it was taken for ready")
