"""Publishing past the broker when something goes wrong in the middle of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentbus.client.exchange import Pending
from agentbus.client.node import Node
from agentbus.client.remote import Peer
from agentbus.client.routes import Routes
from agentbus.errors import LinkFull
from agentbus.routing import Listener, PassBy, Readmit

from .test_direct_topics import (
    RAPID,
    TOPIC,
    Numbers,
    buses,
    link_to,
    listeners,
    until,
    way_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again who listens as soon as messages come fast."""
    monkeypatch.setattr("agentbus.client.direct_topics._RETRY_AFTER", 0.0)


async def test_a_home_that_cannot_be_told_of_a_move_is_not_given_up(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = Node.say

    def refused(self: Node, peer: Peer, said: object, *rest: Any) -> Pending:
        if isinstance(said, PassBy | Readmit):
            raise LinkFull(peer.name, 1)
        return say(self, peer, said, *rest)

    async with buses(socket_dir, "p", "s") as (_, p, s), s.subscribe(TOPIC) as messages:
        monkeypatch.setattr(Node, "say", refused)
        numbers, home = Numbers(p), link_to(p, "broker")
        await numbers.publish(RAPID)
        await until(lambda: not way_of(p).busy)
        await p._sender.tell_home("+other")
        assert not home.link.closing
        await numbers.publish(3)
        await numbers.all_read(messages)
        assert p.report().dropped == 0


@pytest.mark.promise("topic.all")
async def test_over_a_link_that_is_about_to_be_closed_nothing_is_published(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = Routes.reach_listener

    async def let_go(self: Routes, listener: Listener) -> Peer | None:
        peer = await reach(self, listener)
        if peer is not None:
            p._sender.let_go(peer)  # as the other side wants it
        return peer

    async with buses(socket_dir, "p", "s") as (_, p, s), s.subscribe(TOPIC) as messages:
        monkeypatch.setattr(Routes, "reach_listener", let_go)
        numbers = Numbers(p)
        await numbers.publish(RAPID)
        await until(lambda: not way_of(p).busy)
        await p._sender.tell_home("+other")
        assert not way_of(p).moves
        assert not listeners(p)
        await numbers.all_read(messages)
