"""Advantage estimators: hand-computed vectors, properties shared by all, then each one's own."""

import inspect
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asymrl.algo.advantages import (
    ADVANTAGES,
    a_grae,
    asym,
    dr_grpo,
    ent_decrease,
    ent_increase,
    fade,
    flash_reinforce,
    grpo_sample_std,
    maxrl,
    ngrpo,
    qae,
    reinforce_pp,
    reinforce_pp_baseline,
    rloo,
    unlikeliness,
    w_reinforce,
    wapo,
)
from asymrl.types import Groups
from tests.helpers.groups import build_groups, random_groups, with_correct

SETTINGS = {
    "asym": {"beta_pos": 0.9, "beta_neg": 0.4},
    "ent_increase": {"beta_pos": 0.5, "beta_neg": 0.5},
    "ent_decrease": {"beta_pos": 0.5, "beta_neg": 0.5},
    "w_reinforce": {"positive_weight": 0.1, "negative_weight": 1.0},
    "qae": {"quantile": 0.4},
    "a_grae": {"alpha": 1.0},
    "unlikeliness": {"beta": 0.25},
    "fade": {"alpha": 3.0, "delta": 1.0},
}
EXACT = {"rtol": 0, "atol": 1e-10}
every_estimator = pytest.mark.parametrize("name", ADVANTAGES)
betas = st.floats(0, 2)


def estimate(name: str, groups: Groups) -> Tensor:
    return ADVANTAGES[name](groups, **SETTINGS.get(name, {}))


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (
            lambda groups: asym(groups, beta_pos=0.9, beta_neg=0.4),
            "5.762/0.459 2.688/0.644 1/1 0.372/1.552 0.174/2.178",
        ),
        (
            lambda groups: asym(groups, beta_pos=0.5, beta_neg=0.5),
            "2.646/0.378 1.732/0.577 1/1 0.577/1.732 0.378/2.646",
        ),
        (
            lambda groups: asym(groups, beta_pos=1.0, beta_neg=0.0),
            "7/1 3/1 1/1 0.333/1 0.143/1",
        ),
        (grpo_sample_std, "2.475/0.354 1.620/0.540 0.935/0.935 0.540/1.620 0.354/2.475"),
        (dr_grpo, "0.875/0.125 0.750/0.250 0.5/0.5 0.250/0.750 0.125/0.875"),
        (rloo, "1.000/0.143 0.857/0.286 0.571/0.571 0.286/0.857 0.143/1.000"),
        (maxrl, "7/1 3/1 1/1 0.333/1 0.143/1"),
        (ngrpo, "1.764/0.504 1.333/0.667 0.843/1.054 0.504/1.764 0.333/2.667"),
        (qae, "3.024/0 2.309/0 2.000/0 0/2.309 0/3.024"),
        (w_reinforce, "0.1/1 0.1/1 0.1/1 0.1/1 0.1/1"),
        (wapo, "0.875/0 0.75/0 0.5/0 0.25/0 0.125/0"),
        (fade, "0.670/0.096 0.422/0.141 0.125/0.125 0.016/0.047 0.002/0.014"),
        # with one group and equal lengths, the batch is the group
        (flash_reinforce, "0.875/0.125 0.75/0.25 0.5/0.5 0.25/0.75 0.125/0.875"),
        (reinforce_pp, "2.475/0.354 1.620/0.540 0.935/0.935 0.540/1.620 0.354/2.475"),
        (reinforce_pp_baseline, "2.475/0.354 1.620/0.540 0.935/0.935 0.540/1.620 0.354/2.475"),
        # a_grae on this group alone, so w = p: grpo_sample_std above times
        # (sqrt(p) + sqrt(1 - p)) / 2, and in the positive channel times p
        (a_grae, "0.199/0.228 0.277/0.369 0.331/0.661 0.277/1.107 0.199/1.595"),
    ],
)
def test_vectors_at_group_size_eight(estimator, expected):
    for num_correct, pair in zip((1, 2, 4, 6, 7), expected.split(), strict=True):
        positive, negative = map(float, pair.split("/"))
        row = estimator(with_correct(num_correct))[0]
        assert (row[:num_correct] - positive).abs().max() < 6e-4
        assert (row[num_correct:] + negative).abs().max() < 6e-4


@given(groups=random_groups(mixed=True))
def test_asym_at_half_half_is_the_group_standardised_reward(groups):
    mean = groups.rewards.mean(1, keepdim=True)
    std = groups.rewards.std(1, keepdim=True, correction=0)
    expected = (groups.rewards - mean) / std
    got = asym(groups, beta_pos=0.5, beta_neg=0.5)
    torch.testing.assert_close(got, expected, **EXACT)


