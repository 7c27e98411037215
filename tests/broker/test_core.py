"""The directory: one process a name, until it lets go or goes away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.broker import Directory
from agentbus.broker.core import MAX_NAMES
from agentbus.errors import NameTaken, NoResponder, TooLarge
from agentbus.routing import Location


def at(name: str, peer: str, role: str = "") -> Location:
    return Location(name, peer, f"/run/{peer}.sock", role)


HOME = at("$broker", "broker")


def test_an_agent_is_where_it_was_registered() -> None:
    directory = Directory(HOME)
    directory.register(at("writer", "one"))
    assert directory.locate("writer") == at("writer", "one")
    with pytest.raises(NoResponder, match="reader"):
        directory.locate("reader")


def test_a_name_belongs_to_one_process() -> None:
    directory = Directory(HOME)
    directory.register(at("writer", "one"))
    with pytest.raises(NameTaken, match="writer"):
        directory.register(at("writer", "two"))
    assert directory.locate("writer").peer == "one"


def test_a_process_may_register_its_agent_again() -> None:
    directory = Directory(HOME)
    directory.register(at("writer", "one"))
    directory.register(at("writer", "one", "You write."))
    assert directory.agents() == (HOME, at("writer", "one", "You write."))


@pytest.mark.promise("flow.bounded")
@pytest.mark.parametrize("slots", [0, 1])
def test_names_of_one_process_are_bounded(slots: int) -> None:
    directory = Directory(HOME)
    for number in range(MAX_NAMES):
        directory.register(at(f"a{number}", "one"), slots)
    directory.register(at("a0", "one"), slots)
    with pytest.raises(TooLarge, match="names of one"):
        directory.register(at("more", "one"), slots)
    directory.register(at("more", "two"), slots)
    directory.unregister("a0", "one")
    directory.register(at("other", "one"), slots)
    directory.peer_lost("one")
    directory.register(at("a1", "one"), slots)


def test_only_its_own_process_lets_go_of_a_name() -> None:
    directory = Directory(HOME)
    directory.register(at("writer", "one"))
    directory.unregister("writer", "two")
    directory.unregister("reader", "one")
    assert directory.locate("writer").peer == "one"
    directory.unregister("writer", "one")
    directory.register(at("writer", "two"))
    assert directory.locate("writer").peer == "two"


def test_a_lost_process_takes_its_names_with_it_and_no_others() -> None:
    directory = Directory(HOME)
    for name, peer in (("b", "one"), ("a", "one"), ("c", "two")):
        directory.register(at(name, peer))
    assert directory.peer_lost("one") == ([at("b", "one"), at("a", "one")], [])
    assert directory.peer_lost("one") == ([], [])
    assert directory.agents() == (HOME, at("c", "two"))
    directory.register(at("a", "two"))


def test_agents_are_listed_by_name() -> None:
    directory = Directory(HOME)
    for name in ("c", "a", "b"):
        directory.register(at(name, "one"))
    assert [agent.name for agent in directory.agents()] == ["$broker", "a", "b", "c"]


_names = st.sampled_from("abc")
_peers = st.sampled_from(["one", "two"])
_steps = st.lists(st.tuples(st.sampled_from(["register", "unregister", "lost"]), _names, _peers))


@given(_steps)
def test_agrees_with_a_dict(steps: list[tuple[str, str, str]]) -> None:
    directory = Directory(HOME)
    model = {HOME.name: HOME.peer}
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


def test_a_group_is_asked_by_way_of_the_broker() -> None:
    directory = Directory(HOME)
    directory.register(at("jobs", "one"), slots=1)
    directory.register(at("jobs", "two"), slots=1)
    assert directory.locate("jobs") == Location("jobs", HOME.peer, HOME.path, "")
    assert [directory.assign("jobs", n) for n in range(3)] == ["one", "two", None]
    assert directory.finished("jobs", "two") == (2, "two")
    with pytest.raises(NameTaken):
        directory.register(at("jobs", "three"))
    directory.register(at("writer", "one"))
    with pytest.raises(NameTaken):
        directory.register(at("writer", "two"), slots=1)
    assert directory.assign("writer", 0) == "one"
    assert directory.finished("writer", "one") is None


def test_a_group_ends_with_its_last_member() -> None:
    directory = Directory(HOME)
    directory.register(at("jobs", "one"), slots=1)
    directory.register(at("jobs", "two"), slots=1)
    assert [directory.assign("jobs", n) for n in range(4)] == ["one", "two", None, None]
    assert directory.unregister("jobs", "one") == []
    lost, orphans = directory.peer_lost("two")
    assert (lost, orphans) == ([at("jobs", "two")], [2, 3])
    with pytest.raises(NoResponder):
        directory.assign("jobs", 4)
    directory.register(at("jobs", "three"))
