from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentbus.config import Limits
from agentbus.transport import memory_pair

from .helpers import HELLO_A, HELLO_B, Pair, Recorder, connected, connected_tcp


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Transports run on whichever loop there is."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def limits() -> Limits:
    return Limits(write_buffer=8 * 1024 * 1024)


@pytest.fixture(params=["memory", "unix", "tcp"])
async def pair(
    request: pytest.FixtureRequest, socket_dir: Path, limits: Limits
) -> AsyncIterator[Pair]:
    """Two open links, one each side's, over each transport."""
    a, b = Recorder(), Recorder()
    if request.param == "memory":
        link_a, link_b = memory_pair(a, HELLO_A, b, HELLO_B, limits)
        yield Pair(link_a, a, link_b, b)
        link_a.abort()
        await link_a.aclose()
        await link_b.aclose()
    elif request.param == "tcp":
        async with connected_tcp(a, b, limits) as (link_a, link_b, _):
            yield Pair(link_a, a, link_b, b)
    else:
        async with connected(str(socket_dir / "bus"), a, b, limits) as (link_a, link_b):
            yield Pair(link_a, a, link_b, b)
