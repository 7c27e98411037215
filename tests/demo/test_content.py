from __future__ import annotations

from agentbus.demo import Conversation, Hop, Role
from agentbus.demo.content import new_content

ROLES = (Role("planner", "p" * 10), Role("reader", "r" * 20), Role("writer", "w" * 30))


def test_each_process_needs_each_text_once() -> None:
    hops = (
        Hop(0, "user", "planner", "a" * 1, "m" * 1000, (1,)),
        Hop(1, "planner", "reader", "b" * 2, "n" * 2000, (2,)),
        Hop(2, "reader", "writer", "c" * 4, "o" * 4000, (3,)),
        Hop(3, "writer", "planner", "d" * 8, "é" * 10, (4,)),
        Hop(4, "planner", "reader", "e" * 16, "q", (5,)),
    )
    said = Conversation(ROLES, "D" * 100, "Q" * 200, hops)
    planner, reader, writer = 7, 6, 6  # bytes of the names under which models read a text
    start = planner + reader + writer + 60 + 300
    assert new_content(said) == (
        (start + 1, start + 1),
        (start + 1 + planner + 1000 + planner + 2, planner + 2),
        # The writer lives beside the planner, whose process has seen all but the reader's hop.
        (planner + 2 + reader + 2000 + reader + 4, reader + 4),
        (writer + 8, writer + 8),
        (reader + 4 + writer + 4000 + writer + 8 + planner + 20 + planner + 16, planner + 16),
    )
