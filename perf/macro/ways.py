"""Conversations of teams, laid out in each way: what a model would have to read anew.

The prompts' token ids go through the KV index without the model, since many conversations are
longer than its window; `with_model` computes some of those that are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agentbus.context import Context, KnownRoots, Layout, SegmentKind, TenantKey, delta_for, pack
from agentbus.kv import BlockPool, RadixIndex

from .logs import read_lines
from .tokenizer import Tokenizer

__all__ = [
    "CONVERSATIONS",
    "NewTokens",
    "Reading",
    "TeamCall",
    "count_new",
    "read_conversations",
    "read_team",
]

CONVERSATIONS = (
    "autogen_notebooks.jsonl.gz",
    "chatdev.jsonl.gz",
    "swe_agent.jsonl",
    "tau_bench_airline.jsonl",
    "who_when_algorithm.jsonl.gz",
    "who_when_handcrafted.jsonl.gz",
)
BLOCK = 16
BLOCKS = 1 << 16
"""More than any conversation needs: what is evicted is not the question here."""
KNOWN_ROOTS = 1 << 16
_GENERATED = frozenset(["message", "thought", "inner_step", "tool_call"])
_PROGRAMS = frozenset(
    ["human", "user", "environment", "tools", "Computer_terminal", "ChatDev runtime"]
)
"""Speakers that are no model."""


@dataclass(frozen=True, slots=True)
class TeamCall:
    """A model's call: what there was before it, who speaks, and what it answered."""

    before: Context
    speaker: str
    answer: str
    after: Context


@dataclass(slots=True)
class Reading:
    """What a conversation, or several, cost in one way."""

    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    sent_bytes: int = 0
    whole_bytes: int = 0
    """The same hops, if each sent the whole context."""


class NewTokens(NamedTuple):
    """What a team's prompts had that none had before, in tokens."""

    all: int
    """With generated messages, once they are part of a prompt."""
    undecoded: int
    """Without them: their KV was computed when they were decoded."""


def read_conversations(path: Path) -> Iterator[list[TeamCall]]:
    """Yield the model calls of each conversation of a file.

    All agents share one context, in which roles come first; thoughts are messages, too.
    """
    for conversation in read_lines(path):
        yield list(_turns(conversation))


def _turns(conversation: Mapping[str, Any]) -> Iterator[TeamCall]:
    context = TenantKey().empty()
    for agent, text in conversation.get("system_prompts", {}).items():
        context = context.role(agent, text)
    for message in conversation["messages"]:
        speaker, text = message["from"], message["content"]
        if speaker in _PROGRAMS:
            context = context.add(SegmentKind.USER, speaker, text)
        elif message["kind"] not in _GENERATED:
            context = context.add(SegmentKind.DOCUMENT, speaker, text)
        else:
            before, answer = context, f" {text.lstrip(' ')}"
            context = before.message(speaker, answer)
            yield TeamCall(before, speaker, answer, context)


def read_team(
    calls: Sequence[TeamCall], layout: Layout, tokenizer: Tokenizer, total: Reading
) -> None:
    """Let a team hold its conversation in a layout, and add what that cost."""
    index = RadixIndex(BlockPool(BLOCKS), BLOCK)
    prompts = tokenizer.prompts
    known: dict[str, KnownRoots] = {}
    for call in calls:
        prompt = layout.render(call.before, call.speaker)
        tokens = prompts.encode(prompt)
        answer = tokenizer.plain(call.answer)
        lease = index.begin(b"", tokens, owner=call.speaker)
        total.prompt_tokens += len(tokens)
        total.prefilled_tokens += len(tokens) - lease.reused
        whole = [*tokens, *answer[:-1]]  # the last token's KV is not computed, as in an engine
        index.extend(lease, len(whole))
        index.commit(lease, whole)
        prompts.remember(prompt.cue, call.answer, answer)
        _send(call, known, total)


def count_new(calls: Sequence[TeamCall], roster: Layout, tokenizer: Tokenizer) -> NewTokens:
    """Count what was not said before, and cues, as the layout that shares all has them."""
    prompts = tokenizer.prompts
    said, new, decoded = 0, 0, 0
    for call in calls:
        prompt = roster.render(call.before, call.speaker)
        new += len(prompts.encode(prompt)) - said
        said = len(prompts.encode(prompt, cue=False))
    for call in calls[:-1]:
        decoded += len(tokenizer.plain(call.answer))
    return NewTokens(new, new - decoded)


def _send(call: TeamCall, known: dict[str, KnownRoots], total: Reading) -> None:
    """Count the hop that brings a context to its next speaker, in a process of its own."""
    held = known.setdefault(call.speaker, KnownRoots(KNOWN_ROOTS))
    total.sent_bytes += len(pack(delta_for(call.before, held)))
    total.whole_bytes += len(pack(delta_for(call.before, KnownRoots(1))))
    held.add(call.before.root)
    held.add(call.after.root)
