"""Which layout makes a team prefill least, predicted from what each would deliver.

A prediction plays hops through an endless prefix cache: each prompt is compared, turn by turn, with
all that were delivered before it, and what it does not share is prefilled. Layouts differ in what
a model is shown, hence in quality: so the prediction for each is returned beside the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from ..errors import ContextError, LayoutError
from .layout import Prompt, Turn, find_layout
from .lint import TokenCounter
from .segment import Context, SegmentKind

__all__ = [
    "AUTO",
    "BY_ROLE",
    "MAX_TEAM",
    "Choice",
    "Hop",
    "Prediction",
    "Reading",
    "choose_layout",
    "expected_hops",
    "past_hops",
    "predict",
    "read_as",
]

AUTO = "auto"
"""In place of a layout's name: that with the least predicted prefill."""
BY_ROLE = "by_role"
"""In place of a layout's name: `roster_first` for agents whose role stands in the context for all
to read, `role_first` for others."""
MAX_TEAM = 8
"""Agents of a team whose next hops are predicted."""

_CANDIDATES = ("roster_first", "shared_first", "role_first")
"""The first of equals is chosen: it shares most."""
_ROUNDS = 2
_ANSWER = " word" * 64
"""Stands for an answer that is not known yet."""
_MARKUP_TOKENS = 4
"""What a chat template writes around a turn, about."""
_CHARACTERS_PER_TOKEN = 4
_ROLES = (SegmentKind.ROLE, SegmentKind.PRIVATE_ROLE)
_SPOKEN = (SegmentKind.MESSAGE, SegmentKind.TOOL_CALL)


@dataclass(frozen=True, slots=True)
class Hop:
    """A model call: `reader` reads `context`, and answers with `answer`, if that is known."""

    context: Context
    reader: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a team's hops would cost under one layout, in tokens, about."""

    layout: str
    prompts: int
    """Tokens of all prompts."""
    prefilled: int
    """Those that no prompt before has in the same place."""
    problem: str = ""
    """Why the layout cannot show these contexts to these readers; empty if it can."""


class Choice(NamedTuple):
    """A layout, and the prediction for each that was considered."""

    layout: str
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """How an agent's model reads a context: as `context`, laid out as `layout`."""

    context: Context
    layout: str
    predictions: tuple[Prediction, ...] = ()
    """For each layout, where one was to be chosen."""


class _Prompts(dict[Turn, "_Prompts"]):
    """Prompts as a tree of turns."""

    def keep(self, turns: Iterable[Turn]) -> int:
        """Keep a prompt; return how many of its turns stood there before."""
        node, known = self, 0
        for turn in turns:
            known += turn in node
            node = node.setdefault(turn, _Prompts())
        return known


def predict(
    layout: str, hops: Iterable[Hop], count: TokenCounter, *, delivered: Iterable[Prompt] = ()
) -> Prediction:
    """Return what hops cost under a layout, given the prompts that a cache holds already.

    Whole turns are compared. An answer serves later prompts where the layout shows it behind the
    same prompt.

    Raises:
        LayoutError: there is no such layout.
    """
    found = find_layout(layout)
    cache = _Prompts()
    for prompt in delivered:
        cache.keep(prompt.turns)
    prompts = prefilled = 0
    for hop in hops:
        try:
            prompt = found.render(hop.context, hop.reader)
        except ContextError as error:
            return Prediction(layout, 0, 0, str(error))
        sizes = [_size(turn, count) for turn in (*prompt.turns, prompt.cue)]
        known = cache.keep(prompt.turns)
        if hop.answer:
            cache.keep((*prompt.turns, Turn(prompt.cue.role, hop.answer, prompt.cue.name)))
        prompts += sum(sizes)
        prefilled += sum(sizes[known:])
    return Prediction(layout, prompts, prefilled)


def _size(turn: Turn, count: TokenCounter) -> int:
    named = count(turn.name) + 1 if turn.name else 0
    return (count(turn.text) if turn.text else 0) + named + _MARKUP_TOKENS


