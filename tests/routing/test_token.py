"""Tokens are known by their hashes, for as long as they are good."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.config import TokenSettings
from agentbus.errors import ConfigError, NotAuthorised
from agentbus.routing import Tokens, hash_token

END = datetime(2030, 1, 31, tzinfo=UTC)
TOKENS = Tokens(
    {
        "ann": TokenSettings(hash=hash_token("of-ann")),
        "bob": TokenSettings(hash=hash_token("of-bob").upper(), expires=END),
    }
)


def test_a_token_is_its_holders_until_it_ends() -> None:
    assert TOKENS.find("of-ann", "bus", 9e9) == (hash_token("of-ann"), "ann", float("inf"))
    name, until = TOKENS.find("of-bob", "bus", END.timestamp() - 1)[1:]
    assert (name, until) == ("bob", END.timestamp())
    with pytest.raises(NotAuthorised, match="the token of bob has expired"):
        TOKENS.find("of-bob", "bus", END.timestamp())
    assert TOKENS.holds(hash_token("of-ann"))
    assert not TOKENS.holds(hash_token("other"))


@pytest.mark.promise("peer.secret")
@given(st.text(max_size=400))
def test_what_is_no_token_is_refused_without_a_word_of_it(text: str) -> None:
    token = "x" + text + "y"
    with pytest.raises(NotAuthorised) as refused:
        TOKENS.find(token, "bus", 0)
    assert str(refused.value) == "bus does not let this process in: it does not know this token"


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "g" * 64, "of-ann"])
def test_what_is_no_hash_is_refused(digest: str) -> None:
    with pytest.raises(ConfigError, match=r"tokens\.ann\.hash"):
        Tokens({"ann": TokenSettings(hash=digest)})


def test_names_and_hashes_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"tokens\.a b"):
        Tokens({"a b": TokenSettings(hash="0" * 64)})
    with pytest.raises(ConfigError, match="same hash"):
        Tokens({"a": TokenSettings(hash="0" * 64), "b": TokenSettings(hash="0" * 64)})
