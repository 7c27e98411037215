from __future__ import annotations

from pathlib import Path

import pytest

from ..client.conftest import WAYS, Pair


@pytest.fixture(params=WAYS)
def pair(request: pytest.FixtureRequest, socket_dir: Path) -> Pair:
    """Agents and who asks them, in all ways in which they can be apart."""
    return Pair(request.param, socket_dir)
