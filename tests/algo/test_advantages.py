"""Properties of the advantage estimators, in fp64."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asymrl.algo.advantages import (
    ADVANTAGES,
    a_grae,
    asym,
    dr_grpo,
    ent_decrease,
    ent_increase,
    grpo_sample_std,
    maxrl,
    ngrpo,
    qae,
    rloo,
    w_reinforce,
)
from tests.helpers.groups import EXACT, SETTINGS, estimate, make_groups, random_groups, with_correct

every_estimator = pytest.mark.parametrize("name", ADVANTAGES)
betas = st.floats(0, 2)


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
        # a_grae of that group alone, so w = p: by hand from grpo_sample_std above, times
        # (sqrt(p) + sqrt(1 - p)) / 2, and on the positive side times p
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
def test_half_half_is_the_group_standardised_reward(groups):
    mean = groups.rewards.mean(1, keepdim=True)
    std = groups.rewards.std(1, keepdim=True, correction=0)
    expected = (groups.rewards - mean) / std
    got = asym(groups, beta_pos=0.5, beta_neg=0.5)
    torch.testing.assert_close(got, expected, **EXACT)


@given(groups=random_groups())
def test_sample_std_is_the_definition_from_raw_rewards(groups):
    mean = groups.rewards.mean(1, keepdim=True)
    std = groups.rewards.std(1, keepdim=True, correction=1)
    expected = (groups.rewards - mean) / (std + 1e-6)
    torch.testing.assert_close(grpo_sample_std(groups), expected, rtol=0, atol=1e-10)


@given(groups=random_groups(mixed=True))
def test_one_zero_is_maxrl_on_mixed_groups(groups):
    p = groups.rewards.mean(1, keepdim=True)
    got = asym(groups, beta_pos=1.0, beta_neg=0.0)
    torch.testing.assert_close(got, (groups.rewards - p) / p, rtol=0, atol=1e-10)
    torch.testing.assert_close(maxrl(groups), got * p / (p + 1e-6), rtol=0, atol=1e-10)


@given(groups=random_groups(mixed=True))
def test_the_sample_std_makes_grpo_smaller_by_a_known_factor(groups):
    size = groups.rewards.shape[1]
    got, half = grpo_sample_std(groups), asym(groups, beta_pos=0.5, beta_neg=0.5)
    torch.testing.assert_close(got, half * math.sqrt((size - 1) / size), rtol=1e-5, atol=0)


@every_estimator
def test_a_group_of_two_has_both_signs_the_right_way_round(name):
    row = estimate(name, with_correct(1, size=2))[0]
    assert row[0] >= 0 >= row[1]
    assert row.any()


@given(groups=random_groups(mixed=True), beta_pos=st.floats(0, 1))
def test_mean_is_zero_if_the_betas_add_up_to_one(groups, beta_pos):
    means = asym(groups, beta_pos=beta_pos, beta_neg=1 - beta_pos).mean(1)
    assert means.abs().max() < 1e-10


@given(size=st.integers(3, 12), data=st.data(), beta_pos=betas, beta_neg=betas)
def test_mean_leans_the_way_that_the_sum_of_the_betas_says(size, data, beta_pos, beta_neg):
    """p A_pos / ((1 - p) |A_neg|) = ((1 - p) / p) ** (beta_pos + beta_neg - 1)."""
    num_correct = data.draw(st.integers(1, size - 1).filter(lambda k: 2 * k != size))
    lean = (beta_pos + beta_neg - 1) * math.log((size - num_correct) / num_correct)
    mean = asym(with_correct(num_correct, size=size), beta_pos=beta_pos, beta_neg=beta_neg).mean()
    if abs(lean) > 1e-6:
        assert mean.sign() == math.copysign(1, lean)


@given(groups=random_groups())
def test_zero_betas_are_plus_and_minus_one_on_every_group(groups):
    assert torch.equal(asym(groups, beta_pos=0.0, beta_neg=0.0), 2 * groups.rewards - 1)


@pytest.mark.parametrize("beta", [1e-3, 0.4, 0.9, 3.0])
def test_uniform_groups_get_exactly_zero_at_positive_betas(beta):
    assert not asym(with_correct(0, 8), beta_pos=beta, beta_neg=beta).any()


def test_one_zero_beta_keeps_the_gradient_of_its_own_uniform_groups():
    assert torch.equal(
        asym(with_correct(0, 8), beta_pos=0.5, beta_neg=0.0)[:, 0], torch.tensor([-1.0, 0]).double()
    )
    assert torch.equal(
        asym(with_correct(0, 8), beta_pos=0.0, beta_neg=0.5)[:, 0], torch.tensor([0, 1.0]).double()
    )


def test_flips_have_the_linear_ends_of_appendix_c():
    end = 2 * math.sqrt(7) - math.sqrt(3)
    assert end == pytest.approx(3.559, abs=5e-4)
    decreased, increased = ent_decrease(with_correct(0, 8)), ent_increase(with_correct(0, 8))
    torch.testing.assert_close(decreased[1], torch.full_like(decreased[1], end), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        increased[0], torch.full_like(decreased[1], -end), rtol=0, atol=1e-10
    )
    assert not decreased[0].any()
    assert not increased[1].any()


@given(size=st.integers(3, 12), beta_pos=betas, beta_neg=betas)
def test_flips_end_on_the_line_of_their_last_segment(size, beta_pos, beta_neg):
    groups = with_correct(0, 1, 2, size - 2, size - 1, size, size=size)
    plain = asym(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    decreased = ent_decrease(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    increased = ent_increase(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    # The flipped value at the end's two neighbours is the plain one at their mirror images.
    end = 2 * plain[1, 0] - plain[2, 0]
    torch.testing.assert_close(decreased[5, 0], end, rtol=1e-10, atol=1e-10)
    end = 2 * plain[4, -1] - plain[3, -1]
    torch.testing.assert_close(increased[0, -1], end, rtol=1e-10, atol=1e-10)


@given(groups=random_groups(mixed=True), beta_pos=betas, beta_neg=betas)
def test_flips_reflect_one_channel_and_leave_the_other(groups, beta_pos, beta_neg):
    plain = asym(groups, beta_pos=beta_pos, beta_neg=beta_neg)
    mirrored = make_groups(1 - groups.rewards.flip(1))  # p -> 1 - p, correct rollouts first again
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
def test_a_lone_valid_rollout_has_nothing_to_be_compared_with(name, reward):
    groups = make_groups(torch.full((1, 4), reward).double(), torch.arange(4)[None] == 2)
    assert not estimate(name, groups).any()


@every_estimator
@given(groups=random_groups(), data=st.data())
def test_invalid_rollouts_leave_p_and_size_and_get_zero(name, groups, data):
    flags = st.lists(
        st.booleans(), min_size=groups.rewards.numel(), max_size=groups.rewards.numel()
    )
    valid = torch.tensor(data.draw(flags)).view_as(groups.rewards)
    for rewards, kept, logprobs in zip(groups.rewards, valid, groups.mean_logprobs, strict=True):
        got = estimate(name, make_groups(rewards[None], kept[None], logprobs[None]))[0]
        assert not got[~kept].any()
        if kept.any():
            alone = make_groups(rewards[kept][None], mean_logprobs=logprobs[kept][None])
            torch.testing.assert_close(got[kept], estimate(name, alone)[0], **EXACT)


@pytest.mark.parametrize("name", sorted(ADVANTAGES.keys() - {"a_grae"}))
@given(groups=random_groups())
def test_a_group_does_not_see_the_others(name, groups):
    """`a_grae` alone looks at the whole batch."""
    alone = [estimate(name, make_groups(rewards[None])) for rewards in groups.rewards]
    assert torch.equal(estimate(name, groups), torch.cat(alone))


@every_estimator
def test_what_an_invalid_rollout_holds_is_not_read(name):
    rewards = torch.tensor([[1.0, 0.0, math.nan, 7.0], [math.nan] * 4]).double()
    logprobs = torch.tensor([[-2.0, -1.0, math.nan, math.inf], [math.nan] * 4]).double()
    got = estimate(name, make_groups(rewards, rewards <= 1, logprobs))
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
    shuffled = make_groups(
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
def test_the_dtype_of_the_rewards_is_kept(name, dtype):
    groups = with_correct(0, 3, 8)
    got = estimate(name, make_groups(groups.rewards.to(dtype)))
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), estimate(name, groups), rtol=1e-5, atol=1e-6)


@every_estimator
def test_an_estimator_has_its_own_name_and_keyword_only_numbers(name):
    assert ADVANTAGES[name].__name__ == name
    first, *others = inspect.signature(ADVANTAGES[name]).parameters.values()
    assert first.name == "groups"
    assert all(p.kind is p.KEYWORD_ONLY and p.annotation is float for p in others)
    assert {p.name for p in others} >= set(SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", ["asym", "ent_increase", "ent_decrease"])
@pytest.mark.parametrize("negative", ["beta_pos", "beta_neg"])
def test_negative_betas_are_refused(name, negative):
    with pytest.raises(AssertionError, match="at least 0"):
        ADVANTAGES[name](with_correct(3), **{**SETTINGS[name], negative: -0.1})


@every_estimator
def test_rewards_other_than_zero_and_one_are_refused(name):
    with pytest.raises(AssertionError, match="0 or 1"):
        estimate(name, make_groups(torch.tensor([[0.5, 1.0]]).double()))
