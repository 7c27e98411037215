"""Which layer a sample counts for, and a short profile of both cases."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from time import process_time

import pytest

from perf import profile as profile_module
from perf.profile import Sampled, layer_of, profile, sampling

ROOT = Path(profile_module.__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("inside", "function", "layer"),
    [
        ("agentbus/wire/codec.py", "encode", "encode"),
        ("agentbus/wire/codec.py", "feed", "decode"),
        ("agentbus/client/payload.py", "decode", "decode"),
        ("agentbus/client/payload.py", "receive", "copy"),
        ("agentbus/client/mailbox.py", "run", "mailbox"),
        ("agentbus/client/node.py", "send_nowait", "requests"),
        ("agentbus/transport/link.py", "send", "link"),
        ("perf/workloads.py", "latencies", "caller and handler"),
        ("perf/profile.py", "main", None),
        ("tests/conftest.py", "anything", None),
    ],
)
def test_a_function_belongs_to_a_layer(inside: str, function: str, layer: str | None) -> None:
    assert layer_of(f"{ROOT}/{inside}", function) == layer
    assert layer_of(f"/elsewhere/{inside}", function) is None


def test_shares_of_the_samples_are_shares_of_the_time() -> None:
    sampled = Sampled(Counter(link=3, mailbox=1), cpu_s=0.004)
    assert sampled.us_a_request(100) == pytest.approx({"link": 30.0, "mailbox": 10.0})
    assert Sampled().us_a_request(100) == {}


def test_samples_are_taken_while_the_block_computes_and_no_longer() -> None:
    with sampling() as sampled:
        end = process_time() + 0.1
        while process_time() < end:
            pass
    taken = sampled.layers.total()
    assert taken > 0
    assert sampled.cpu_s >= 0.1
    end = process_time() + 0.05
    while process_time() < end:
        pass
    assert sampled.layers.total() == taken


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("case", "processes"), [("inproc", {"caller"}), ("unix", {"caller", "agent"})]
)
async def test_each_process_is_profiled(
    monkeypatch: pytest.MonkeyPatch, case: str, processes: set[str]
) -> None:
    monkeypatch.setattr(profile_module, "WARMUP_S", 0.02)
    found = await profile(case, 0.2)
    assert set(found) == processes
    assert all(sum(layers.values()) > 0 for layers in found.values())
