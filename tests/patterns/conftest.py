from __future__ import annotations

from pathlib import Path

import pytest

from ..client.conftest import Pair


@pytest.fixture(params=["inproc", "unix"])
def pair(request: pytest.FixtureRequest, socket_dir: Path) -> Pair:
    """Agents and who asks them, in one process and in two."""
    return Pair(request.param, socket_dir)
