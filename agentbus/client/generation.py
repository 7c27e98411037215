"""What a handler asks its model, what goes over the bus for it, and the whole answer.

A call that asks for nothing special sends `Generate` and is answered with text alone. Any other
sends `GenerateWith`, whose answer ends with `Ended`. What is JSON to users is JSON text here:
msgpack knows no whole numbers over 64 bits and no halves of characters, and a model may write both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

from ..context import Context, Prompt, write_call
from ..engine.base import Finished, GenerateRequest, TokenLogprob
from ..engine.sampling import Sampling
from ..engine.tools import ARGUMENTS, ToolCall
from ..errors import ConfigError, InvalidMessage
from ..filters import Plan
from ..telemetry import Budget, ModelCost

__all__ = [
    "Answer",
    "AnswerReader",
    "Ended",
    "Generate",
    "GenerateOptions",
    "GenerateWith",
    "Generation",
    "Scored",
    "ValueOptions",
    "WrittenCall",
    "extended",
    "request_of",
    "written_calls",
]

MAX_NEXT = 16
"""Agents that a call may name as next."""
_GREEDY = Sampling()


class ValueOptions(TypedDict, total=False):
    """What every model call may ask for; see `agentbus.engine.GenerateRequest` for the bounds."""

    max_tokens: int
    """256 if nothing is said; a budget may cut it down."""
    sampling: Sampling
    """How tokens are chosen; greedily if nothing is said."""
    salt: str
    """Calls share KV only with calls of the same salt."""
    label: str
    """Marks the call in the engine's token log."""
    budget: Budget | None
    """What this call may spend of the handler's budget."""
    then: tuple[str, ...]
    """Agents that will be asked next with the context that the answer extends: meanwhile their
    models read what is there of it. Nobody has to be asked in the end."""


class GenerateOptions(ValueOptions, total=False):
    """What a model call for text may ask for beside."""

    ignore_end: bool
    """Decode exactly `max_tokens`."""
    forced: tuple[int, ...]
    """Decode these token ids instead of the model's choice."""
    stop: tuple[str, ...]
    """Texts before which the answer ends."""
    logprobs: int
    """Report each token's log-probability, and those of this many alternatives."""
    schema: Mapping[str, object] | None
    """A JSON schema that the answer is kept to."""
    tools: tuple[Mapping[str, object], ...]
    """Functions that the answer may call, in OpenAI's form. The context has to describe them:
    `context.tools(tools)`."""
    tool_choice: str
    """`auto`, `none`, `required` or a tool's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a handler asks its model."""

    text: str = ""
    whole: bool = False
    """Whether the caller wants more than the text."""
    max_tokens: int = 256
    ignore_end: bool = False
    forced: tuple[int, ...] = ()
    sampling: Sampling = _GREEDY
    stop: tuple[str, ...] = ()
    logprobs: int = 0
    schema: Mapping[str, object] | None = None
    tools: tuple[Mapping[str, object], ...] = ()
    tool_choice: str = "auto"
    salt: str = ""
    label: str = ""
    budget: Budget | None = None
    then: tuple[str, ...] = ()

    def ask(self, layout: str, filters: Plan = ()) -> Generate | GenerateWith:
        """Return what is sent for it.

        Raises:
            ConfigError: something is out of bounds, or does not go together.
        """
        if isinstance(self.then, str) or len(self.then) > MAX_NEXT:
            raise ConfigError("then", f"must be a tuple of up to {MAX_NEXT} names of agents")
        plain = Generate(
            layout, self.max_tokens, self.ignore_end, self.forced, self.salt, self.label, filters
        )
        special = (self.sampling, self.stop, self.logprobs, self.schema, self.tools)
        if not self.whole and (*special, self.tool_choice) == (_GREEDY, (), 0, None, (), "auto"):
            return plain
        GenerateRequest(
            prompt=(),
            max_tokens=self.max_tokens,
            ignore_end=self.ignore_end,
            forced=self.forced,
            sampling=self.sampling,
            stop=self.stop,
            logprobs=self.logprobs,
            schema=self.schema,
            tools=self.tools,
            tool_choice=self.tool_choice,
        )
        return GenerateWith(
            plain,
            None if self.sampling == _GREEDY else self.sampling,
            self.stop,
            self.logprobs,
            "" if self.schema is None else _json(self.schema),
            _json(self.tools) if self.tools else "",
            self.tool_choice,
        )


class Generate(NamedTuple):
    """Answer as the asking agent on the context that comes along, laid out as `layout` says.

    `filters` are those that the context meets before. It travels as a row without its fields' names, since every call of every agent sends one.
    """

    layout: str
    max_tokens: int
    ignore_end: bool
    forced: tuple[int, ...]
    salt: str
    label: str
    filters: Plan = ()


