"""How much of the conversation is new to the process that a hop reaches, counted from the record.

This is what a hop has to carry at least: the texts that the receiving process has neither received
nor written before. It is counted from the record's texts alone, apart from the code under test.
"""

from __future__ import annotations

from collections.abc import Mapping

from .script import Conversation

__all__ = ["ENGINE", "new_content"]

ENGINE = "engine"
"""The engine's process, among those of the agents."""


def new_content(
    conversation: Conversation, process_of: Mapping[str, str]
) -> tuple[tuple[int, int], ...]:
    """Return, for each hop, the bytes of text new to the agent's process and to the engine's.

    `process_of` names each agent's process. A text counts as UTF-8, without its author's name.
    """
    seen: dict[str, set[str]] = {}
    found = []
    for index, hop in enumerate(conversation.hops):
        texts = {role.text for role in conversation.roles}
        texts |= {said.text for said in conversation.transcript(index)}
        reached = (process_of[hop.target], ENGINE)
        sizes = []
        for process in reached:
            new = texts - seen.get(process, set())
            sizes.append(sum(len(text.encode()) for text in new))
            seen.setdefault(process, set()).update(texts, {hop.text})
        found.append((sizes[0], sizes[1]))
    return tuple(found)
