"""Grants: whom they let do what, and what hostile ones come to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import GrantRefused
from agentbus.routing import KEY_SIZE, Admissions, Grant, open_grant, seal
from agentbus.routing.grant import _MAX_SHOWN, _MAX_SIZE

pytestmark = pytest.mark.promise("peer.grant")

KEY, OTHER = b"k" * KEY_SIZE, b"o" * KEY_SIZE
GRANT = Grant("ann-1", "", "writer", "reviewer", "request", 7, 1060.0, b"n" * 16, "uid:7")


def book(*, clock: float = 1000.0, now: float = 5.0, epoch: int = 7) -> Admissions:
    """A receiver whose own clock reads 5 while the broker's reads 1000."""
    return Admissions(KEY, epoch, clock, now)


def refusal(grant: Grant, *, key: bytes = KEY, sender: str = "ann-1", now: float = 6.0) -> str:
    with pytest.raises(GrantRefused) as refused:
        book().admit(seal(grant, key), sender, "", now)
    return refused.value.problem


def test_a_grant_is_good_once_for_its_holder_until_it_ends() -> None:
    receiver = book()
    assert receiver.admit(seal(GRANT, KEY), "ann-1", "", 6.0) == (GRANT, 65.0)
    with pytest.raises(GrantRefused, match="was shown before"):
        receiver.admit(seal(GRANT, KEY), "ann-1", "", 6.0)
    receiver.admit(seal(replace(GRANT, nonce=b"m" * 16), KEY), "ann-1", "", 64.9)
    with pytest.raises(GrantRefused, match="has expired"):
        receiver.admit(seal(replace(GRANT, nonce=b"l" * 16), KEY), "ann-1", "", 65.0)


def test_what_is_not_right_about_a_grant_is_said() -> None:
    assert "not the broker's, or for another process" in refusal(GRANT, key=OTHER)
    assert "another process's" in refusal(GRANT, sender="eve-1")
    assert "another process's" in refusal(replace(GRANT, holder="k" * 40))
    assert "an earlier policy" in refusal(replace(GRANT, epoch=6))
    assert "expired" in refusal(GRANT, now=66.0)


def test_a_receiver_remembers_no_more_than_its_limit() -> None:
    receiver = book()
    for number in range(_MAX_SHOWN):
        receiver._shown[number] = 65.0
    with pytest.raises(GrantRefused, match="remembers"):
        receiver.admit(seal(GRANT, KEY), "ann-1", "", 6.0)
    late = replace(GRANT, until=2000.0)
    receiver.admit(seal(late, KEY), "ann-1", "", 66.0)
    assert len(receiver._shown) == 1


@given(st.binary(max_size=_MAX_SIZE + 64))
def test_bytes_that_are_no_grant_are_refused(data: bytes) -> None:
    with pytest.raises(GrantRefused):
        open_grant(data, KEY)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_grant_with_one_byte_changed_is_refused(at: int, change: int) -> None:
    data = bytearray(seal(GRANT, KEY))
    data[at % len(data)] ^= change
    with pytest.raises(GrantRefused):
        open_grant(bytes(data), KEY)
    assert open_grant(seal(GRANT, KEY), KEY) == GRANT


def test_a_sealed_grant_of_another_form_is_refused() -> None:
    strange = Grant("ann-1", "", "writer", "reviewer", "request", 7, 1060, b"n" * 16, "uid:7")
    for body in (strange, replace(GRANT, nonce="n" * 16)):  # type: ignore[arg-type]
        with pytest.raises(GrantRefused, match="form"):
            open_grant(seal(body, KEY), KEY)


@pytest.mark.promise("peer.secret")
def test_an_error_says_nothing_of_what_was_shown() -> None:
    for data in (seal(GRANT, OTHER), b"secret-bytes"):
        with pytest.raises(GrantRefused) as refused:
            book().admit(data, "ann-1", "", 6.0)
        assert data.hex() not in str(refused.value) + repr(refused.value)
        assert "secret" not in str(refused.value) + repr(refused.value)
