"""Each diagnostic against numbers computed by hand, and the theory curves, in fp64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asymrl.algo.advantages import asym
from asymrl.algo.diagnostics import (
    BIN_CHANNELS,
    channel_mass,
    entropy_by_channel,
    kappa,
    logprob_gain,
    solved_fractions,
)
from tests.helpers.groups import build_groups, with_correct

nan = math.nan

# p = 3/4, correct rollouts less likely by 0.2: 3/16 * -0.2 * log 3
HARD = ([1.0, 1.0, 1.0, 0.0], [-0.6, -0.5, -0.4, -0.3], 3 / 16 * -0.2 * math.log(3))
# p = 1/4, the correct rollout more likely by 0.4: 3/16 * 0.4 * log(1/3)
EASY = ([0.0, 1.0, 0.0, 0.0], [-0.5, -0.1, -0.4, -0.6], 3 / 16 * 0.4 * -math.log(3))
SOLVED = ([1.0] * 4, [-0.1, -0.2, -0.3, -0.4])
UNSOLVED = ([0.0] * 4, [-0.1, -0.2, -0.3, -0.4])


def kappa_of(*groups) -> float:
    """kappa of groups, each a pair of rewards and log-probs."""
    return kappa(build_groups([g[0] for g in groups], mean_logprobs=[g[1] for g in groups]))


def test_kappa_by_hand():
    assert kappa_of(HARD) == pytest.approx(HARD[2], abs=1e-10)
    assert kappa_of(EASY) == pytest.approx(EASY[2], abs=1e-10)


def test_kappa_is_the_mean_over_mixed_groups_only():
    got = kappa_of(HARD, SOLVED, EASY, UNSOLVED)
    assert got == pytest.approx((HARD[2] + EASY[2]) / 2, abs=1e-10)


def test_kappa_is_positive_where_the_likely_answer_is_the_majority():
    assert kappa_of(([1.0, 1.0, 0.0], [-0.1, -0.2, -0.9])) > 0
    assert kappa_of(([0.0, 0.0, 1.0], [-0.1, -0.2, -0.9])) > 0


def test_kappa_without_a_mixed_group_is_nan():
    assert math.isnan(kappa_of(SOLVED, UNSOLVED))


def test_kappa_uses_only_valid_rollouts():
    rewards = [[*HARD[0], 0.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    logprobs = [[*HARD[1], -9.0, nan], [-0.1] * 6]
    valid = [[True] * 4 + [False] * 2, [False] + [True] * 5]  # so the second group is none-solved
    got = kappa(build_groups(rewards, torch.tensor(valid), logprobs))
    assert got == pytest.approx(HARD[2], abs=1e-10)


def test_channel_mass_by_hand():
    groups = build_groups([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    advantages = torch.tensor([[3.0, -1.0, -2.0, -0.5], [0.5, -0.5, -1.0, 2.0]]).double()
    got = channel_mass(groups, advantages)
    assert got == pytest.approx(
        {
            "diag/mass_positive": (3 / 4 + 1 / 4) / 2,
            "diag/mass_negative": (3.5 / 4 + 3 / 4) / 2,
        }
    )


def test_channel_mass_includes_uniform_groups_but_not_invalid_rollouts():
    rewards = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    valid = [[True, True, False], [True, True, True], [False, False, False]]
    advantages = torch.tensor([[2.0, -1.0, 99.0], [0.0, 0.0, 0.0], [99.0] * 3]).double()
    got = channel_mass(build_groups(rewards, torch.tensor(valid)), advantages)
    assert got == pytest.approx({"diag/mass_positive": 0.5, "diag/mass_negative": 0.25})


@given(
    size=st.integers(2, 12),
    counts=st.data(),
    beta_pos=st.floats(0, 2),
    beta_neg=st.floats(0, 2),
)
def test_channel_mass_of_asym_is_the_mean_of_w_plus_and_w_minus(size, counts, beta_pos, beta_neg):
    num = torch.tensor(counts.draw(st.lists(st.integers(1, size - 1), min_size=1, max_size=4)))
    groups = with_correct(*num.tolist(), size=size)
    p = num.double() / size
    got = channel_mass(groups, asym(groups, beta_pos=beta_pos, beta_neg=beta_neg))
    assert got == pytest.approx(
        {
            "diag/mass_positive": (p ** (1 - beta_pos) * (1 - p) ** beta_pos).mean().item(),
            "diag/mass_negative": (p**beta_neg * (1 - p) ** (1 - beta_neg)).mean().item(),
        },
        rel=1e-10,
    )


@pytest.mark.parametrize("beta", [0.1, 0.25, 0.4, 0.5, 0.75, 0.9])
def test_channel_mass_of_asym_peaks_at_one_minus_beta_pos_and_at_beta_neg(beta):
    masses = []
    for correct in range(1, 20):
        groups = with_correct(correct, size=20)
        masses.append(channel_mass(groups, asym(groups, beta_pos=beta, beta_neg=beta)))
    positive, negative = ([m[f"diag/mass_{name}"] for m in masses] for name in BIN_CHANNELS[::-1])
    assert (1 + positive.index(max(positive))) / 20 == pytest.approx(1 - beta)
    assert (1 + negative.index(max(negative))) / 20 == pytest.approx(beta)


def test_solved_fractions_by_hand():
    groups = build_groups([SOLVED[0], UNSOLVED[0], HARD[0], UNSOLVED[0]])
    assert solved_fractions(groups) == {"groups/all_solved": 0.25, "groups/none_solved": 0.5}


def test_solved_fractions_ignore_invalid_rollouts_and_empty_groups():
    rewards = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    valid = [[True, False], [True, False], [False, False], [True, True]]
    got = solved_fractions(build_groups(rewards, torch.tensor(valid)))
    assert got == pytest.approx({"groups/all_solved": 1 / 3, "groups/none_solved": 1 / 3})


def test_entropy_by_channel_is_a_token_mean_under_the_mask():
    entropy = torch.tensor([1.0, 2.0, 6.0, 4.0, 50.0, nan]).double()
    loss_mask = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0]).double()
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 0.0]).double()
    assert entropy_by_channel(entropy, loss_mask, rewards) == pytest.approx(
        {
            "policy/entropy": 13 / 4,
            "policy/entropy_positive": 3.0,
            "policy/entropy_negative": 4.0,
        }
    )


def test_entropy_of_an_empty_channel_is_nan():
    ones = torch.ones(2).double()
    got = entropy_by_channel(ones, ones, ones)
    assert got["policy/entropy"] == got["policy/entropy_positive"] == 1.0
    assert math.isnan(got["policy/entropy_negative"])


def test_logprob_gain_is_the_mean_over_selected_tokens():
    new = torch.tensor([-1.0, -0.5, -3.0]).double()
    old = torch.tensor([-1.2, -0.1, -1.0]).double()
    assert logprob_gain(new, old, torch.tensor([True, True, False])) == pytest.approx(-0.1)
    assert math.isnan(logprob_gain(new, old, torch.zeros(3, dtype=torch.bool)))


def test_metrics_are_plain_floats():
    groups = build_groups([HARD[0]])
    ones = torch.ones(3)
    numbers = [
        kappa(groups),
        logprob_gain(ones, ones, ones > 0),
        *channel_mass(groups, groups.rewards).values(),
        *solved_fractions(groups).values(),
        *entropy_by_channel(ones, ones, ones).values(),
    ]
    assert all(type(number) is float for number in numbers)
