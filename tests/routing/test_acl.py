"""The policy against a slow evaluator that was written apart from it, and what decisions say."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.config import AclSettings, Operation, RuleSettings
from agentbus.errors import ConfigError
from agentbus.routing import Policy, Rule, principal_of
from agentbus.routing.acl import covers, overlaps

from .reference import OPERATIONS, PRINCIPALS, SEED, SUBJECTS, fits, make_rules, reference

# --- the matrix


@pytest.mark.promise("peer.may")
def test_the_matrix_agrees_with_the_reference() -> None:
    """Principal × operation × subject under 12 generated policies: 8,064 cells."""
    cells = allowed = 0
    for seed in range(SEED, SEED + 12):
        rules = make_rules(seed)
        policy = Policy.of(AclSettings(rules=rules))
        for principal, operation, subject in itertools.product(PRINCIPALS, OPERATIONS, SUBJECTS):
            decision = policy.decide(principal, operation, subject)
            expected = reference(rules, principal, operation, subject)
            assert decision.allowed is expected, (seed, principal, operation, subject)
            cells += 1
            allowed += expected
    assert cells == 8064
    assert 0.1 < allowed / cells < 0.9  # a matrix of one answer would prove little


# --- patterns

patterns = st.lists(st.sampled_from(("a", "b", "*")), min_size=1, max_size=3).flatmap(
    lambda tokens: st.sampled_from((".".join(tokens), ".".join([*tokens[:-1], ">"])))
)
LONG = tuple(
    ".".join(tokens)
    for count in (1, 2, 3, 4)
    for tokens in itertools.product(("a", "b", "z"), repeat=count)
)
"""Names of one token more than the patterns have, so that `>` is told from `*`."""


@given(patterns, patterns)
def test_covers_and_overlaps_are_what_they_say_of_names(wide: str, narrow: str) -> None:
    meant = [name for name in LONG if fits(narrow, name)]
    assert covers(wide, narrow) is all(fits(wide, name) for name in meant)
    assert overlaps(wide, narrow) is any(fits(wide, name) for name in meant)


# --- decisions


def rule(who: str, on: str, **kind: tuple[Operation, ...]) -> RuleSettings:
    return RuleSettings(who=(who,), on=(on,), **kind)


def test_a_decision_says_which_rule_it_comes_from() -> None:
    rules = (
        rule("key:*", "news.>", allow=("subscribe",)),
        rule("key:eve", "news.secret.*", deny=("*",)),
        rule("key:ann", ">", allow=("subscribe",)),
    )
    policy = Policy.of(AclSettings(rules=rules), lambda at: f"agentbus.toml, line {4 * at + 2}")
    granted = policy.decide(("key:ann",), "subscribe", "news.sea")
    assert (granted.allowed, granted.why) == (True, "rule 1 (agentbus.toml, line 2) allows it")
    # One that denies wins wherever it stands, and over each topic that the pattern could bring.
    denied = policy.decide(("key:eve",), "subscribe", "news.>")
    assert (denied.allowed, denied.why) == (False, "rule 2 (agentbus.toml, line 6) denies it")
    nobody = policy.decide(("uid:1",), "subscribe", "news.sea")
    assert (nobody.allowed, nobody.rule, nobody.why) == (False, None, "no rule allows it")
    assert str(Rule(3, "", True, frozenset(), (), ())) == "rule 3"


def test_a_pattern_is_allowed_only_by_one_rule_that_covers_it() -> None:
    policy = Policy.of(AclSettings(rules=(rule("*", "news.*", allow=("subscribe",)),)))
    assert policy.decide(("uid:1",), "subscribe", "news.*").allowed
    assert not policy.decide(("uid:1",), "subscribe", "news.>").allowed
    assert not policy.decide(("uid:1",), "subscribe", ">").allowed


def test_without_rules_nothing_is_allowed() -> None:
    assert not Policy().decide(("uid:0",), "request", "a").allowed


@pytest.mark.parametrize("text", ["", "ann", "key:", ":ann", "keys:ann", "key:ann+", "key:a+x"])
def test_what_is_no_principal_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="principal"):
        principal_of(text)
    assert principal_of("uid:1000+token:ann+agent:a.b") == ("uid:1000", "token:ann", "agent:a.b")
