"""Checks that all ways did the same work, on the token ids that their engines logged."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from .account import LogEntry, UnequalWork, find_turn_start, split_turns
from .events import HopResult
from .script import Conversation

__all__ = ["ChatTokenizer", "EqualWork", "Pieces", "check_equal_work", "tokenize_pieces"]

Ids = tuple[int, ...]

ChatTokenizer = Callable[[tuple[str, ...]], Awaitable[Ids]]
"""Gives a chat of one system turn, one user turn for each text, and an open cue, as token ids."""

_BESIDES = 2
"""Turns of such a chat that are not texts: the system turn and the cue."""


@dataclass(frozen=True, slots=True)
class EqualWork:
    """What was found equal in all ways."""

    hops: int
    decoded_per_hop: tuple[int, ...]
    transcript_sha256: str
    """Over the texts that every way streamed, in order."""
    pieces: int
    """Roles, documents, questions, asks and messages that were found in the ways' prompts."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Texts of the conversation as token ids, and the id that begins a turn.

    Each text has two spellings, since its first word may be spelt otherwise behind a name: as a
    turn's beginning, and behind `name:` and a blank. The last token is left out, since it may merge
    with what follows.
    """

    turn_start: int
    spellings: Mapping[str, tuple[Ids, ...]]


async def tokenize_pieces(conversation: Conversation, tokenize: ChatTokenizer) -> Pieces:
    """Tokenize every text of the conversation by the model's own tokenizer.

    Raises:
        UnequalWork: the model's template cannot be cut into turns.
    """
    samples = ("x", "y", "x:")
    chat = await tokenize(samples)
    turn_start = find_turn_start(chat, len(samples) + _BESIDES)
    _, x, y, named, _ = split_turns(chat, turn_start)
    ahead = next((place for place in range(len(x)) if x[place] != y[place]), 0)
    behind = len(x) - ahead - 1
    ends = range(len(conversation.hops))
    texts = tuple(dict.fromkeys(text for index in ends for text in _texts(conversation, index)))
    begun = await _turns(texts, turn_start, tokenize)
    quoted = await _turns(tuple(f"x: {text}" for text in texts), turn_start, tokenize)
    spellings = {
        text: (a[ahead : len(a) - behind - 1], b[len(named) - behind : len(b) - behind - 1])
        for text, a, b in zip(texts, begun, quoted, strict=True)
    }
    return Pieces(turn_start, spellings)


async def _turns(texts: tuple[str, ...], turn_start: int, tokenize: ChatTokenizer) -> list[Ids]:
    return split_turns(await tokenize(texts), turn_start)[1:-1]


def _texts(conversation: Conversation, index: int) -> list[str]:
    """Return what the speaker of hop `index` must have read: its role and the transcript."""
    target = conversation.hops[index].target
    role = next(role.text for role in conversation.roles if role.name == target)
    return [role, *(said.text.strip() for said in conversation.transcript(index))]


def _as_text(ids: Sequence[int]) -> str:
    """Spell ids as characters, so that `in` finds a run of them."""
    return "".join(map(chr, ids))


def check_equal_work(
    conversation: Conversation,
    results: Mapping[str, Sequence[HopResult]],
    logs: Mapping[str, Sequence[LogEntry]],
    pieces: Pieces,
) -> EqualWork:
    """Check every hop of every way against the record and against its engine's log.

    Raises:
        UnequalWork: says which way and hop differs, and how.
    """
    found = 0
    for way, done in results.items():
        if not len(done) == len(logs[way]) == len(conversation.hops):
            raise UnequalWork(
                f"{way} made {len(done)} hops with {len(logs[way])} model calls; "
                f"the conversation has {len(conversation.hops)} hops"
            )
        for index, (result, entry) in enumerate(zip(done, logs[way], strict=True)):
            if problem := _difference(conversation, index, result, entry):
                raise UnequalWork(f"hop {index} of {way}: {problem}")
            found += _count_pieces(conversation, index, way, entry, pieces)
    texts = "\0".join(hop.text for hop in conversation.hops)
    return EqualWork(
        hops=len(conversation.hops),
        decoded_per_hop=tuple(len(hop.token_ids) for hop in conversation.hops),
        transcript_sha256=hashlib.sha256(texts.encode()).hexdigest(),
        pieces=found,
    )


def _difference(conversation: Conversation, index: int, result: HopResult, entry: LogEntry) -> str:
    hop = conversation.hops[index]
    if entry.generated_ids != hop.token_ids or result.decoded != len(hop.token_ids):
        return "it decoded other tokens than the record has"
    if result.text != hop.text:
        return "it streamed another text than the record has"
    logged = (len(entry.prompt_ids), entry.reused, entry.prefilled)
    if logged != (result.prompt_tokens, result.reused, result.prefilled):
        return "its engine reported other figures than it logged"
    return ""


def _count_pieces(
    conversation: Conversation, index: int, way: str, entry: LogEntry, pieces: Pieces
) -> int:
    prompt = _as_text(entry.prompt_ids)
    texts = _texts(conversation, index)
    # A model may spell a text in other tokens than its tokenizer would; both are the same text.
    decoded = {hop.text.strip(): hop.token_ids for hop in conversation.hops[:index]}
    for text in texts:
        spellings = pieces.spellings[text]
        if text in decoded:
            spellings = (*spellings, decoded[text])
        if not any(_as_text(ids) in prompt for ids in spellings):
            raise UnequalWork(f"hop {index} of {way}: its prompt lacks {text[:40]!r}")
    return len(texts)
