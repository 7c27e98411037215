"""How much of the conversation is new to the process that a hop reaches, counted from the record.

This is what a hop has to carry at least: what was said since, and was neither received nor said in
the receiving process. It is counted from the record's texts alone, apart from the code under test.
What is said twice is new twice: it is another turn of the conversation.
"""

from __future__ import annotations

from .roles import WORKERS
from .script import Conversation

__all__ = ["new_content"]

_ENGINE = "the engine's process"


def new_content(conversation: Conversation) -> tuple[tuple[int, int], ...]:
    """Return, for each hop, the bytes of text new to the agent's process and to the engine's.

    Agents share processes as `WORKERS` says; any other is alone in one. A text counts as UTF-8, with the
    name under which models read it: an agent's, not `document` or `user`.
    """
    process_of = {name: team[0] for team in WORKERS for name in team}
    names = [role.name for role in conversation.roles]
    roles = sum(len((role.name + role.text).encode()) for role in conversation.roles)
    held: dict[str, set[int]] = {}
    found = []
    for index, hop in enumerate(conversation.hops):
        sizes = [
            len(said.text.encode()) + (len(said.author) if said.author in names else 0)
            for said in conversation.transcript(index)
        ]
        legs = []
        for process in (process_of.get(hop.target, hop.target), _ENGINE):
            new = roles if process not in held else 0
            have = held.setdefault(process, set())
            new += sum(size for place, size in enumerate(sizes) if place not in have)
            have.update(range(len(sizes) + 1))  # and what the agent then says
            legs.append(new)
        found.append((legs[0], legs[1]))
    return tuple(found)
