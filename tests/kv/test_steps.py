"""Steps to execution in a declared graph."""

from __future__ import annotations

from agentbus.kv import WaitsFor, steps_to_execution


def after(*agents: str, all: bool = True) -> WaitsFor:
    return WaitsFor(frozenset(agents), all)


def test_a_chain_counts_up() -> None:
    graph = {"b": after("a"), "c": after("b")}
    assert steps_to_execution(graph, ["a"]) == {"a": 0, "b": 1, "c": 2}


def test_a_join_waits_for_the_furthest_and_an_alternative_for_the_nearest() -> None:
    graph = {
        "far": after("near"),
        "near": after("start"),
        "join": after("start", "far"),
        "either": after("start", "far", all=False),
    }
    steps = steps_to_execution(graph, ["start"])
    assert (steps["join"], steps["either"]) == (3, 1)


def test_what_nothing_leads_to_is_left_out_and_loops_end() -> None:
    graph = {"a": after("b"), "b": after("a"), "c": after(), "d": after("a", "z")}
    assert steps_to_execution(graph, ["a"]) == {"a": 0, "b": 1}
    assert steps_to_execution({}, []) == {}
