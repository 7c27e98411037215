"""How threads wait for one another: set where torch is loaded, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest
from agentbus_torch.openmp import short_spins

NAME = "GOMP_SPINCOUNT"


@pytest.fixture
def before_torch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in (NAME, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_environment_is_left_as_it_was(before_torch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError), short_spins():
        assert NAME in os.environ
        raise RuntimeError
    assert NAME not in os.environ


@pytest.mark.parametrize("name", [NAME, "OMP_WAIT_POLICY"])
def test_what_the_user_has_set_stays(before_torch: pytest.MonkeyPatch, name: str) -> None:
    before_torch.setenv(name, "7")
    with short_spins():
        assert os.environ.get(NAME) == ("7" if name == NAME else None)
    assert os.environ[name] == "7"


def test_torch_that_is_there_cannot_be_told(before_torch: pytest.MonkeyPatch) -> None:
    before_torch.setitem(sys.modules, "torch", ModuleType("torch"))
    with short_spins():
        assert NAME not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="torch comes with GNU's OpenMP on Linux")
def test_torch_takes_it() -> None:
    code = "from agentbus_torch.openmp import short_spins\nwith short_spins():\n    import torch"
    environment = {key: value for key, value in os.environ.items() if key != NAME}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"{NAME} = '4000'" in done.stderr
