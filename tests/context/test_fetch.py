"""References: what they are written as, what they name, and what else can come of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.context import (
    Context,
    ContextStore,
    Fetched,
    FetchStatus,
    References,
    Searched,
    Segment,
    SegmentKind,
    TenantKey,
    reference,
)
from agentbus.context.fetch import Lookup
from agentbus.errors import MisuseError

TENANT = TenantKey(b"t" * 32)
EMPTY = TENANT.empty()
NEVER, EXPIRED, FORBIDDEN = (
    Fetched(FetchStatus.NEVER),
    Fetched(FetchStatus.EXPIRED),
    Fetched(FetchStatus.FORBIDDEN),
)


def last_of(context: Context) -> Segment:
    assert context.last is not None
    return context.last


def named(digits: str, text: str = "") -> Segment:
    """Return a segment whose digest begins with those digits."""
    digest = bytes.fromhex(digits.ljust(64, "0"))
    return Segment(SegmentKind.USER, "user", text or digits, digest)


def chain(*segments: Segment) -> Context:
    context = EMPTY
    for segment in segments:
        context = context.append(segment)
    return context


# --- references


def test_a_reference_is_eight_digits_of_the_digest() -> None:
    context = EMPTY.user("one").document("two")
    for node in list(context.ancestors())[:-1]:
        segment = last_of(node)
        assert reference(segment, node) == reference(segment, context)
        assert reference(segment, context) == f"ctx:{segment.digest.hex()[:8]}"
    other = EMPTY.user("three").last
    assert other is not None
    assert reference(other, context) == f"ctx:{other.digest.hex()[:8]}"


def test_a_reference_has_more_digits_where_an_earlier_segment_begins_alike() -> None:
    one, two, three = named("ab12cd34e"), named("ab12cd34f00"), named("ab12cd34f0ff")
    context = chain(one, two, three)
    assert reference(one, context) == "ctx:ab12cd34"
    assert reference(two, context) == "ctx:ab12cd34f"
    assert reference(three, context) == "ctx:ab12cd34f0f"
    # Only what stands before counts, and a segment's own earlier place is the one that counts.
    assert reference(three, chain(three, one, two)) == "ctx:ab12cd34"
    assert reference(three, chain(one, three, two, three)) == "ctx:ab12cd34f"
    assert reference(three, chain(one, two)) == "ctx:ab12cd34f0f"


@settings(deadline=None)
@given(st.lists(st.text("01", min_size=56, max_size=56), min_size=1, max_size=8))
def test_a_reference_names_its_segment_whatever_is_appended_later(ends: list[str]) -> None:
    context = EMPTY
    refs: dict[str, str] = {}
    for end in ends:
        segment = named("ab12cd34" + end)
        context = context.append(segment)
        refs.setdefault(segment.text, reference(segment, context))
        for text, ref in refs.items():
            assert context.fetch(ref).text == text


def test_contexts_one_after_the_other_are_named_as_each_alone() -> None:
    draw = random.Random(5)
    references = References()
    tips = [EMPTY]
    for _ in range(200):
        context = draw.choice(tips[-4:])
        for _ in range(draw.randrange(1, 3)):
            context = context.append(
                named("ab12cd34" + draw.choice(["", "ab", "cd"]) + draw.choice("0123"))
            )
        tips.append(context)
        nodes = list(context.ancestors())[-2::-1]
        for node in nodes[draw.randrange(len(nodes)) :]:
            first = next(one for one in nodes if last_of(one).digest == last_of(node).digest)
            before = {last_of(one).digest.hex() for one in nodes[: first.length - 1]}
            ref = references.of(node)
            assert ref == reference(last_of(node), context)
            digits = ref.removeprefix("ctx:")
            assert last_of(node).digest.hex().startswith(digits)
            assert not any(name.startswith(digits) for name in before)
            assert len(digits) == 8 or any(name.startswith(digits[:-1]) for name in before)


def test_segments_of_equal_text_have_one_name() -> None:
    context = EMPTY.user("twice").user("once").user("twice")
    first, _, third = context.segments()
    assert first.digest == third.digest
    assert reference(first, context) == reference(third, context)
    assert context.fetch(reference(third, context)).text == "twice"
    other = context.document("twice")  # equal text of another kind is another segment
    assert reference(last_of(other), other) != reference(first, other)


# --- what comes of one


def test_what_a_context_holds_is_found_whole_and_in_part() -> None:
    text = "one\r\ntwo 𝔘\nthree\n"
    context = EMPTY.user("x").tool_result("run", text).message("a", "ok")
    ref = reference(context.segments()[1], context)
    assert context.fetch(ref).text == text
    assert context.fetch(ref, lines=(1, 2)).text == "one\r\ntwo 𝔘"
    assert context.fetch(ref, characters=(10, 12)).text == "𝔘\nt"
    assert context.fetch(ref, lines=(3, 99)).lines == (3, 4)
    assert context.fetch(ref, lines=(5, 5)).lines == (0, 0)
    assert [one.line for one in context.search(ref, "T").lines] == [2, 3]
    assert context.search(ref, "T", limit=1).more
    for name in (ref, "ctx:00000000"):
        with pytest.raises(MisuseError):
            context.fetch(name, lines=(2, 1))
        with pytest.raises(MisuseError):
            context.search(name, "")


def test_what_was_never_there_is_told_apart() -> None:
    context = EMPTY.user("x")
    assert context.fetch("ctx:00000000") == EMPTY.fetch("ctx:00000000") == NEVER
    assert context.search("ctx:00000000", "x") == Searched(FetchStatus.NEVER)


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "ctx:",
        "ctx:abcdef1",
        "ctx:ABCDEF12",
        "ctx:abcdef12\n",
        " ctx:abcdef12",
        "ctx:" + "0" * 65,
        "ctx:٠١٢٣٤٥٦٧",
        "ctx:........",
        "ctx:\ud800bcdef12",
        "abcdef12",
        "x" * 1_000_000,
    ],
    ids=range(12),
)
def test_what_is_no_reference_names_nothing(ref: str) -> None:
    short = EMPTY.user("x").summarize("y", keep=0)
    assert short.fetch(ref) == NEVER  # whatever the summary stands for
    assert short.search(ref, "x") == Searched(FetchStatus.NEVER)


@pytest.mark.parametrize("ref", [5, None, b"ctx:abcdef12"])
def test_a_reference_is_a_text(ref: Any) -> None:
    with pytest.raises(MisuseError, match="a reference is a text, not "):
        EMPTY.fetch(ref)
    with pytest.raises(MisuseError, match="a reference is a text, not "):
        EMPTY.search(ref, "x")


def test_a_whole_digest_is_a_reference_and_its_first_digits_have_to_be_right() -> None:
    context = EMPTY.user("x")
    digits = last_of(context).digest.hex()
    assert context.fetch(f"ctx:{digits}").text == "x"
    wrong = "1" if digits[-1] == "0" else "0"
    assert context.fetch(f"ctx:{digits[:-1]}{wrong}") == NEVER
    assert context.fetch(f"ctx:{digits[1:]}") == NEVER


def test_what_a_summary_may_stand_for_has_expired() -> None:
    whole = EMPTY.user("long ago").user("now")
    ref = reference(whole.segments()[0], whole)
    short = whole.summarize("Before.", keep=1)
    assert whole.fetch(ref).text == "long ago"
    assert short.fetch(ref) == EXPIRED
    assert short.search(ref, "long") == Searched(FetchStatus.EXPIRED)
    assert short.fetch("ctx:00000000") == EXPIRED  # which nobody can know to be wrong
    # A summary that stands behind what it sums up leaves all at hand.
    assert whole.summary("Before.", of=whole).fetch("ctx:00000000") == NEVER
    assert EMPTY.summary("Nothing.", of=EMPTY).fetch("ctx:00000000") == NEVER
    assert EMPTY.add(SegmentKind.SUMMARY, "", "Of what?").fetch("ctx:00000000") == EXPIRED


def test_what_was_replaced_expires_when_the_context_is_compacted() -> None:
    first = EMPTY.document("old")
    ref = reference(last_of(first), first)
    whole = first.supersede(last_of(first), "new")
    assert whole.fetch(ref).text == "old"
    assert whole.fetch("ctx:00000000") == NEVER
    assert whole.compacted().fetch(ref) == EXPIRED


def test_private_roles_are_for_their_agent_alone_and_notes_for_none() -> None:
    context = EMPTY.role("a", "secret", private=True).role("", "odd", private=True).note("n")
    context = context.role("b", "open")
    secret, odd, note, openly = (reference(one, context) for one in context.segments())
    assert context.fetch(secret, reader="a").text == "secret"
    assert context.search(secret, "secret", reader="a").lines
    for reader in ("", "b", "A", "a "):
        assert context.fetch(secret, reader=reader) == FORBIDDEN
        assert context.search(secret, "secret", reader=reader) == Searched(FetchStatus.FORBIDDEN)
        assert context.fetch(odd, reader=reader) == FORBIDDEN
        assert context.fetch(note, reader=reader) == FORBIDDEN
        assert context.fetch(openly, reader=reader).text == "open"


# --- looking further


def test_a_lookup_asks_for_what_it_has_not_met_each_once() -> None:
    whole = EMPTY.user("one").user("two")
    short = whole.summarize("Both.", keep=0)
    twice = short.append(last_of(short)).user("three")
    lookup = Lookup(reference(whole.segments()[0], whole))
    lookup.walk(twice)
    assert lookup.context_wanted() == whole.root
    assert lookup.context_wanted() is None
    assert lookup.outcome("") is FetchStatus.EXPIRED
    lookup.walk(whole)
    assert lookup.outcome("") == whole.segments()[0]


def test_a_lookup_knows_that_it_has_seen_all() -> None:
    whole = EMPTY.document("old").user("one")
    whole = whole.supersede(whole.segments()[0], "new").user("two")
    short = whole.summarize("All.", keep=0).compacted()
    lookup = Lookup("ctx:00000000")
    lookup.walk(short)
    assert lookup.segment_wanted() == whole.segments()[0].digest
    assert lookup.outcome("") is FetchStatus.EXPIRED
    lookup.walk(whole)
    assert lookup.context_wanted() is None
    assert lookup.segment_wanted() is None
    assert lookup.outcome("") is FetchStatus.NEVER


@pytest.mark.parametrize("longest_first", [True, False])
def test_many_summaries_of_one_chain_are_walked_in_linear_time(
    monkeypatch: pytest.MonkeyPatch, longest_first: bool
) -> None:
    count = 300
    nodes = [EMPTY]
    for number in range(count):
        nodes.append(nodes[-1].user(str(number)))
    store = ContextStore(1 << 30)
    store.add(nodes[-1])
    context = EMPTY
    for node in reversed(nodes) if longest_first else nodes:
        context = context.summary("s", of=node)
    steps = 0
    walk = Context.ancestors

    def counted(self: Context) -> Iterator[Context]:
        nonlocal steps
        for node in walk(self):
            steps += 1
            yield node

    monkeypatch.setattr(Context, "ancestors", counted)
    lookup = Lookup("ctx:00000000")
    lookup.walk(context)
    while (root := lookup.context_wanted()) is not None:
        lookup.walk(store.find(root))
    assert lookup.outcome("") is FetchStatus.NEVER
    assert steps < 4 * count


def test_a_store_gives_the_segments_of_what_it_keeps() -> None:
    store = ContextStore(1 << 20)
    context = EMPTY.user("one").user("two")
    store.add(context)
    for segment in context.segments():
        assert store.segment(segment.digest) is segment
    store.collect()
    assert store.segment(last_of(context).digest) is None
