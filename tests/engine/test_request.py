"""What a request refuses before anything is computed."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from agentbus.engine import (
    MAX_LOGPROBS,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    Capabilities,
    GenerateRequest,
    Sampling,
    embed,
    score,
)
from agentbus.engine.tools import MAX_SCHEMA_BYTES, MAX_TOOLS, tool_parameters
from agentbus.errors import AgentbusError, ConfigError, Unsupported, describe, restore

SAMPLING: list[tuple[str, Any]] = [
    *[("temperature", value) for value in (-0.1, 101, float("nan"), float("inf"), "1", None, True)],
    *[("top_p", value) for value in (0, -0.5, 1.01, "all")],
    *[("min_p", value) for value in (-0.1, 1.1)],
    *[("top_k", value) for value in (-1, 1.5, 2**21, True)],
    *[("repetition_penalty", value) for value in (0, -1, 1e9)],
    *[("presence_penalty", value) for value in (-2.1, 2.1)],
    *[("frequency_penalty", value) for value in (-2.1, 3)],
    *[("seed", value) for value in (-1, 2**63, 0.5)],
]


@pytest.mark.parametrize(("name", "value"), SAMPLING)
def test_sampling_out_of_bounds(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        Sampling(**{name: value})
    assert refused.value.setting == name


def test_the_edges_are_within_bounds() -> None:
    Sampling(temperature=0, top_p=1, min_p=1, top_k=2**20, seed=2**63 - 1, presence_penalty=-2)
    assert not Sampling().penalises and Sampling(frequency_penalty=0.1).penalises


def tool(name: str = "tide", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


DEEP: dict[str, Any] = {}
for _ in range(400):
    DEEP = {"items": DEEP}

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "negative_length": ("max_tokens", {"max_tokens": -1}),
    "sampling_that_is_a_table": ("sampling", {"sampling": {"temperature": 1.0}}),
    "too_many_logprobs": ("logprobs", {"logprobs": MAX_LOGPROBS + 1}),
    "negative_logprobs": ("logprobs", {"logprobs": -1}),
    "one_stop_that_is_no_tuple": ("stop", {"stop": "END"}),
    "empty_stop": ("stop", {"stop": ("END", "")}),
    "long_stop": ("stop", {"stop": ("x" * (MAX_STOP_CHARACTERS + 1),)}),
    "many_stops": ("stop", {"stop": ("x",) * (MAX_STOPS + 1)}),
    "stop_that_is_no_text": ("stop", {"stop": (7,)}),
    "schema_that_is_no_object": ("schema", {"schema": ["string"]}),
    "schema_that_is_no_json": ("schema", {"schema": {"enum": [object()]}}),
    "schema_with_other_keys": ("schema", {"schema": {1: 2}}),
    "deep_schema": ("schema", {"schema": DEEP}),
    "large_schema": ("schema", {"schema": {"enum": ["x" * MAX_SCHEMA_BYTES]}}),
    "tools_that_are_one": ("tools", {"tools": tool()}),
    "tools_as_text": ("tools", {"tools": "[]"}),
    "tools_that_are_a_number": ("tools", {"tools": 7}),
    "tool_that_is_no_object": ("tools", {"tools": ("tide",)}),
    "tool_of_another_type": ("tools", {"tools": ({"type": "retrieval", "name": "x"},)}),
    "tool_without_name": ("tools", {"tools": ({"type": "function", "function": {}},)}),
    "tool_with_a_bad_name": ("tools", {"tools": (tool("a b"),)}),
    "tool_named_as_a_choice": ("tools", {"tools": (tool("required"),)}),
    "tool_twice": ("tools", {"tools": (tool(), tool())}),
    "too_many_tools": ("tools", {"tools": tuple(tool(f"t{n}") for n in range(MAX_TOOLS + 1))}),
    "parameters_that_are_no_object": ("tools", {"tools": (tool(parameters=[]),)}),
    "parameters_too_large": (
        "tools",
        {"tools": tuple(tool(f"t{n}", parameters={"x": "y" * 200_000}) for n in range(2))},
    ),
    "forced_that_is_nothing": ("forced", {"forced": None}),
    "forced_that_is_no_id": ("forced", {"forced": (1, "2")}),
    "stop_that_is_nothing": ("stop", {"stop": None}),
    "prompt_that_is_a_text": ("prompt", {"prompt": "Tides."}),
    "prompt_that_is_nothing": ("prompt", {"prompt": None}),
    "tenant_that_is_nothing": ("tenant", {"tenant": None}),
    "tenant_that_cannot_be_written": ("tenant", {"tenant": "\ud800"}),
    "choice_as_an_object": ("tool_choice", {"tools": (tool(),), "tool_choice": {"name": "tide"}}),
    "choice_without_tools": ("tool_choice", {"tool_choice": "required"}),
    "choice_of_nothing": ("tool_choice", {"tools": (tool(),), "tool_choice": "moon"}),
    "schema_and_required_call": (
        "schema",
        {"schema": {}, "tools": (tool(),), "tool_choice": "tide"},
    ),
    "forced_and_schema": ("forced", {"forced": (1,), "schema": {}}),
    "forced_and_stop": ("forced", {"forced": (1,), "stop": ("x",)}),
    "forced_and_tools": ("forced", {"forced": (1,), "tools": (tool(),)}),
    "endless_and_schema": ("ignore_end", {"ignore_end": True, "schema": {}}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_out_of_bounds(case: str) -> None:
    name, fields = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        GenerateRequest(**{"prompt": (1,), **fields})
    assert refused.value.setting == name and len(str(refused.value)) < 300


def test_tools_in_both_forms() -> None:
    schema = MappingProxyType({"type": "object"})
    found = tool_parameters((tool("a", parameters=schema), {"name": "b"}))
    assert found == {"a": schema, "b": {"type": "object", "properties": {}}}
    request = GenerateRequest(prompt=(1,), tools=(tool(parameters=schema),), tool_choice="tide")
    assert request.must_call
    assert not GenerateRequest(prompt=(1,), tools=(tool(),)).must_call


class _Plain:
    """An engine without the optional parts."""

    capabilities = Capabilities(model="m", window=1, prefix_reuse=False, append_only_template=True)


@pytest.mark.anyio
async def test_what_an_engine_lacks_is_a_typed_error() -> None:
    engine: Any = _Plain()
    with pytest.raises(Unsupported, match="cannot score"):
        await score(engine, (1,), ["a"])
    with pytest.raises(Unsupported, match="cannot embed"):
        await embed(engine, ["a"])


def test_the_errors_travel() -> None:
    errors: list[AgentbusError] = [Unsupported("m", "score")]
    for error in errors:
        again = restore(*describe(error))
        assert type(again) is type(error) and str(again) == str(error)
