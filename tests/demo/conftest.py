from __future__ import annotations

import pytest

from agentbus.demo.roles import Role
from agentbus.demo.script import Conversation, Hop


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def conversation() -> Conversation:
    """Two agents, four hops, short texts with the space that a cue leaves to the model."""
    roles = (Role("alpha", "You count the boats."), Role("beta", "You name the boats."))
    said = [" Nine boats.", " Gull, Tern.", " Ten boats.\n", " Skua too."]
    names = ["alpha", "beta"] * 2
    hops = tuple(
        Hop(i, names[i - 1] if i else "user", names[i], f"Ask {i}, please.", text, ids(text))
        for i, text in enumerate(said)
    )
    return Conversation(roles, "The harbour has boats.", "Which boats?", hops)


def ids(text: str) -> tuple[int, ...]:
    return tuple(ord(c) + 10 for c in text)