@given(groups=random_groups())
def test_grpo_sample_std_matches_its_definition_on_raw_rewards(groups):
    mean = groups.rewards.mean(1, keepdim=True)
    std = groups.rewards.std(1, keepdim=True, correction=1)
    expected = (groups.rewards - mean) / (std + 1e-6)
    torch.testing.assert_close(grpo_sample_std(groups), expected, **EXACT)


@given(groups=random_groups(mixed=True))
def test_asym_at_one_zero_is_maxrl_on_mixed_groups(groups):
    p = groups.rewards.mean(1, keepdim=True)
    got = asym(groups, beta_pos=1.0, beta_neg=0.0)
    torch.testing.assert_close(got, (groups.rewards - p) / p, **EXACT)
    torch.testing.assert_close(maxrl(groups), got * p / (p + 1e-6), **EXACT)


@given(groups=random_groups(mixed=True))
def test_grpo_sample_std_is_asym_at_half_half_times_a_known_factor(groups):
    size = groups.rewards.shape[1]
    got, half = grpo_sample_std(groups), asym(groups, beta_pos=0.5, beta_neg=0.5)
    torch.testing.assert_close(got, half * math.sqrt((size - 1) / size), rtol=1e-5, atol=0)


@every_estimator
def test_in_a_mixed_pair_correct_is_not_negative_and_wrong_is_not_positive(name):
    row = estimate(name, with_correct(1, size=2))[0]
    assert row[0] >= 0 >= row[1]
    assert row.any()


@given(groups=random_groups(mixed=True), beta_pos=st.floats(0, 1))
def test_asym_has_mean_zero_if_the_betas_add_up_to_one(groups, beta_pos):
    means = asym(groups, beta_pos=beta_pos, beta_neg=1 - beta_pos).mean(1)
    assert means.abs().max() < 1e-10


@given(size=st.integers(3, 12), data=st.data(), beta_pos=betas, beta_neg=betas)
def test_the_sum_of_the_betas_decides_the_sign_of_the_mean(size, data, beta_pos, beta_neg):
    """p A_pos / ((1 - p) |A_neg|) = ((1 - p) / p) ** (beta_pos + beta_neg - 1)."""
    num_correct = data.draw(st.integers(1, size - 1).filter(lambda k: 2 * k != size))
    lean = (beta_pos + beta_neg - 1) * math.log((size - num_correct) / num_correct)
    mean = asym(with_correct(num_correct, size=size), beta_pos=beta_pos, beta_neg=beta_neg).mean()
    if abs(lean) > 1e-6:
        assert mean.sign() == math.copysign(1, lean)


@given(groups=random_groups())
def test_zero_betas_give_plus_and_minus_one_on_every_group(groups):
    assert torch.equal(asym(groups, beta_pos=0.0, beta_neg=0.0), 2 * groups.rewards - 1)


@pytest.mark.parametrize("beta", [1e-3, 0.4, 0.9, 3.0])
def test_uniform_groups_get_exactly_zero_at_positive_betas(beta):
    assert not asym(with_correct(0, 8), beta_pos=beta, beta_neg=beta).any()


def test_a_single_zero_beta_keeps_the_gradient_of_its_channels_uniform_groups():
    assert torch.equal(
        asym(with_correct(0, 8), beta_pos=0.5, beta_neg=0.0)[:, 0], torch.tensor([-1.0, 0]).double()
    )
    assert torch.equal(
        asym(with_correct(0, 8), beta_pos=0.0, beta_neg=0.5)[:, 0], torch.tensor([0, 1.0]).double()
    )


def test_flips_have_the_end_values_of_appendix_c():
    end = 2 * math.sqrt(7) - math.sqrt(3)
    assert end == pytest.approx(3.559, abs=5e-4)
    decreased, increased = ent_decrease(with_correct(0, 8)), ent_increase(with_correct(0, 8))
    torch.testing.assert_close(decreased[1], torch.full_like(decreased[1], end), **EXACT)
    torch.testing.assert_close(
        increased[0], torch.full_like(decreased[1], -end), rtol=0, atol=1e-10
    )
    assert not decreased[0].any()
    assert not increased[1].any()