def choose_layout(
    hops: Sequence[Hop],
    count: TokenCounter,
    *,
    delivered: Sequence[Prompt] = (),
    layouts: Sequence[str] = _CANDIDATES,
) -> Choice:
    """Return the layout under which hops are predicted to prefill least.

    Raises:
        LayoutError: none of the layouts can show these contexts to these readers.
    """
    predictions = tuple(predict(name, hops, count, delivered=delivered) for name in layouts)
    possible = [one for one in predictions if not one.problem]
    if not possible:
        raise LayoutError("; ".join(f"{one.layout}: {one.problem}" for one in predictions))
    return Choice(min(possible, key=lambda one: one.prefilled).layout, predictions)


def past_hops(context: Context) -> list[Hop]:
    """Return the hops that made a context: each message as the answer to what stood before it."""
    hops = [
        Hop(node.parent, node.last.author, node.last.text)
        for node in context.ancestors()
        if node.parent is not None and node.last is not None
        if node.last.kind is SegmentKind.MESSAGE
    ]
    hops.reverse()
    return hops


def expected_hops(
    context: Context,
    readers: Sequence[str],
    *,
    rounds: int = _ROUNDS,
    private_role: str = "",
) -> list[Hop]:
    """Return the hops to expect if readers answer in turns, each reading those before it.

    With a `private_role`, each reader reads a role of its own, as long as that text.
    """
    hops: list[Hop] = []
    for reader in list(readers) * rounds:
        read = context
        if private_role:
            # No two are alike, or a layout that begins with the role would seem to be shared.
            read = context.role(reader, f"{reader}: {private_role}", private=True)
        hops.append(Hop(read, reader, _ANSWER))
        context = context.message(reader, _ANSWER)
    return hops


def read_as(agent: str, role: str, context: Context, layout: str = BY_ROLE) -> Reading:
    """Return how the model of `agent` reads a context that is laid out as the setting says.

    An agent whose role does not stand in the context has a role of its own: it reads a context
    that begins with it, as a private one, and without the others' roles. With `AUTO`, the layout
    follows from what stood in the context before its first message, and from who has spoken since,
    so that a conversation keeps its layout; tokens are reckoned by characters.

    Raises:
        LayoutError: there is no such layout, or none that can show this context to this agent.
    """
    roles = {one.kind for one in context.segments() if one.kind in _ROLES and one.author == agent}
    has_role = bool(roles)
    own = "" if has_role else role
    predictions: tuple[Prediction, ...] = ()
    if layout == BY_ROLE:
        layout = "roster_first" if roles == {SegmentKind.ROLE} else "role_first"
    elif layout == AUTO:
        layout, predictions = choose_layout(_to_expect(context, agent, own), _by_characters)
    find_layout(layout)
    if not has_role and (own or layout == "role_first"):
        context = _with_own_role(context, agent, own)
    return Reading(context, layout, predictions)


def _with_own_role(context: Context, agent: str, role: str) -> Context:
    read = context.tenant.empty()
    if role:
        read = read.role(agent, role, private=True)
    for segment in context.segments():
        if segment.kind not in _ROLES:
            read = read.append(segment)
    return read


def _to_expect(context: Context, agent: str, role: str) -> list[Hop]:
    """Return the hops of an agent and those it works with, on what was there to begin with."""
    head = context.tenant.empty()
    begun = False
    team = [agent]
    for segment in context.segments():
        begun = begun or segment.kind in _SPOKEN
        if segment.kind in (*_ROLES, *_SPOKEN):
            team.append(segment.author)
        if not begun and not (role and segment.kind in _ROLES):
            head = head.append(segment)
    readers = list(islice(dict.fromkeys(team), MAX_TEAM))
    return expected_hops(head, sorted(readers), private_role=role)


def _by_characters(text: str) -> int:
    return -(-len(text) // _CHARACTERS_PER_TOKEN)
