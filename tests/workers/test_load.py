"""From a command line's words to an agent class, or to one sentence that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import ConfigError
from agentbus.workers import Target, load_agent, parse_target

HERE = "tests.system.agents"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("team:Writer", Target("team", "Writer")),
        ("my.team:Writer", Target("my.team", "Writer")),
        ("writer=my.team:Writer", Target("my.team", "Writer", "writer")),
        ("=team:Writer", Target("team", "Writer")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text", ["", "team", "team:", ":Writer", "writer=", "=", ":", "a/b:C", ".team:Writer", "a..b:C"]
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form module:Class or name=module:Class"):
        parse_target(text)


@given(st.text(max_size=20))
def test_any_text_is_a_target_or_a_typed_error(text: str) -> None:
    try:
        target = parse_target(text)
    except ConfigError:
        return
    assert text.endswith(f"{target.module}:{target.class_name}")


def test_an_agent_is_loaded() -> None:
    found = load_agent(Target(HERE, "Adder"))
    assert (found.__module__, found.__name__) == (HERE, "Adder")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (Target("no_such_module", "Writer"), "cannot import 'no_such_module': No module named"),
        (Target(HERE, "Nobody"), "has no 'Nobody'"),
        (Target(HERE, "Nobody:Else"), "has no 'Nobody:Else'"),
        (Target(HERE, "NOT_AN_AGENT"), "is not a subclass of Agent"),
        (Target(HERE, "STARTED"), "is not a subclass of Agent"),
        (Target(HERE, "Needy"), "cannot be made without arguments: .*'what'"),
    ],
)
def test_what_is_no_agent_says_why(target: Target, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        load_agent(target)
    assert "\n" not in str(raised.value)


def test_a_module_that_lacks_a_module_names_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking_module.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="No module named 'not_installed_anywhere'"):
        load_agent(Target("lacking_module", "Writer"))
