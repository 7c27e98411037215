"""The directory: one process a name, until it lets go or goes away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.broker import Directory
from agentbus.errors import NameTaken, NoResponder
from agentbus.routing import Location


def at(name: str, peer: str, role: str = "") -> Location:
    return Location(name, peer, f"/run/{peer}.sock", role)


def test_an_agent_is_where_it_was_registered() -> None:
    directory = Directory()
    directory.register(at("writer", "one"))
    assert directory.locate("writer") == at("writer", "one")
    with pytest.raises(NoResponder, match="reader"):
        directory.locate("reader")


def test_a_name_belongs_to_one_process() -> None:
    directory = Directory()
    directory.register(at("writer", "one"))
    with pytest.raises(NameTaken, match="writer"):
        directory.register(at("writer", "two"))
    assert directory.locate("writer").peer == "one"


def test_a_process_may_register_its_agent_again() -> None:
    directory = Directory()
    directory.register(at("writer", "one"))
    directory.register(at("writer", "one", "You write."))
    assert directory.agents() == (at("writer", "one", "You write."),)


def test_only_its_own_process_lets_go_of_a_name() -> None:
    directory = Directory()
    directory.register(at("writer", "one"))
    directory.unregister("writer", "two")
    directory.unregister("reader", "one")
    assert directory.locate("writer").peer == "one"
    directory.unregister("writer", "one")
    directory.register(at("writer", "two"))
    assert directory.locate("writer").peer == "two"


def test_a_lost_process_takes_its_names_with_it_and_no_others() -> None:
    directory = Directory()
    for name, peer in (("b", "one"), ("a", "one"), ("c", "two")):
        directory.register(at(name, peer))
    assert directory.peer_lost("one") == [at("b", "one"), at("a", "one")]
    assert directory.peer_lost("one") == []
    assert directory.agents() == (at("c", "two"),)
    directory.register(at("a", "two"))


def test_agents_are_listed_by_name() -> None:
    directory = Directory()
    for name in ("c", "a", "b"):
        directory.register(at(name, "one"))
    assert [agent.name for agent in directory.agents()] == ["a", "b", "c"]


_names = st.sampled_from("abc")
_peers = st.sampled_from(["one", "two"])
_steps = st.lists(st.tuples(st.sampled_from(["register", "unregister", "lost"]), _names, _peers))


@given(_steps)
def test_agrees_with_a_dict(steps: list[tuple[str, str, str]]) -> None:
    directory = Directory()
    model: dict[str, str] = {}
    for action, name, peer in steps:
        if action == "lost":
            directory.peer_lost(peer)
            model = {n: p for n, p in model.items() if p != peer}
        elif action == "unregister":
            directory.unregister(name, peer)
            if model.get(name) == peer:
                del model[name]
        elif model.setdefault(name, peer) == peer:
            directory.register(at(name, peer))
        else:
            with pytest.raises(NameTaken):
                directory.register(at(name, peer))
        assert {agent.name: agent.peer for agent in directory.agents()} == model
