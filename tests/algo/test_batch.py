"""Flat tokens, groups, mini-batches and plans from rollouts."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asymrl.algo.batch import (
    make_groups,
    minibatches,
    plan,
    response_lengths,
    select_rows,
    tokenise,
)
from asymrl.algo.loss import loss_denominators
from asymrl.types import Batch, Tokens
from tests.helpers.batches import requests_and_rollouts

LENGTHS = [[3, 1], [2, 4], [1, 1]]


def tokens() -> Tokens:
    return tokenise(*requests_and_rollouts(LENGTHS))


def test_tokenise_lays_responses_end_to_end() -> None:
    flat = tokens()
    assert flat.targets.tolist() == [0, 1, 2, 100, 1000, 1001, 1100, 1101, 1102, 1103, 2000, 2100]
    assert flat.row.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 5]
    assert flat.group.tolist() == [0, 0, 1, 1, 2, 2]
    assert response_lengths(flat).tolist() == [3, 1, 2, 4, 1, 1]
    assert list(flat.sequences[2]) == [0, 1, 1000, 1001]
    assert flat.prompt_lengths.tolist() == [1, 1, 2, 2, 3, 3]


def test_groups_have_the_mean_logprob_of_each_row() -> None:
    flat = tokens()
    logprobs = -torch.arange(12.0)
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 1])
    groups = make_groups(flat, (logprobs, logprobs), rewards, torch.ones(6, dtype=torch.bool))
    assert groups.rewards.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert groups.lengths.tolist() == LENGTHS
    assert groups.mean_logprobs.tolist() == [[-1, -3], [-4.5, -7.5], [-10, -11]]


def test_selected_rows_are_renumbered() -> None:
    row_mask = torch.tensor([False, True, False, True, False, False])
    selection, token_mask = select_rows(tokens(), row_mask)
    assert selection.row.tolist() == [0, 1, 1, 1, 1]
    assert selection.targets.tolist() == [100, 1100, 1101, 1102, 1103]
    assert token_mask.nonzero()[:, 0].tolist() == [3, 6, 7, 8, 9]


def make_minibatches(
    advantages: list[float], valid: list[bool] | None = None, every_row: bool = False
) -> list[Batch]:
    scored = torch.arange(12.0), torch.arange(12.0) + 50
    rewards = torch.tensor([1.0, 0, 1, 1, 0, 0])
    return minibatches(
        tokens(),
        scored,
        torch.tensor(advantages)[tokens().row],
        make_groups(tokens(), scored, rewards, torch.tensor(valid or [True] * 6)),
        prompts=2,
        every_row=every_row,
        loss_denominators=partial(loss_denominators, aggregation="token_mean", constant_length=8),
    )


def test_minibatches_have_whole_groups_in_order() -> None:
    first, second = make_minibatches([1, 2, 3, 4, 5, 6])
    assert first.advantages.tolist() == [1, 1, 1, 2, 3, 3, 4, 4, 4, 4]
    assert second.advantages.tolist() == [5, 6]
    assert second.old_logprobs.tolist() == [10, 11] and second.old_entropy.tolist() == [60, 61]
    assert first.group.tolist() == [0, 0, 1, 1] and second.group.tolist() == [0, 0]
    assert first.accuracy_bin.tolist() == [17 + 8, 8, 17 + 16, 17 + 16]
    assert second.accuracy_bin.tolist() == [0, 0]


def test_denominators_count_skipped_rows_too() -> None:
    first, second = make_minibatches([0, 0, 3, 0, 0, 0])
    assert first.loss_denominators.tolist() == [10.0] * 10
    assert first.has_gradient.tolist() == [False, False, True, False]
    assert second.loss_denominators.tolist() == [2.0] * 2 and not second.has_gradient.any()


def test_an_invalid_row_is_masked_and_not_counted() -> None:
    first, _ = make_minibatches([1, 1, 1, 1, 1, 1], valid=[True, True, True, False, True, True])
    assert first.loss_mask.tolist() == [1] * 6 + [0] * 4
    assert first.loss_denominators.tolist()[:6] == [6.0] * 6
    assert first.has_gradient.tolist() == [True, True, True, False]


def test_every_valid_row_has_a_gradient_with_a_bonus_or_a_penalty() -> None:
    valid = [True, False, True, True, True, True]
    first, _ = make_minibatches([0] * 6, valid, every_row=True)
    assert first.has_gradient.tolist() == [True, False, True, True]


rows = st.lists(st.integers(1, 50), max_size=40)


@given(rows, st.integers(1, 5), st.integers(1, 200), st.sampled_from([0, 1, 20, 1000]))
def test_a_plan_has_every_row_once_within_the_budget(lengths, world_size, budget, cost) -> None:
    ranks = plan(lengths, world_size, budget, cost)
    assert len(ranks) == world_size
    assert len({len(micro_batches) for micro_batches in ranks}) == 1
    all_rows = [row for rank in ranks for micro in rank for row in micro]
    assert sorted(all_rows) == list(range(len(lengths)))
    for rank in ranks:
        for micro in rank:
            longest = max((lengths[row] for row in micro), default=0)
            assert len(micro) <= 1 or longest * len(micro) <= budget


@given(rows.filter(bool), st.integers(1, 4))
def test_a_plan_gives_ranks_the_same_number_of_rows_within_one(lengths, world_size) -> None:
    for cost in (0, 20):
        counts = [sum(map(len, rank)) for rank in plan(lengths, world_size, 100, cost)]
        assert max(counts) - min(counts) <= 1


def total_cost(plan_of_rank: list[list[int]], lengths: list[int], cost: int) -> int:
    return sum(max(lengths[row] for row in micro) * len(micro) + cost for micro in plan_of_rank)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 200))
def test_a_priced_plan_is_the_cheapest_of_all_cuts(lengths, budget) -> None:
    falling = sorted(lengths, reverse=True)
    all_costs = []
    for borders in itertools.product([False, True], repeat=len(falling) - 1):
        cuts = [0, *(n + 1 for n, is_border in enumerate(borders) if is_border), len(falling)]
        parts = [list(range(start, stop)) for start, stop in itertools.pairwise(cuts)]
        if all(len(part) == 1 or len(part) * falling[part[0]] <= budget for part in parts):
            all_costs.append(total_cost(parts, falling, 20))
    (parts,) = plan(lengths, 1, budget, 20)
    assert total_cost(parts, lengths, 20) == min(all_costs)


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_plan_without_rows_is_empty(world_size: int) -> None:
    assert plan([], world_size, 10) == [[] for _ in range(world_size)]
