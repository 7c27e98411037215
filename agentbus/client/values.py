"""Values of a type from a model: asked for, read, and asked for again where an answer holds none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..engine.sampling import require_count
from ..errors import ConfigError, InvalidSchema, UnparsableReply, Unsupported
from ..telemetry import NANOS, Amount, Budget, ModelCost
from .answer_type import AnswerType, Unreadable, answer_type
from .generation import Answer, ValueOptions

if TYPE_CHECKING:
    from .call import Call

__all__ = ["generate_as"]

MAX_REPAIRS: Final = 8
_EXCERPT: Final = 200
"""Characters of an answer that an error shows."""
_AGAIN: Final = "That is not what was asked for: {}. Write the whole JSON again, and nothing else."


async def generate_as(call: Call, kind: Any, text: str, repairs: int, options: ValueOptions) -> Any:
    """See `Call.generate_as`."""
    require_count("repairs", repairs, MAX_REPAIRS)
    for name in options.keys() - ValueOptions.__annotations__.keys():
        raise TypeError(f"generate_as() got an unexpected keyword argument {name!r}")
    wanted = answer_type(kind)
    answer, schema = await _asked(call, wanted, text, wanted.schema, options)
    for repair in range(repairs + 1):
        problem, value = _read(wanted, answer)
        failed = int(bool(problem))
        call.account_for(
            ModelCost(structured_answers=1, unparsable_answers=failed, repairs=min(repair, 1))
        )
        if not problem:
            return value
        if repair < repairs:
            options = _rest(options, answer.cost)
            again = _AGAIN.format(problem)
            answer, schema = await _asked(call, wanted, again, schema, options)
    excerpt = answer.text[:_EXCERPT]
    raise UnparsableReply(call.model, wanted.name, repairs + 1, problem, excerpt)


async def _asked(
    call: Call,
    wanted: AnswerType,
    text: str,
    schema: dict[str, Any] | None,
    options: ValueOptions,
) -> tuple[Answer, dict[str, Any] | None]:
    """Return an answer, and the schema that it was kept to; None where an engine cannot."""
    if schema is None:  # it stands in the context, in words
        return await call.answer(text, **options), None
    try:
        return await call.answer(text, schema=schema, **options), schema
    except (Unsupported, InvalidSchema, ConfigError) as error:
        if isinstance(error, ConfigError) and error.setting != "schema":
            raise
    return await call.answer(wanted.asked(text), **options), None


def _read(wanted: AnswerType, answer: Answer) -> tuple[str, Any]:
    """Return what is wrong with an answer, in plain words, or nothing and its value."""
    try:
        return "", wanted.read(answer.text)
    except Unreadable as error:
        cut = f", and was cut off after {answer.cost.decoded_tokens} tokens"
        return f"{error}{cut if answer.reason == 'length' else ''}", None


def _rest(options: ValueOptions, cost: ModelCost) -> ValueOptions:
    """Return the options with what is left of the budget."""
    budget = options.get("budget")
    if budget is None:
        return options
    spent = Amount(cost.prompt_tokens + cost.decoded_tokens, round(cost.cost * NANOS))
    return {**options, "budget": Budget.of(budget.amount.minus(spent))}