@given(size=st.integers(3, 12), beta_pos=betas, beta_neg=betas)
def test_flips_are_extended_linearly_at_their_ends(size, beta_pos, beta_neg):
    groups = with_correct(0, 1, 2, size - 2, size - 1, size, size=size)
    plain = asym(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    decreased = ent_decrease(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    increased = ent_increase(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    # Next to the end, the flipped curve equals the plain curve at the mirrored accuracies.
    end = 2 * plain[1, 0] - plain[2, 0]
    torch.testing.assert_close(decreased[5, 0], end, rtol=1e-10, atol=1e-10)
    end = 2 * plain[4, -1] - plain[3, -1]
    torch.testing.assert_close(increased[0, -1], end, rtol=1e-10, atol=1e-10)


@given(groups=random_groups(mixed=True), beta_pos=betas, beta_neg=betas)
def test_flips_reflect_one_channel_and_leave_the_other_unchanged(groups, beta_pos, beta_neg):
    plain = asym(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    mirrored = build_groups(1 - groups.rewards.flip(1))  # p -> 1 - p, correct rollouts first again
    reflected = asym(mirrored, beta_pos=beta_pos, beta_neg=beta_neg)
    correct = groups.rewards == 1

    decreased = ent_decrease(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    assert torch.equal(decreased[~correct], plain[~correct])
    expected = reflected[:, :1].expand_as(plain)
    torch.testing.assert_close(decreased[correct], expected[correct], rtol=1e-10, atol=1e-10)

    increased = ent_increase(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    assert torch.equal(increased[correct], plain[correct])
    expected = reflected[:, -1:].expand_as(plain)
    torch.testing.assert_close(increased[~correct], expected[~correct], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reward", [0.0, 1.0])
@pytest.mark.parametrize("name", sorted(ADVANTAGES.keys() - {"asym", "w_reinforce", "ngrpo"}))
def test_the_only_valid_rollout_of_a_group_gets_zero(name, reward):
    groups = build_groups(torch.full((1, 4), reward).double(), torch.arange(4)[None] == 2)
    assert not estimate(name, groups).any()


@every_estimator
@given(groups=random_groups(), data=st.data())
def test_invalid_rollouts_do_not_count_and_get_zero(name, groups, data):
    flags = st.lists(
        st.booleans(), min_size=groups.rewards.numel(), max_size=groups.rewards.numel()
    )
    valid = torch.tensor(data.draw(flags)).view_as(groups.rewards)
    for rewards, mask, logprobs in zip(groups.rewards, valid, groups.mean_logprobs, strict=True):
        got = estimate(name, build_groups(rewards[None], mask[None], logprobs[None]))[0]
        assert not got[~mask].any()
        if mask.any():
            alone = build_groups(rewards[mask][None], mean_logprobs=logprobs[mask][None])
            torch.testing.assert_close(got[mask], estimate(name, alone)[0], **EXACT)


OF_THE_BATCH = {"a_grae", "flash_reinforce", "reinforce_pp", "reinforce_pp_baseline"}


@pytest.mark.parametrize("name", sorted(ADVANTAGES.keys() - OF_THE_BATCH))
@given(groups=random_groups())
def test_groups_do_not_affect_each_other(name, groups):
    """Except where the estimator uses means of the batch."""
    alone = [estimate(name, build_groups(rewards[None])) for rewards in groups.rewards]
    assert torch.equal(estimate(name, groups), torch.cat(alone))


@every_estimator
def test_values_of_invalid_rollouts_are_not_read(name):
    rewards = torch.tensor([[1.0, 0.0, math.nan, 7.0], [math.nan] * 4]).double()
    logprobs = torch.tensor([[-2.0, -1.0, math.nan, math.inf], [math.nan] * 4]).double()
    got = estimate(name, build_groups(rewards, rewards <= 1, logprobs))
    torch.testing.assert_close(got[0, :2], estimate(name, with_correct(1, size=2))[0], **EXACT)
    assert not got[0, 2:].any()
    assert not got[1].any()


@every_estimator
@given(groups=random_groups(), seed=st.integers(0, 99))
def test_order_of_rollouts_and_prompts_does_not_matter(name, groups, seed):
    num_prompts, size = groups.rewards.shape
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randperm(num_prompts, generator=generator)
    rollouts = torch.rand(num_prompts, size, generator=generator).argsort(1)
    shuffled = build_groups(
        groups.rewards[prompts].gather(1, rollouts),
        mean_logprobs=groups.mean_logprobs[prompts].gather(1, rollouts),
    )
    expected = estimate(name, groups)[prompts].gather(1, rollouts)
    torch.testing.assert_close(estimate(name, shuffled), expected, **EXACT)


@every_estimator
def test_arguments_are_not_mutated(name):
    groups = with_correct(0, 3, 8)
    fields = ("rewards", "valid", "lengths", "mean_logprobs")
    before = {field: getattr(groups, field).clone() for field in fields}
    estimate(name, groups)
    assert all(torch.equal(getattr(groups, field), value) for field, value in before.items())


@every_estimator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_rewards(name, dtype):
    groups = with_correct(0, 3, 8)
    got = estimate(name, build_groups(groups.rewards.to(dtype)))
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), estimate(name, groups), rtol=1e-5, atol=1e-6)


@every_estimator
def test_estimators_are_listed_by_name_and_take_keyword_only_floats(name):
    assert ADVANTAGES[name].__name__ == name
    first, *others = inspect.signature(ADVANTAGES[name]).parameters.values()
    assert first.name == "groups"
    assert all(p.kind is p.KEYWORD_ONLY and p.annotation is float for p in others)
    assert {p.name for p in others} >= set(SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", ["asym", "ent_increase", "ent_decrease"])
@pytest.mark.parametrize("negative", ["beta_pos", "beta_neg"])
def test_negative_betas_raise(name, negative):
    with pytest.raises(AssertionError, match="at least 0"):
        ADVANTAGES[name](with_correct(3), **{**SETTINGS[name], negative: -0.1})


@every_estimator
def test_rewards_other_than_zero_and_one_raise(name):
    with pytest.raises(AssertionError, match="0 or 1"):
        estimate(name, build_groups(torch.tensor([[0.5, 1.0]]).double()))


def test_maxrl_and_asym_at_one_zero_differ_on_none_solved_groups():
    groups = with_correct(0, 8)
    assert not maxrl(groups).any()
    assert torch.equal(asym(groups, beta_pos=1.0, beta_neg=0.0)[:, 0], -1 + groups.rewards[:, 0])


@given(groups=random_groups())
def test_dr_grpo_is_centred_and_rloo_compares_with_the_other_rollouts(groups):
    size = groups.rewards.shape[1]
    expected = groups.rewards - groups.rewards.mean(1, keepdim=True)
    torch.testing.assert_close(dr_grpo(groups), expected, **EXACT)
    others = (groups.rewards.sum(1, keepdim=True) - groups.rewards) / (size - 1)
    torch.testing.assert_close(rloo(groups), groups.rewards - others, **EXACT)
    torch.testing.assert_close(rloo(groups), dr_grpo(groups) * size / (size - 1), **EXACT)


@given(groups=random_groups())
def test_ngrpo_is_grpo_with_one_more_correct_rollout(groups):
    one = torch.ones(len(groups.rewards), 1).double()
    more = build_groups(torch.cat([groups.rewards, one], dim=1))
    torch.testing.assert_close(ngrpo(groups), grpo_sample_std(more)[:, :-1], **EXACT)


def test_ngrpo_has_a_gradient_on_none_solved_groups():
    got = ngrpo(with_correct(0, 8))
    torch.testing.assert_close(got[0], torch.full((8,), -1 / 3).double(), rtol=1e-5, atol=0)
    assert not got[1].any()
    lone = ngrpo(build_groups(torch.zeros(1, 2).double(), torch.tensor([[True, False]])))
    assert lone[0].tolist() == pytest.approx([-math.sqrt(0.5), 0], rel=1e-5)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("tenths", range(11))
def test_qae_gives_only_one_channel_of_a_group_an_advantage(size, tenths):
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


def test_psr_nsr_and_reinforce_are_members_of_w_reinforce():
    groups = with_correct(0, 3, 8)
    psr = w_reinforce(groups, positive_weight=1.0, negative_weight=0.0)
    nsr = w_reinforce(groups, positive_weight=0.0, negative_weight=1.0)
    assert torch.equal(psr, groups.rewards)
    assert torch.equal(nsr, groups.rewards - 1)
    both = w_reinforce(groups, positive_weight=1.0, negative_weight=1.0)
    assert torch.equal(both, asym(groups, beta_pos=0.0, beta_neg=0.0))


def test_fade_divides_wrong_rollouts_by_delta_and_is_dr_grpo_at_one_one():
    groups = with_correct(0, 2, 8)
    torch.testing.assert_close(fade(groups, alpha=1.0, delta=1.0), dr_grpo(groups), **EXACT)
    got = fade(groups, alpha=2.0, delta=0.5)[1]  # p = 1/4
    assert got.tolist() == pytest.approx([0.75 * 0.75] * 2 + [-0.75 * 0.25 / 0.5] * 6)
    for wrong in ({"alpha": 0.9}, {"delta": 0.0}):
        with pytest.raises(AssertionError, match="must be"):
            fade(groups, **wrong)


def test_flash_reinforce_subtracts_the_mean_reward_of_the_valid_rollouts_of_the_batch():
    rewards = torch.tensor([[1.0, 1, 1], [0, 1, 0], [0, 0, 0]]).double()
    valid = torch.tensor([[True, True, True], [True, True, False], [False] * 3])
    got = flash_reinforce(build_groups(rewards, valid))
    assert got[0].tolist() == pytest.approx([1 - 4 / 5] * 3)
    assert got[1].tolist() == pytest.approx([-4 / 5, 1 / 5, 0])
    assert not got[2].any()


def whitened(values: list[float], lengths: list[int]) -> list[float]:
    """Of a tensor with one entry a token."""
    tokens = torch.tensor(values).double().repeat_interleave(torch.tensor(lengths))
    return [(value - tokens.mean().item()) / tokens.std().item() for value in values]


def test_reinforce_pp_whitens_over_the_tokens_of_the_batch():
    """Rollouts of 1, 3, 5 and 2 tokens in two groups; the invalid ones do not count."""
    groups = build_groups(
        torch.tensor([[1.0, 0, 0], [1, 1, 1]]).double(),
        torch.tensor([[True, True, False], [True, True, False]]),
    )
    groups = replace(groups, lengths=torch.tensor([[1, 3, 9], [5, 2, 9]]))
    got = reinforce_pp(groups)[groups.valid]
    assert got.tolist() == pytest.approx(whitened([1, 0, 1, 1], [1, 3, 5, 2]), rel=1e-6)
    got = reinforce_pp_baseline(groups)[groups.valid]
    assert got.tolist() == pytest.approx(whitened([0.5, -0.5, 0, 0], [1, 3, 5, 2]), rel=1e-6)
    assert not reinforce_pp(with_correct(8)).any()


def test_a_grae_depends_on_the_accuracy_of_the_batch():
    """Groups with p = 1/4 and 3/4 and two none-solved or all-solved groups, by hand."""
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


def test_a_grae_weighs_groups_equally_in_the_accuracy_of_the_batch():
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).double()
    valid = torch.tensor([[True] * 4, [True, True, True, False], [False] * 4])
    got = a_grae(build_groups(rewards, valid))
    w = (1 / 4 + 2 / 3) / 2  # not 3/7, the mean over all rollouts
    focus = w / 2 / math.sqrt(1 / 4) + (1 - w) / 2 / math.sqrt(3 / 4)
    assert got[0, 1].item() == pytest.approx(-0.25 / 0.5 * focus, rel=1e-5)
    assert not got[2].any()


def test_unlikeliness_by_hand():
    """Ranks 3, 0, 2, 1 of 4 with beta 1: rewards 1/4, 0 (wrong), 1/2, 0 (wrong)."""
    groups = build_groups(
        torch.tensor([[1.0, 0, 1, 0]]).double(),
        mean_logprobs=torch.tensor([[-0.1, -0.9, -0.2, -0.3]]).double(),
    )
    std = math.sqrt((1 / 16**2 + 3**2 / 16**2 + 5**2 / 16**2 + 3**2 / 16**2) / 3)
    expected = [x / 16 / std for x in (1, -3, 5, -3)]
    assert unlikeliness(groups, beta=1.0)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_unlikeliness_prefers_unlikely_answers_in_all_solved_groups():
    got = unlikeliness(with_correct(0, 4, size=4))  # log-probs rise: ranks 0, 1, 2, 3
    assert not got[0].any()
    # rewards 16, 15, 14, 13 sixteenths: deviations 1.5, .5, -.5, -1.5, sample std sqrt(5 / 3)
    expected = [x / math.sqrt(5 / 3) for x in (1.5, 0.5, -0.5, -1.5)]
    assert got[1].tolist() == pytest.approx(expected, rel=1e-4)


@given(groups=random_groups())
def test_unlikeliness_is_grpo_if_beta_is_zero_or_all_ranks_are_equal(groups):
    expected = grpo_sample_std(groups)
    torch.testing.assert_close(unlikeliness(groups, beta=0.0), expected, **EXACT)
    tied = build_groups(groups.rewards, mean_logprobs=torch.zeros_like(groups.rewards))
    # equal ranks scale all rewards equally, which the std cancels up to its epsilon
    torch.testing.assert_close(unlikeliness(tied, beta=0.5), expected, rtol=1e-4, atol=1e-8)


@given(groups=random_groups())
@pytest.mark.parametrize("name", ["grpo_sample_std", "dr_grpo", "rloo", "maxrl", "unlikeliness"])
def test_centred_estimators_add_up_to_zero_in_every_group(name, groups):
    assert estimate(name, groups).sum(1).abs().max() < 1e-8
