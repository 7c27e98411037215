"""Sampling against a slow reference, and choosing for batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from agentbus_torch.choose import Chooser, pick
from agentbus_torch.logprobs import rank, report, token_logprobs
from agentbus_torch.sampling import (
    UNDECIDED,
    Penalties,
    cut,
    cut_all,
    draw,
    draw_all,
    penalise,
    uniform,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.engine import Sampling
from tests.torch.tiny import DEVICE

VOCABULARY = 12

# few different values, so that ties are common
scores_of_row = st.lists(
    st.sampled_from([-4.0, -1.5, -1.0, 0.0, 0.25, 1.0, 2.5]),
    min_size=VOCABULARY,
    max_size=VOCABULARY,
)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.25, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 11, 12, 40]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.3]),
    presence_penalty=st.sampled_from([-1.0, 0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
)
tokens = st.integers(0, VOCABULARY - 1)
rows = st.lists(
    st.tuples(scores_of_row, samplings, st.lists(tokens, max_size=6), st.lists(tokens, max_size=6)),
    min_size=1,
    max_size=5,
)


def slow_penalties(
    scores: list[float], sampling: Sampling, prompt: list[int], said: list[int]
) -> list[float]:
    found = []
    for token, score in enumerate(scores):
        if token in prompt or token in said:
            by = sampling.repetition_penalty
            score = score / by if score > 0 else score * by
        if token in said:
            score -= sampling.presence_penalty
        found.append(score - sampling.frequency_penalty * said.count(token))
    return found


def slow_kept(probabilities: list[float], sampling: Sampling) -> set[int]:
    """Return the tokens that all cuts leave, one token and one cut at a time."""
    best = max(probabilities)
    floor = float(torch.tensor(sampling.min_p) * torch.tensor(best))
    order = sorted(range(len(probabilities)), key=lambda token: (-probabilities[token], token))
    order = [token for token in order if probabilities[token] >= floor]
    if sampling.top_k:
        order = order[: sampling.top_k]
    if sampling.top_p == 1:
        return set(order)
    total = math.fsum(probabilities[token] for token in order)
    kept: set[int] = set()
    share = 0.0
    for token in order:
        kept.add(token)
        share += probabilities[token]
        if share >= sampling.top_p * total:
            break
    return kept


@given(rows)
@settings(max_examples=200, deadline=None)
def test_penalties_are_those_of_the_reference(
    given_rows: list[tuple[list[float], Sampling, list[int], list[int]]],
) -> None:
    penalties = []
    for _, _, prompt, said in given_rows:
        one = Penalties(prompt, DEVICE)
        for token in said:
            one.add(token)
        penalties.append(one)
    scores = torch.tensor([row[0] for row in given_rows], device=DEVICE)
    found = scores.clone()
    penalise(found, [row[1] for row in given_rows], penalties)
    expected = torch.tensor([slow_penalties(*row) for row in given_rows])
    torch.testing.assert_close(found.cpu(), expected, atol=1e-6, rtol=1e-6)


@given(rows)
@settings(max_examples=300, deadline=None)
def test_cuts_keep_what_the_reference_keeps(
    given_rows: list[tuple[list[float], Sampling, list[int], list[int]]],
) -> None:
    probabilities = torch.tensor([row[0] for row in given_rows], device=DEVICE).softmax(-1)
    found = cut_all(probabilities, [row[1] for row in given_rows])
    looked_at, _, enough = cut(probabilities, [row[1] for row in given_rows])
    assert torch.equal(looked_at, found) and bool(
        enough.all()
    )  # a small vocabulary is looked at whole
    for row, kept, (_, sampling, _, _) in zip(probabilities, found, given_rows, strict=True):
        expected = slow_kept(row.tolist(), sampling)
        assert set(kept.nonzero()[:, 0].tolist()) == expected
        assert all(kept[token] == row[token] for token in expected)


def test_a_share_that_is_met_exactly_takes_no_more() -> None:
    quarters = torch.full((1, 4), 0.25, device=DEVICE)
    for top_p, kept in ((0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)):
        found = cut_all(quarters, [Sampling(temperature=1, top_p=top_p)])
        assert found[0].tolist() == [0.25] * kept + [0.0] * (4 - kept)  # the lower ids stay


LARGE = [
    Sampling(temperature=1, top_k=top_k, top_p=top_p, min_p=min_p)
    for top_k in (0, 1, 255, 256, 257, 700, 5000)
    for top_p in (0.3, 0.95, 1.0)
    for min_p in (0.0, 0.001, 0.2, 1.0)
]


@pytest.mark.parametrize("heat", [0.3, 1.0, 8.0])
def test_a_first_look_is_enough_or_says_that_it_is_not(heat: float) -> None:
    """Vocabularies that are larger than it, peaked and flat, with ties at every edge."""
    generator = torch.Generator().manual_seed(3)
    scores = 4 * torch.randn(3, 900, generator=generator)
    scores[1] = scores[1].round()  # many ties
    scores[2] = scores[2].clamp(max=0)  # ties at the top
    probabilities = (scores / heat).softmax(-1).to(DEVICE)
    answers = []
    for row in probabilities:
        rows = row.expand(len(LARGE), -1).contiguous()
        whole = cut_all(rows, LARGE)
        kept, ids, enough = cut(rows, LARGE)
        for n, sampling in enumerate(LARGE):
            expected = slow_kept(row.tolist(), sampling)
            assert set(whole[n].nonzero()[:, 0].tolist()) == expected
            if enough[n]:
                assert set(ids[n, kept[n] > 0].tolist()) == expected
        answers.append(enough)
        numbers = [0.37] * len(LARGE)
        drawn = draw(row.log().expand(len(LARGE), -1), LARGE, numbers)
        again = [draw(row.log()[None], [one], [0.37]).item() for one in LARGE]
        assert drawn.tolist() == again
        decided = draw_all(row.log().expand(len(LARGE), -1), LARGE, numbers)
        cuts = torch.tensor([one.cuts for one in LARGE], device=DEVICE)
        assert torch.equal(drawn, decided.masked_fill(cuts & ~enough, UNDECIDED))
    enough = torch.cat(answers)
    assert bool(enough.any()) and not bool(enough.all())


@given(scores_of_row, samplings, st.floats(0, 1, exclude_max=True))
@settings(max_examples=300, deadline=None)
def test_the_number_picks_where_the_running_sum_passes_it(
    scores: list[float], sampling: Sampling, number: float
) -> None:
    row = torch.tensor(scores, device=DEVICE)
    heat = torch.tensor(sampling.temperature, device=DEVICE)
    probabilities = ((row - row.max()) / heat).softmax(-1).tolist()
    kept = slow_kept(probabilities, sampling)
    weights = [p if token in kept else 0.0 for token, p in enumerate(probabilities)]
    number = math.floor(number * 2**48) / 2**48
    running, total = 0.0, sum(weights)
    for expected, weight in enumerate(weights):  # noqa: B007 - it is looked at behind the loop
        running += weight
        if running > number * total:
            break
    assert draw(row[None], [sampling], [number]).tolist() == [expected]


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e-3])
def test_the_coldest_take_the_best(temperature: float) -> None:
    scores = torch.tensor([[0.0, 3.0, 2.9, -1e30, -math.inf]], device=DEVICE)
    for number in (0.0, 0.5, 1 - 2**-48):
        assert draw(scores, [Sampling(temperature=temperature)], [number]).tolist() == [1]


def test_frequencies_are_the_probabilities() -> None:
    scores = torch.tensor([[1.0, 0.0, -1.0, 2.0]], device=DEVICE)
    chooser = Chooser(Sampling(temperature=1.0, seed=11))
    counts = Counter(pick(scores, [chooser]).read()[0].token for _ in range(4000))
    for token, probability in enumerate(scores[0].softmax(-1).tolist()):
        assert abs(counts[token] / 4000 - probability) < 0.03


def test_random_numbers_depend_on_seed_and_place_alone() -> None:
    numbers = [uniform(seed, place) for seed in (0, 1, 2**63 - 1) for place in range(100)]
    assert len(set(numbers)) == 300 and all(0 <= number < 1 for number in numbers)
    assert numbers[:100] == [uniform(0, place) for place in range(100)]


WARM = Sampling(temperature=0.9, top_p=0.95, seed=7, presence_penalty=0.5, repetition_penalty=1.2)


def walk(chooser: Chooser, others: list[Chooser], place: int) -> list[int]:
    """Choose 30 tokens in a batch with others; the scores hang on the token before."""
    chooser.begin((1, 2, 3), DEVICE)
    for other in others:
        other.begin((4, 5), DEVICE)
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(40, 40, generator=generator).to(DEVICE)
    batch = [*others[:place], chooser, *others[place:]]
    last = [0] * len(batch)
    said = []
    for _ in range(30):
        chosen = pick(table[last], batch).read()
        last = [one.token for one in chosen]
        said.append(last[place])
    return said


def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch() -> None:
    alone = walk(Chooser(WARM), [], 0)
    others = [
        Chooser(Sampling(temperature=1.5, seed=9)),
        Chooser(logprobs=3),
        Chooser(forced=(6,) * 30),
        Chooser(Sampling(temperature=0.5, top_k=3)),
    ]
    assert walk(Chooser(WARM), others, 2) == alone
    assert walk(Chooser(Sampling(temperature=0.9, top_p=0.95, seed=8)), [], 0) != alone
    assert len(set(alone)) > 5


def test_no_seed_is_another_seed_each_time() -> None:
    assert len({Chooser(Sampling(temperature=1.0)).seed for _ in range(20)}) == 20


def test_ends_are_ignored_and_forced_tokens_are_taken() -> None:
    scores = torch.tensor([[1.0, 5.0, 3.0]] * 4, device=DEVICE)
    ends = frozenset({1})
    before = scores.clone()
    choosers = [
        Chooser(end_ids=ends),
        Chooser(end_ids=ends, ignore_end=True),
        Chooser(end_ids=ends, forced=(1,)),
        Chooser(Sampling(temperature=0.0, top_k=1, min_p=1.0), end_ids=ends),
    ]
    chosen = pick(scores, choosers).read()
    assert [one.token for one in chosen] == [1, 2, 1, 1]
    assert [one.ends for one in chosen] == [True, False, False, True]
    assert torch.equal(scores, before)


def test_best_tokens_that_are_known_are_not_looked_for() -> None:
    scores = torch.tensor([[1.0, 5.0, 3.0]] * 2, device=DEVICE)
    told, ends = torch.tensor([2, 0]), frozenset({2})
    plain, deaf = Chooser(end_ids=ends), Chooser(end_ids=ends, ignore_end=True)

    def tokens(*choosers: Chooser) -> list[int]:
        return [one.token for one in pick(scores, choosers, best=told).read()]

    assert tokens(plain, plain) == tokens(plain, deaf) == [2, 0]
    assert tokens(deaf, plain) == [1, 1]  # what it was told of is an end: all is looked at
    for other in (
        Chooser(logprobs=1),
        Chooser(forced=(1,)),
        Chooser(Sampling(temperature=1e-6)),
        Chooser(Sampling(presence_penalty=0.1)),
    ):
        other.begin((), DEVICE)
        assert tokens(plain, other) == [1, 1]


def test_greedy_heeds_penalties() -> None:
    chooser = Chooser(Sampling(frequency_penalty=1.0))
    chooser.begin((), DEVICE)
    scores = torch.tensor([[1.0, 2.5, 1.8]], device=DEVICE)
    assert [pick(scores, [chooser]).read()[0].token for _ in range(4)] == [1, 2, 1, 0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1.0),
        Sampling(temperature=1.0, top_p=0.5, min_p=0.1, top_k=2),
        Sampling(temperature=1.0, frequency_penalty=1.0),
    ],
)
@pytest.mark.parametrize("forced", [(), (1,)])
@pytest.mark.parametrize("logprobs", [0, 2])
def test_scores_that_are_no_numbers_are_an_error(
    sampling: Sampling, forced: tuple[int, ...], logprobs: int
) -> None:
    """Nothing is read on the device beyond its end, where that would break it for all."""
    scores = torch.full((2, 400), math.nan, device=DEVICE)
    scores[1] = 0
    chooser = Chooser(sampling, forced=forced, logprobs=logprobs)
    chooser.begin((1,), DEVICE)
    picked = pick(scores, [chooser, Chooser()])
    assert 0 <= int(picked.known.min()) <= int(picked.known.max()) < 400
    with pytest.raises(RuntimeError, match="not numbers"):
        picked.read()
    assert [one.token for one in picked.read([1])] == [0]


@pytest.mark.parametrize("logprobs", [0, 2])
def test_scores_without_end_are_an_error_where_they_are_cut(logprobs: int) -> None:
    """The second look finds no token either; the id behind the last one would break the device."""
    scores = torch.zeros(2, 400, device=DEVICE)
    scores[0, 7] = math.inf
    cuts = Sampling(temperature=1.0, top_p=0.5)
    picked = pick(scores, [Chooser(cuts, logprobs=logprobs), Chooser()])
    with pytest.raises(RuntimeError, match="not numbers"):
        picked.read()
    assert [one.token for one in picked.read([1])] == [0]


def test_tokens_that_take_more_than_a_first_look_are_told() -> None:
    scores = torch.zeros(3, 900, device=DEVICE)
    scores[0] = torch.linspace(1, 0, 900)
    scores[1, 7] = 100.0
    flat = Sampling(temperature=1.0, top_p=0.9, seed=3)
    choosers = [Chooser(flat, logprobs=2), Chooser(flat, logprobs=1), Chooser()]
    picked = pick(scores, choosers)
    chosen = picked.read()
    (expected,) = draw_all(scores[:1], [flat], [uniform(3, 0)]).tolist()
    assert expected > 0 and [one.token for one in chosen] == [expected, 7, 0]
    assert picked.undecided == [0]
    for one, alternatives in zip(chosen, (2, 1), strict=False):
        assert one.reported is not None and len(one.reported[1]) == alternatives
    assert chosen[0].reported is not None
    assert chosen[0].reported[0] == pytest.approx(float(scores[0].log_softmax(-1)[expected]))


def test_choices_can_be_picked_before_those_before_them_are_read() -> None:
    table = torch.randn(6, 40, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    makers: list[Callable[[], Chooser]] = [
        lambda: Chooser(ignore_end=True, end_ids=frozenset({3})),
        lambda: Chooser(Sampling(temperature=0.9, top_p=0.8, seed=7), logprobs=2),
        lambda: Chooser(forced=(6, 5, 4, 3, 2, 1)),
        lambda: Chooser(Sampling(temperature=2.0, seed=1)),
    ]
    plain, ahead = [make() for make in makers], [make() for make in makers]
    assert all(chooser.runs_ahead for chooser in plain)
    assert not Chooser(WARM).runs_ahead  # its penalties hang on what was said
    wanted = [pick(row.expand(4, -1), plain).read() for row in table]
    waiting = pick(table[0].expand(4, -1), ahead)
    found = []
    for row in table[1:]:
        following = pick(row.expand(4, -1), ahead, behind=1)
        found.append(waiting.read())
        waiting = following
    assert [*found, waiting.read()] == wanted


def test_log_probabilities_are_the_models_own() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]], dtype=torch.bfloat16).to(DEVICE)
    expected = scores.float().log_softmax(-1)
    sampling = Sampling(temperature=2.0, top_k=1, repetition_penalty=3.0)
    choosers = [Chooser(sampling, logprobs=2)]
    choosers += [Chooser(forced=(0,), logprobs=3)]
    for chooser in choosers:
        chooser.begin((1,), DEVICE)
    first, second = pick(scores, choosers).read()
    assert first.reported is not None and second.reported is not None
    assert first.reported[0] == pytest.approx(float(expected[0, first.token]))
    assert [token for token, _ in first.reported[1]] == [1, 2]
    assert second.token == 0 and second.reported[0] == pytest.approx(float(expected[1, 0]))
    token, value = second.reported[1][0]
    assert token == 2 and value == pytest.approx(float(expected[1, 2]))
    assert len(second.reported[1]) == 3
    given = token_logprobs(scores, torch.tensor([2, 2], device=DEVICE))
    torch.testing.assert_close(given, expected[:, 2])
    best = rank(scores, torch.tensor([0, 0], device=DEVICE), 20)
    assert len(report(best, [20, 1])[0][1]) == 3  # there are no more
