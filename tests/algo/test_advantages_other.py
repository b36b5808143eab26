"""Properties of the estimators of other papers, in fp64. Those that every estimator has, and its
vectors, are in test_advantages.py."""

import math

import pytest
import torch
from hypothesis import given

from asymrl.algo.advantages import (
    a_grae,
    asym,
    dr_grpo,
    grpo_sample_std,
    maxrl,
    ngrpo,
    qae,
    rloo,
    unlikeliness,
    w_reinforce,
)
from tests.helpers.groups import EXACT, estimate, make_groups, random_groups, with_correct


def test_maxrl_and_its_asym_part_on_groups_that_nobody_solved():
    groups = with_correct(0, 8)
    assert not maxrl(groups).any()
    assert torch.equal(asym(groups, beta_pos=1.0, beta_neg=0.0)[:, 0], -1 + groups.rewards[:, 0])


@given(groups=random_groups())
def test_dr_grpo_is_centred_and_rloo_leaves_itself_out(groups):
    size = groups.rewards.shape[1]
    expected = groups.rewards - groups.rewards.mean(1, keepdim=True)
    torch.testing.assert_close(dr_grpo(groups), expected, **EXACT)
    others = (groups.rewards.sum(1, keepdim=True) - groups.rewards) / (size - 1)
    torch.testing.assert_close(rloo(groups), groups.rewards - others, **EXACT)
    torch.testing.assert_close(rloo(groups), dr_grpo(groups) * size / (size - 1), **EXACT)


@given(groups=random_groups())
def test_ngrpo_is_grpo_with_one_more_right_rollout_in_the_group(groups):
    one = torch.ones(len(groups.rewards), 1).double()
    more = make_groups(torch.cat([groups.rewards, one], dim=1))
    torch.testing.assert_close(ngrpo(groups), grpo_sample_std(more)[:, :-1], **EXACT)


def test_ngrpo_learns_from_groups_that_nobody_solved():
    got = ngrpo(with_correct(0, 8))
    torch.testing.assert_close(got[0], torch.full((8,), -1 / 3).double(), rtol=1e-5, atol=0)
    assert not got[1].any()
    lone = ngrpo(make_groups(torch.zeros(1, 2).double(), torch.tensor([[True, False]])))
    assert lone[0].tolist() == pytest.approx([-math.sqrt(0.5), 0], rel=1e-5)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("tenths", range(11))
def test_qae_teaches_one_side_of_a_group_at_a_time(size, tenths):
    for num_correct in range(1, size):
        row = qae(with_correct(num_correct, size=size), quantile=tenths / 10)[0]
        p = num_correct / size
        unit = 1 / math.sqrt(p * (1 - p))
        hard = 10 * num_correct <= (10 - tenths) * size  # p <= 1 - K, in integers
        expected = [unit if hard else 0.0] * num_correct + [0.0 if hard else -unit] * (
            size - num_correct
        )
        assert row.tolist() == pytest.approx(expected, rel=1e-10)
    assert not qae(with_correct(0, size, size=size), quantile=tenths / 10).any()


def test_psr_nsr_and_reinforce_are_weights_of_w_reinforce():
    groups = with_correct(0, 3, 8)
    psr = w_reinforce(groups, positive_weight=1.0, negative_weight=0.0)
    nsr = w_reinforce(groups, positive_weight=0.0, negative_weight=1.0)
    assert torch.equal(psr, groups.rewards)
    assert torch.equal(nsr, groups.rewards - 1)
    both = w_reinforce(groups, positive_weight=1.0, negative_weight=1.0)
    assert torch.equal(both, asym(groups, beta_pos=0.0, beta_neg=0.0))


def test_a_grae_moves_its_focus_with_the_accuracy_of_the_batch():
    """Groups of p = 1/4 and 3/4, beside all-solved ones or none-solved ones; by hand."""
    base = math.sqrt(0.75 * 0.25 * 8 / 7)
    for uniform, w in ((0, 0.25), (8, 0.75)):
        got = a_grae(with_correct(2, 6, uniform, uniform), alpha=0.5)
        hard = w / 2 / 0.5 + (1 - w) / 2 / math.sqrt(0.75)
        easy = w / 2 / math.sqrt(0.75) + (1 - w) / 2 / 0.5
        attenuation = min(1, w / 0.5)
        assert got[0, 0].item() == pytest.approx(0.75 / base * hard * attenuation, rel=1e-5)
        assert got[0, -1].item() == pytest.approx(-0.25 / base * hard, rel=1e-5)
        assert got[1, 0].item() == pytest.approx(0.25 / base * easy * attenuation, rel=1e-5)
        assert got[1, -1].item() == pytest.approx(-0.75 / base * easy, rel=1e-5)
        assert not got[2:].any()


def test_a_grae_counts_each_group_once_in_the_accuracy_of_the_batch():
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).double()
    valid = torch.tensor([[True] * 4, [True, True, True, False], [False] * 4])
    got = a_grae(make_groups(rewards, valid))
    w = (1 / 4 + 2 / 3) / 2  # three of seven rollouts are right, which is less
    focus = w / 2 / math.sqrt(1 / 4) + (1 - w) / 2 / math.sqrt(3 / 4)
    assert got[0, 1].item() == pytest.approx(-0.25 / 0.5 * focus, rel=1e-5)
    assert not got[2].any()


def test_unlikeliness_by_hand():
    """Ranks 3, 0, 2, 1 of 4 with beta 1: rewards 1/4, 0 (wrong), 1/2, 0 (wrong)."""
    groups = make_groups(
        torch.tensor([[1.0, 0, 1, 0]]).double(),
        mean_logprobs=torch.tensor([[-0.1, -0.9, -0.2, -0.3]]).double(),
    )
    std = math.sqrt((1 / 16**2 + 3**2 / 16**2 + 5**2 / 16**2 + 3**2 / 16**2) / 3)
    expected = [x / 16 / std for x in (1, -3, 5, -3)]
    assert unlikeliness(groups, beta=1.0)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_unlikeliness_prefers_rare_right_answers_even_where_all_are_right():
    got = unlikeliness(with_correct(0, 4, size=4))  # log-probs rise: ranks 0, 1, 2, 3
    assert not got[0].any()
    # rewards 16, 15, 14, 13 sixteenths: deviations 1.5, .5, -.5, -1.5, sample std sqrt(5 / 3)
    expected = [x / math.sqrt(5 / 3) for x in (1.5, 0.5, -0.5, -1.5)]
    assert got[1].tolist() == pytest.approx(expected, rel=1e-4)


@given(groups=random_groups())
def test_unlikeliness_without_a_rank_is_grpo(groups):
    expected = grpo_sample_std(groups)
    torch.testing.assert_close(unlikeliness(groups, beta=0.0), expected, **EXACT)
    tied = make_groups(groups.rewards, mean_logprobs=torch.zeros_like(groups.rewards))
    # equal ranks scale all rewards alike, which the std takes out again, up to its epsilon
    torch.testing.assert_close(unlikeliness(tied, beta=0.5), expected, rtol=1e-4, atol=1e-8)


@given(groups=random_groups())
@pytest.mark.parametrize("name", ["grpo_sample_std", "dr_grpo", "rloo", "maxrl", "unlikeliness"])
def test_centred_estimators_add_up_to_zero_in_every_group(name, groups):
    assert estimate(name, groups).sum(1).abs().max() < 1e-8
