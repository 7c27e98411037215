"""Cases `arguments…` of the suite `filters`: whether an agent can still read what it then needs.

The agent of tau-bench called tools with names, dates and numbers, most of which it had read before.
Each such argument is looked for, word for word, in what filters had delivered to it until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson

from agentbus.config import FilterName, FilterRule
from agentbus.context import Context, Ledger, Segment, SegmentKind, TenantKey
from agentbus.filters import Pipeline, open_lossy, plan_of

from ..report import Row, compare

__all__ = ["Recall", "argument_rows", "arguments_of"]

_AGENT: Final = "agent"
_SHORTEST = 3
"""Characters of an argument that is looked for; shorter ones stand nearly everywhere."""
_KINDS: Mapping[str, SegmentKind] = MappingProxyType(
    {"tool_call": SegmentKind.TOOL_CALL, "tool_result": SegmentKind.TOOL_RESULT}
)
_USED: Mapping[str, tuple[FilterName, ...]] = MappingProxyType(
    {"lossless": ("lossless",), "offload": ("lossless", "offload")}
)
"""Filters by the case's name; lossy ones on tools' results alone."""

Count = Callable[[str], int]


@dataclass(slots=True)
class Recall:
    """What was needed of what had been said, and how much of that was delivered."""

    needed: int = 0
    """Arguments that stood in what was said before."""
    there: int = 0
    sent_tokens: int = 0
    delivered_tokens: int = 0

    def add(self, conversation: Mapping[str, Any], use: Sequence[FilterName], count: Count) -> None:
        """Deliver a conversation to its agent, and look at each call of a tool before it is made."""
        plan = plan_of((FilterRule(use=tuple(use)),), _AGENT)
        pipeline = Pipeline(count, Ledger(), open_lossy)
        context = TenantKey().empty()
        for message in conversation["messages"]:
            said = SegmentKind.MESSAGE if message["from"] == _AGENT else SegmentKind.USER
            kind = _KINDS.get(message["kind"], said)
            if kind is SegmentKind.TOOL_CALL:
                given = pipeline.deliver(context, plan, _AGENT).context
                self._look(arguments_of(message["content"]), context, given)
            context = context.add(kind, message["from"], message["content"])
        given = pipeline.deliver(context, plan, _AGENT).context
        self.sent_tokens += sum(map(count, _texts(context.segments())))
        self.delivered_tokens += sum(map(count, _texts(given.segments())))

    def _look(self, arguments: Iterable[str], said: Context, given: Context) -> None:
        texts, delivered = _texts(said.segments()), _texts(given.segments())
        for argument in arguments:
            if any(argument in text for text in texts):
                self.needed += 1
                self.there += any(argument in text for text in delivered)

    def figures(self) -> dict[str, float]:
        """Return the metrics of a row."""
        return {
            "recall_percent": 100 * self.there / self.needed,
            "tokens": float(self.delivered_tokens),
        }


def argument_rows(conversations: Iterable[Mapping[str, Any]], count: Count) -> list[Row]:
    """Measure conversations of tau-bench, with each filter that there is."""
    found = {name: Recall() for name, use in _USED.items() if _are_there(use)}
    for conversation in conversations:
        for name, recall in found.items():
            recall.add(conversation, _USED[name], count)
    rows: list[Row] = []
    for name, recall in found.items():
        if recall.needed:
            as_sent = {"recall_percent": 100.0, "tokens": float(recall.sent_tokens)}
            case = f"arguments, {name}"
            rows += compare("filters", case, recall.figures(), {"as_sent": as_sent})
    return rows


def arguments_of(call: str) -> set[str]:
    """Return the values, as texts, that calls of tools have as arguments; `call` is their JSON."""
    values = (orjson.loads(one["arguments"]) for one in orjson.loads(call))
    return {text for value in values for text in _leaves(value) if len(text) >= _SHORTEST}


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _are_there(use: Sequence[FilterName]) -> bool:
    (rule,) = plan_of((FilterRule(use=tuple(use)),), _AGENT)
    return all(open_lossy(name, rule) is not None for name in use if name != "lossless")


def _texts(segments: Iterable[Segment]) -> list[str]:
    return [segment.text for segment in segments]
