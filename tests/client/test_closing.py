"""A bus closes within its bound, and leaves nothing, also where its peers say nothing any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from agentbus import Bus, BusSettings
from agentbus.testing import Direction, Fault, FaultKind, fault_proxy

from .agents import Echo, Ping
from .tcp_keys import CLIENT, LISTENING, LOOPBACK

pytestmark = pytest.mark.anyio
HASTY = BusSettings(close_timeout=0.1)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.promise("ends.left-nothing")
async def test_a_bus_whose_peer_is_silent_closes(kind: str, socket_dir: Path) -> None:
    """Its socket is gone with it, and not only when the link's own patience ends, after 2 s."""
    over_tcp = kind == "tcp"
    listen = LOOPBACK if over_tcp else f"{socket_dir}/run/bus.sock"
    loop = asyncio.get_running_loop()
    async with Bus.open(listen=listen, keys=LISTENING if over_tcp else None) as home:
        await home.spawn(Echo(), name="echo")
        async with fault_proxy(home.listens_at) as proxy:
            keys = CLIENT if over_tcp else None
            async with Bus.open(proxy.url, keys=keys, settings=HASTY) as bus:
                await bus.request("echo", Ping(number=1))
                for direction in Direction:
                    proxy.inject(Fault(FaultKind.HALF_OPEN, direction))
                began = loop.time()
            with anyio.fail_after(5):
                await proxy.connections[0].near.gone.wait()
            assert loop.time() - began < 1.5
