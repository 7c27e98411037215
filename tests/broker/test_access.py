"""Who is who for the broker, and which grants it gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from agentbus.broker import Access, asking
from agentbus.config import AclSettings, RuleSettings, TokenSettings
from agentbus.errors import NotAuthorised, PermissionDenied
from agentbus.routing import Location, Policy, Tokens, hash_token, open_grant

OPEN = Policy.of(AclSettings(rules=(RuleSettings(who=("*",), allow=("*",), on=(">",)),)))
TOKENS = Tokens({"ops": TokenSettings(hash=hash_token("of-ops"))})


def drawing() -> Callable[[int], bytes]:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def access(policy: Policy | None = OPEN) -> Access:
    made = Access("bus", policy, TOKENS, drawing())
    made.enter("ann-1", "link a", "key:ann", "A" * 40)
    made.enter("bob-1", "link b", "uid:1000", "")
    return made


def test_a_principal_is_what_was_proved_and_nothing_that_is_claimed() -> None:
    known = access()
    assert known.principal("ann-1", "") == ("key:ann",)
    known.register("ann-1", "writer")
    assert known.principal("ann-1", "writer/key") == ("key:ann", "agent:writer")
    assert known.principal("bob-1", "writer") == ("uid:1000",)
    known.join("bob-1", "of-ops", 0)
    assert known.principal("bob-1", "") == ("uid:1000", "token:ops")
    assert known.principal_of("bob-1") == "uid:1000+token:ops"
    assert known.principal_of("nobody") == ""
    known.leave("ann-1")
    known.enter("ann-1", "link c", "key:eve", "")
    assert known.principal("ann-1", "writer") == ("key:eve",)


def test_names_that_are_remembered_are_bounded() -> None:
    known = access()
    for number in range(10_001):
        known.register("ann-1", f"a{number}")
    assert known.principal("ann-1", "a0") == ("key:ann",)
    assert known.principal("ann-1", "a1") == ("key:ann", "agent:a1")


def test_a_name_is_its_first_links() -> None:
    known = access()
    with pytest.raises(NotAuthorised, match="another link"):
        known.enter("ann-1", "link x", "key:ann", "A" * 40)
    known.enter("ann-1", "link a", "key:eve", "")
    assert known.principal("ann-1", "") == ("key:ann",)
    with pytest.raises(NotAuthorised, match="own name"):
        known.enter("bus", "link x", "key:ann", "")
    free = access(None)
    free.enter("ann-1", "link x", "key:eve", "")
    assert free.principal("ann-1", "") == ("key:eve",)


def test_a_token_that_is_taken_away_is_nobodys() -> None:
    known = access()
    with pytest.raises(NotAuthorised):
        known.join("bob-1", "no-such", 0)
    known.join("bob-1", "of-ops", 0)
    known.renew(OPEN, TOKENS)
    assert "token:ops" in known.principal("bob-1", "")
    known.renew(OPEN, Tokens())
    assert known.principal("bob-1", "") == ("uid:1000",)


def test_what_is_asked_of_tools_agents_is_administration() -> None:
    assert asking("$process.ann-1") == ("admin", "$process.ann-1")
    assert asking("session/ann") == ("request", "session")


@pytest.mark.promise("peer.grant")
def test_grants_are_bound_to_process_key_edge_and_policy() -> None:
    known = access()
    at = Location("reviewer", "bob-1", "ab://10.0.0.2:7", "")
    assert known.grant("ann-1", "", at, 100.0) == b""  # bob-1 has not joined
    known.join("bob-1", "", 0)
    key = known.joined("bob-1", 0.0).key
    grant = open_grant(known.grant("ann-1", "writer/k", at, 100.0), key)
    assert (grant.sender, grant.source, grant.target) == ("ann-1", "writer", "reviewer")
    assert (grant.holder, grant.epoch, grant.until) == ("A" * 40, 1, 160.0)
    assert grant.principal == known.principal_of("ann-1") == "key:ann"
    beside = Location("reviewer", "bob-1", "/run/bob-1.sock", "")
    again = open_grant(known.grant("ann-1", "writer", beside, 100.0), key)
    assert again.holder == ""
    assert again.nonce != grant.nonce
    # Over tcp it would be good for anyone, if the asking process has no key.
    assert known.grant("bob-1", "", at, 100.0) == b""
    known.renew(OPEN, TOKENS)
    assert known.joined("bob-1", 0.0).key != key
    assert known.joined("bob-1", 0.0).epoch == 2
    known.renew(None, TOKENS)
    assert known.grant("ann-1", "", at, 100.0) == b""
    assert not known.joined("bob-1", 0.0).guarded


@pytest.mark.promise("peer.may")
def test_the_broker_itself_may_do_all() -> None:
    known = access(Policy())
    known.check("", "", "register", "anything")
    with pytest.raises(PermissionDenied) as denied:
        known.check("ann-1", "", "register", "anything")
    assert denied.value.principal == "key:ann"
    access(None).check("ann-1", "", "register", "anything")


def test_only_who_has_joined_is_told_of_other_rules() -> None:
    known = access()
    assert not known.knows("ann-1", "link a")
    known.join("ann-1", "", 0)
    assert known.knows("ann-1", "link a")
    assert not known.knows("ann-1", "link x")
    assert not known.knows("cy-1", "link a")
