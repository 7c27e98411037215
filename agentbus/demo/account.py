"""The count of tokens, made anew from the engines' logs of token ids.

Nothing here asks the code under test what it reused or what was new: the input is what each call's
model read and wrote, in token ids, and the one id that begins every turn of the model's template.

How `tokens_new` is counted, for one way:

- Each prompt is cut into turns at the turn-start id. All but the last turn are complete: roles (the
  system turn), document, question, asks, and each message once it is shared. The last turn is the
  open cue.
- A complete turn is *delivered* when it first stands in a prompt of the team. Each distinct turn,
  by its ids, counts once for the whole team and run, however many agents read it or wherever it
  stands. A message's turn counts in full, though the model has already computed the message as it
  wrote it.
- A cue is the beginning of the turn that its message becomes, so it counts within that turn. It
  counts by itself where no later prompt continues it (the last hop's), each distinct one once.

This is the least that a team could be made to prefill if generated tokens had to be prefilled when
they become shared. Where a layout delivers one message in two renderings (as its author's own words
and as a quotation to the others, as role-first layouts do), both are delivered and both count: that
favours those ways, since their ratio of prefilled to new tokens looks better for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import orjson
import pydantic

from ..errors import AgentbusError, UnreadableFile

__all__ = [
    "MAX_LOG_BYTES",
    "Account",
    "HopAccount",
    "LogEntry",
    "UnequalWork",
    "account",
    "find_turn_start",
    "read_log",
    "split_turns",
]

MAX_LOG_BYTES = 64 * 1024 * 1024
"""Largest token log that is read."""

Ids = tuple[int, ...]


class UnequalWork(AgentbusError):
    """The ways did not do the same work, or a log contradicts itself: no figure can be shown."""


class LogEntry(pydantic.BaseModel):
    """One call in an engine's token log."""

    label: str
    tenant: str
    prompt_ids: Ids
    generated_ids: Ids
    reused: int
    prefilled: int


@dataclass(frozen=True, slots=True)
class HopAccount:
    """One hop's tokens. `reusable` is the longest prefix that any earlier call had computed."""

    prompt: int
    new: int
    prefilled: int
    reused: int
    reusable: int
    decoded: int


@dataclass(frozen=True, slots=True)
class Account:
    """The tokens of one way's whole run."""

    hops: tuple[HopAccount, ...]

    @property
    def new(self) -> int:
        """`tokens_new` as the module's text defines it."""
        return sum(hop.new for hop in self.hops)

    @property
    def prefilled(self) -> int:
        """Tokens that went through the model as prompt."""
        return sum(hop.prefilled for hop in self.hops)

    @property
    def reused(self) -> int:
        """Prompt tokens whose KV came from an earlier call."""
        return sum(hop.reused for hop in self.hops)

    @property
    def ratio(self) -> float:
        """Prefilled per new token; 1 means that nothing was read twice."""
        return self.prefilled / self.new


def read_log(path: Path, tenant: str) -> list[LogEntry]:
    """Read the calls of one tenant, in the order in which they ended.

    Raises:
        UnreadableFile: the log is missing, too big, or not of this form.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LOG_BYTES + 1)
    except OSError as error:
        raise UnreadableFile(str(path), error.strerror or str(error)) from error
    if len(data) > MAX_LOG_BYTES:
        raise UnreadableFile(str(path), f"the token log is over {MAX_LOG_BYTES} bytes")
    try:
        lines = [orjson.loads(line) for line in data.splitlines()]
        entries = [LogEntry.model_validate(line) for line in lines]
    except ValueError as error:
        raise UnreadableFile(str(path), "it is not a token log") from error
    return [entry for entry in entries if entry.tenant == tenant]


def find_turn_start(chat: Ids, turns: int) -> int:
    """Return the id that begins each turn, given a chat of `turns` turns, the cue counted.

    Raises:
        UnequalWork: no id stands there exactly once a turn.
    """
    for token in dict.fromkeys(chat):
        if chat.count(token) == turns:
            return token
    raise UnequalWork(
        "this model's chat template has no token that begins each turn, so what the ways read "
        "cannot be compared; try a model whose template has one, such as smollm2"
    )


def split_turns(ids: Ids, turn_start: int) -> list[Ids]:
    """Cut a prompt into its turns. What stands before the first turn belongs to the first."""
    starts = [place for place, token in enumerate(ids) if token == turn_start]
    borders = [0, *starts[1:], len(ids)]
    return [ids[a:b] for a, b in pairwise(borders)]


def _common_prefix(a: Ids, b: Ids) -> int:
    size = min(len(a), len(b))
    if a[:size] == b[:size]:
        return size
    return next(place for place in range(size) if a[place] != b[place])


def _reusable(prompt: Ids, earlier: Iterable[LogEntry]) -> int:
    computed = (entry.prompt_ids + entry.generated_ids for entry in earlier)
    return max((_common_prefix(prompt, ids) for ids in computed), default=0)


def _count_new(prompt: Ids, later: Sequence[LogEntry], turn_start: int, seen: set[Ids]) -> int:
    """Count the prompt's tokens that the team had not been given before, and note them in `seen`."""
    *turns, cue = split_turns(prompt, turn_start)
    if not any(entry.prompt_ids[: len(prompt)] == prompt for entry in later):
        turns.append(cue)
    fresh = [turn for turn in dict.fromkeys(turns) if turn not in seen]
    seen.update(fresh)
    return sum(map(len, fresh))


def account(entries: Sequence[LogEntry], turn_start: int) -> Account:
    """Count one way's tokens from its log.

    Raises:
        UnequalWork: an entry contradicts itself: reused and prefilled tokens are not the prompt, or
            more was reused than any earlier call of the log had computed.
    """
    seen: set[Ids] = set()
    hops = []
    for place, entry in enumerate(entries):
        prompt = entry.prompt_ids
        if entry.reused + entry.prefilled != len(prompt):
            raise UnequalWork(
                f"hop {place} of {entry.tenant}: {entry.reused} reused and {entry.prefilled} "
                f"prefilled tokens are not the prompt's {len(prompt)}"
            )
        reusable = _reusable(prompt, entries[:place])
        if entry.reused > reusable:
            raise UnequalWork(
                f"hop {place} of {entry.tenant}: {entry.reused} tokens reused, but only "
                f"{reusable} had been computed"
            )
        new = _count_new(prompt, entries[place + 1 :], turn_start, seen)
        decoded = len(entry.generated_ids)
        hops.append(HopAccount(len(prompt), new, entry.prefilled, entry.reused, reusable, decoded))
    return Account(tuple(hops))
