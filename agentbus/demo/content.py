"""How much of the conversation is new to the process that a hop reaches, counted from the record.

This is what a hop has to carry at least: the texts that the receiving process has neither received
nor written before. It is counted from the record's texts alone, apart from the code under test.
"""

from __future__ import annotations

from .roles import WORKERS
from .script import Conversation

__all__ = ["new_content"]

_ENGINE = "the engine's process"


def new_content(conversation: Conversation) -> tuple[tuple[int, int], ...]:
    """Return, for each hop, the bytes of text new to the agent's process and to the engine's.

    Agents share processes as `WORKERS` says; any other is alone in one. A text counts as UTF-8, without its author's name.
    """
    process_of = {name: names[0] for names in WORKERS for name in names}
    seen: dict[str, set[str]] = {}
    found = []
    for index, hop in enumerate(conversation.hops):
        texts = {role.text for role in conversation.roles}
        texts |= {said.text for said in conversation.transcript(index)}
        reached = (process_of.get(hop.target, hop.target), _ENGINE)
        sizes = []
        for process in reached:
            new = texts - seen.get(process, set())
            sizes.append(sum(len(text.encode()) for text in new))
            seen.setdefault(process, set()).update(texts, {hop.text})
        found.append((sizes[0], sizes[1]))
    return tuple(found)
