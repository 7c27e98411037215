"""Contexts as values that are forked, joined, summed up, superseded and compacted."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.context import Context, SegmentKind, TenantKey
from agentbus.errors import MisuseError

TENANT = TenantKey(b"t" * 32)
EMPTY = TENANT.empty()


def said(base: Context, texts: str) -> Context:
    for text in texts:
        base = base.user(text)
    return base


def texts(context: Context) -> str:
    return "".join(segment.text for segment in context.segments())


def rebuilt(context: Context) -> Context:
    """Return the context that the same segments give when they are appended one by one."""
    node = EMPTY
    for segment in context.segments():
        node = node.append(segment)
    return node


CHAINS = st.text("abc", max_size=6).map(lambda text: said(EMPTY, text))
FORKS = st.lists(CHAINS, max_size=4)
UNHURRIED = settings(deadline=None)
"""A busy machine is no failure."""


# --- join


@pytest.mark.promise("order.join")
def test_a_join_is_the_base_and_each_branch_in_the_callers_order() -> None:
    base = said(EMPTY, "xy")
    one, two, three = (said(base, text) for text in ("pq", "r", "st"))
    assert texts(base.join([one, two, three])) == "xypqrst"
    assert texts(base.join([three, one, two])) == "xystpqr"
    assert texts(one.join([two])) == "xypqr"


def test_a_join_does_not_repeat_what_an_earlier_branch_brought() -> None:
    base = said(EMPTY, "x")
    asked = base.ask("Speak.")
    joined = base.join([asked.message("a", "A"), asked.message("b", "B")])
    assert texts(joined) == "xSpeak.AB"
    apart = base.join([base.ask("Speak.").message("a", "A"), said(base, "o").ask("Speak.")])
    assert texts(apart) == "xSpeak.Ao"


def test_what_one_branch_says_twice_is_said_twice() -> None:
    base = said(EMPTY, "x")
    assert texts(base.join([said(base, "yy"), said(base, "yzyy")])) == "xyyzy"
    assert texts(base.join([said(base, "x")])) == "xx"


def test_branches_that_share_more_than_the_base_share_it_in_the_join() -> None:
    base = said(EMPTY, "x")
    later = said(base, "yz")
    joined = base.join([said(later, "p"), said(later, "q")])
    assert texts(joined) == "xyzpq"
    assert later in joined.ancestors()


def test_a_branch_from_elsewhere_adds_all_that_it_has() -> None:
    assert texts(said(EMPTY, "xy").join([said(EMPTY, "pq")])) == "xypq"
    assert said(EMPTY, "xy").join([EMPTY]) == said(EMPTY, "xy")


def test_contexts_of_two_tenants_are_not_joined() -> None:
    other = TenantKey(b"o" * 32).empty()
    for branch in (other, other.user("x")):
        with pytest.raises(MisuseError, match="two tenants"):
            EMPTY.join([branch])


@UNHURRIED
@given(context=CHAINS, branch=CHAINS)
def test_a_join_of_one_is_itself(context: Context, branch: Context) -> None:
    assert context.join([]) is context
    assert context.join([context]) is context
    forked = said(context, texts(branch))
    assert context.join([forked]) == forked


@UNHURRIED
@given(first=CHAINS, branches=FORKS)
def test_a_join_begins_with_the_first_and_holds_all(
    first: Context, branches: list[Context]
) -> None:
    joined = first.join(branches)
    assert first in joined.ancestors()
    counts = [Counter(texts(one)) for one in (first, *branches)]
    most: Counter[str] = Counter()
    for count in counts:
        most |= count
    assert Counter(texts(joined)) == most
    assert joined == rebuilt(joined)
    assert joined.root == rebuilt(joined).root
    assert joined.length == len(joined.segments())


@UNHURRIED
@given(first=CHAINS, branches=FORKS)
def test_joining_again_changes_nothing(first: Context, branches: list[Context]) -> None:
    joined = first.join(branches)
    assert joined.join(branches) == joined
    assert joined.join([first]) == joined
    assert first.join([*branches, *branches]) == joined


@UNHURRIED
@given(first=CHAINS, branches=FORKS)
def test_joining_one_by_one_or_at_once_is_the_same(first: Context, branches: list[Context]) -> None:
    joined = first
    for branch in branches:
        joined = joined.join([branch])
    assert joined == first.join(branches)


@UNHURRIED
@given(base=CHAINS, own=st.lists(st.text("pqrs", max_size=4), max_size=4))
def test_each_branch_keeps_its_own_order(base: Context, own: list[str]) -> None:
    branches = [said(base, text) for text in own]
    joined = texts(base.join(branches))[len(base) :]
    left: list[str] = list(joined)
    seen: Counter[str] = Counter()
    for text in own:
        count: Counter[str] = Counter()
        for letter in text:
            count[letter] += 1
            if count[letter] > seen[letter]:
                assert left.pop(0) == letter
        seen |= count
    assert not left


@UNHURRIED
@given(one=st.text("ab", max_size=6), two=st.text("ab", max_size=6))
def test_the_common_ancestor_is_the_longest_common_beginning(one: str, two: str) -> None:
    same = 0
    while same < min(len(one), len(two)) and one[same] == two[same]:
        same += 1
    assert texts(said(EMPTY, one).common_ancestor(said(EMPTY, two))) == one[:same]


_SCRIPT = """
from agentbus.context import TenantKey
base = TenantKey(b"t" * 32).empty().user("x")
one = base.ask("Speak.").message("a", "A").message("a", "A")
two = base.ask("Speak.").message("b", "B").user("o")
print(base.join([two, one]).root.hex())
"""


def test_a_join_has_one_name_in_all_processes() -> None:
    roots = {
        subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(roots) == 1
    assert len(roots.pop()) == 65


# --- summaries


def test_a_summary_stands_for_what_was_said_and_roles_and_documents_stay() -> None:
    old = EMPTY.role("a", "ra").document("d1").user("u1").message("a", "m1").document("d2")
    old = old.tools("[]").user("u2")
    context = old.message("a", "m2").user("u3")
    short = context.summarize("S", keep=2)
    assert [s.text for s in short.segments()] == ["ra", "d1", "d2", "[]", "S", "m2", "u3"]
    (summary,) = [s for s in short.segments() if s.kind is SegmentKind.SUMMARY]
    assert summary.refers == old.root == context.older(2).root
    assert summary.replaces == b""
    assert short == rebuilt(short)


def test_what_stood_before_the_summed_up_is_shared() -> None:
    standing = EMPTY.role("a", "ra").document("d1")
    short = standing.user("u1").message("a", "m1").summarize("S", keep=1)
    assert any(node is standing for node in short.ancestors())


def test_calls_and_results_of_tools_are_said() -> None:
    context = (
        EMPTY.tools("[]").user("u").tool_call("a", "c").tool_result("t", "r").message("a", "m")
    )
    assert [s.text for s in context.summarize("S", keep=1).segments()] == ["[]", "S", "m"]
    assert [s.text for s in context.summarize("S", keep=0).segments()] == ["[]", "S"]


def test_a_summary_of_a_summary_leads_to_the_whole() -> None:
    whole = said(EMPTY, "abcdef")
    once = whole.summarize("S", keep=2)
    twice = said(once, "gh").summarize("T", keep=2)
    assert texts(twice) == "Tgh"
    summary = twice.segments()[0]
    assert summary.refers == once.root
    assert once.segments()[0].refers == whole.older(2).root


def test_nothing_is_not_summed_up() -> None:
    for context in (EMPTY, EMPTY.role("a", "r"), said(EMPTY, "ab")):
        with pytest.raises(MisuseError, match="nothing to sum up"):
            context.summarize("S", keep=2)
        assert context.older(2) == EMPTY
    with pytest.raises(MisuseError, match="0 segments or more"):
        said(EMPTY, "ab").summarize("S", keep=-1)


@UNHURRIED
@given(texts_=st.text("abD", max_size=8), keep=st.integers(0, 8))
def test_older_and_the_kept_are_the_whole(texts_: str, keep: int) -> None:
    context = EMPTY
    for text in texts_:
        context = context.document(text) if text == "D" else context.user(text)
    older = context.older(keep)
    assert older in context.ancestors()
    kept = context.segments()[older.length :]
    count = sum(segment.is_said for segment in kept)
    assert count == min(keep, sum(segment.is_said for segment in context.segments()))
    assert older.last is None or older.last.is_said


# --- supersession


def test_the_superseded_stays_where_it_was_until_a_new_epoch() -> None:
    base = EMPTY.role("a", "r1").document("d1", name="plan")
    document = base.segments()[1]
    later = base.user("u").supersede(document, "d2").message("a", "m")
    assert texts(later) == "r1d1ud2m"
    assert base in later.ancestors()
    newer = later.segments()[3]
    assert (newer.kind, newer.author) == (SegmentKind.DOCUMENT, "plan")
    assert newer.refers == newer.replaces == document.digest
    assert texts(later.compacted()) == "r1d2um"
    assert later.compacted().segments()[1] == newer


def test_the_last_of_many_edits_takes_the_first_ones_place() -> None:
    context = said(EMPTY, "a")
    for text in "bcd":
        last = [s for s in context.segments() if s.author == "user"][-1]
        context = context.supersede(last, text).message("agent", "-")
    assert texts(context) == "ab-c-d-"
    assert texts(context.compacted()) == "d---"


def test_two_that_replace_the_same_one_both_stay() -> None:
    base = said(EMPTY, "x")
    document = base.segments()[0]
    joined = base.join([base.supersede(document, "p").user("1"), base.supersede(document, "q")])
    assert texts(joined) == "xp1q"
    assert texts(joined.compacted()) == "pq1"


def test_what_is_replaced_later_than_its_replacement_came_goes_too() -> None:
    base = said(EMPTY, "x")
    newer = base.supersede(base.segments()[0], "y").segments()[1]
    joined = EMPTY.append(newer).join([base])
    assert texts(joined) == "yx"
    assert texts(joined.compacted()) == "y"


def test_only_what_is_there_is_superseded() -> None:
    other = TENANT.segment(SegmentKind.USER, "user", "elsewhere")
    with pytest.raises(MisuseError, match="not in this context"):
        said(EMPTY, "x").supersede(other, "y")
    summed = said(EMPTY, "xy").summarize("S", keep=0)
    with pytest.raises(MisuseError, match="sum up again"):
        summed.supersede(summed.segments()[0], "T")


def test_a_summary_replaces_nothing_when_compacted() -> None:
    context = said(EMPTY, "xyz").summarize("S", keep=1)
    assert context.compacted() is context


@UNHURRIED
@given(
    edits=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.booleans()), max_size=12
    )
)
def test_compacting_leaves_what_nothing_replaces(edits: list[tuple[str, int, bool]]) -> None:
    context = EMPTY
    for text, place, edit in edits:
        segments = context.segments()
        if edit and segments:
            context = context.supersede(segments[place % len(segments)], text)
        else:
            context = context.user(text)
    compact = context.compacted()
    replaced = {segment.replaces for segment in context.segments()}
    left = Counter(s.digest for s in context.segments() if s.digest not in replaced)
    assert Counter(s.digest for s in compact.segments()) == left
    assert compact.compacted() is compact
    assert compact == rebuilt(compact)
    if len(compact) == len(context):
        assert compact is context