class GenerateWith(NamedTuple):
    """As `Generate`, with all that an engine can be asked for; `schema` and `tools` as JSON."""

    plain: Generate
    sampling: Sampling | None
    stop: tuple[str, ...]
    logprobs: int
    schema: str
    tools: str
    tool_choice: str


class Scored(NamedTuple):
    """A part of an answer with the log-probabilities of its tokens; `text` may be empty."""

    text: str
    logprobs: tuple[TokenLogprob, ...]


class WrittenCall(NamedTuple):
    """A call of a tool, with its arguments as JSON."""

    name: str
    arguments: str


class Ended(NamedTuple):
    """The last part of the answer to `GenerateWith`: what `Finished` says but for its usage."""

    reason: str
    calls: tuple[WrittenCall, ...]
    malformed_calls: int
    stop: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's whole answer."""

    text: str
    reason: str
    """Why it ended: `end`, `length`, `forced`, `stop` or `tool_calls`; see `engine.Finished`."""
    tool_calls: tuple[ToolCall, ...]
    """The calls of tools that it holds, in order; they do not stand in `text`."""
    malformed_calls: int
    """What looked like a call and is none; it stands in `text`."""
    stop: str
    """The stop text that was met."""
    logprobs: tuple[TokenLogprob, ...]
    """One for each token of the answer, if asked for."""
    cost: ModelCost


def request_of(
    ask: Generate | GenerateWith, prompt: Prompt, budget: Budget | None, owner: str = ""
) -> GenerateRequest:
    """Return what the engine is asked.

    Raises:
        InvalidMessage: schema or tools are no JSON.
        ConfigError: something is out of bounds, or does not go together.
    """
    more = ask if isinstance(ask, GenerateWith) else GenerateWith(ask, None, (), 0, "", "", "auto")
    plain = more.plain
    tools = _read(more.tools, "tools", list) if more.tools else []
    return GenerateRequest(
        prompt=prompt,
        max_tokens=plain.max_tokens,
        ignore_end=plain.ignore_end,
        forced=plain.forced,
        sampling=more.sampling or _GREEDY,
        stop=more.stop,
        logprobs=more.logprobs,
        schema=_read(more.schema, "schema", dict) if more.schema else None,
        tools=tuple(tools),
        tool_choice=more.tool_choice,
        tenant=plain.salt,
        label=plain.label,
        owner=owner,
        budget=budget,
    )


def written_calls(finished: Finished) -> tuple[WrittenCall, ...]:
    """Return an answer's calls as they travel, and as they stand in contexts."""
    return tuple(WrittenCall(call.name, _json(call.arguments)) for call in finished.tool_calls)


def extended(
    context: Context, agent: str, text: str, calls: tuple[WrittenCall, ...] = ()
) -> Context:
    """Return the context behind an answer: asker and server come to the same one."""
    if text or not calls:
        context = context.message(agent, text)
    for call in calls:
        context = context.tool_call(agent, write_call(call.name, call.arguments))
    return context


class AnswerReader:
    """Puts an answer together from its parts, which another process sent."""

    __slots__ = ("_ended", "_logprobs", "_texts")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._ended: Ended | None = None

    def take(self, part: object) -> str:
        """Take a part and return its text.

        Raises:
            InvalidMessage: it is no part of an answer.
        """
        text = ""
        if isinstance(part, str):
            text = part
        elif isinstance(part, Scored):
            text = part.text
            self._logprobs += part.logprobs
        elif isinstance(part, Ended):
            self._ended = part
        else:
            raise InvalidMessage(type(part).__name__, "is no part of a model's answer")
        if text:
            self._texts.append(text)
        return text

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._texts)

    @property
    def calls(self) -> tuple[WrittenCall, ...]:
        """The calls of tools."""
        return () if self._ended is None else self._ended.calls

    def answer(self, cost: ModelCost) -> Answer:
        """Return the whole answer.

        Raises:
            InvalidMessage: its end did not come, or a call's arguments are no JSON object.
        """
        if self._ended is None:
            raise InvalidMessage("Ended", "did not come: the answer has no end")
        return Answer(
            text=self.text,
            reason=self._ended.reason,
            tool_calls=tuple(
                ToolCall(call.name, _read(call.arguments, "arguments", dict)) for call in self.calls
            ),
            malformed_calls=self._ended.malformed_calls,
            stop=self._ended.stop,
            logprobs=tuple(self._logprobs),
            cost=cost,
        )


def _json(value: object) -> str:
    """Write what came from JSON, readable where UTF-8 has all of its characters."""
    text = json.dumps(value, ensure_ascii=False, default=dict)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=dict)
    return text


def _read(text: str, what: str, kind: type) -> Any:
    try:
        value = ARGUMENTS.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(what, "is no JSON") from error
    if not isinstance(value, kind):
        raise InvalidMessage(what, f"is no JSON {kind.__name__}")
    return value
