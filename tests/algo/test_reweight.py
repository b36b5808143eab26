"""Reweighters: hand-computed tokens and properties of each, then properties shared by all."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args, get_origin

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asymrl.algo.reweight import (
    REWEIGHT,
    Quadrant,
    covariance_kernel,
    covariance_kernel_code,
    entropic_advantage,
    entropy_advantage,
    entropy_aware,
    high_entropy,
    none,
    quadrant,
    stare,
)
from asymrl.types import TokenGroups

EXACT = {"rtol": 0, "atol": 1e-10}
CASES = [
    ("none", {}),
    ("covariance_kernel", {"scope": "group"}),
    ("covariance_kernel", {"scope": "batch", "std": "sample"}),
    ("entropy_aware", {}),
    ("entropy_aware", {"alpha": 1.5, "std": "sample"}),
    *(("quadrant", {"which": which}) for which in get_args(Quadrant)),
    ("entropy_advantage", {}),
    ("entropic_advantage", {}),
    ("high_entropy", {}),
    ("covariance_kernel_code", {}),
    ("stare", {"share": 0.3, "negative_weight": 0.9, "entropy_below": 3.0}),
]
OF_THE_BATCH = ("high_entropy", "entropic_advantage", "stare")
every_case = pytest.mark.parametrize(
    ("name", "settings"), CASES, ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x))
)
FIELDS = ("advantages", "logprobs", "entropy", "loss_mask", "row", "group")


def make_tokens(
    advantages, *, logprobs=None, entropy=None, loss_mask=None, group=None
) -> TokenGroups:
    """fp64 tokens; by default of one group and with loss_mask 1."""
    advantages = torch.as_tensor(advantages, dtype=torch.float64)
    zeros = torch.zeros_like(advantages)

    def floats(values) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64)

    indices = torch.zeros(len(zeros)).long() if group is None else torch.as_tensor(group)
    return TokenGroups(
        advantages=advantages,
        logprobs=zeros if logprobs is None else floats(logprobs),
        entropy=zeros if entropy is None else floats(entropy),
        loss_mask=zeros + 1 if loss_mask is None else floats(loss_mask),
        row=indices,
        group=indices,
    )


def select(tokens: TokenGroups, index: Tensor) -> TokenGroups:
    return TokenGroups(**{field: getattr(tokens, field)[index] for field in FIELDS})


@st.composite
def random_tokens(draw, *, masked: bool = True) -> TokenGroups:
    """Up to 12 rollouts in up to 4 groups; each rollout has one advantage, of either sign or 0."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    num_rows = draw(st.integers(1, 12))
    group_of_row = torch.randint(0, 4, (num_rows,), generator=generator)
    advantage = torch.randn(num_rows, generator=generator).double()
    advantage = torch.where(torch.rand(num_rows, generator=generator) < 0.15, 0.0, advantage)
    row = torch.arange(num_rows).repeat_interleave(
        torch.randint(1, 9, (num_rows,), generator=generator)
    )
    valid = torch.rand(num_rows, generator=generator) < 0.8
    entropy = 2 * torch.rand(len(row), generator=generator).double()
    return TokenGroups(
        advantages=advantage[row],
        logprobs=-entropy * torch.rand(len(row), generator=generator),
        entropy=entropy,
        loss_mask=(valid[row] if masked else torch.ones_like(row)).double(),
        row=row,
        group=group_of_row[row],
    )


def close(got: Tensor, expected: Sequence[float]) -> None:
    torch.testing.assert_close(got, torch.tensor(expected, dtype=got.dtype), **EXACT)


def test_none_returns_the_advantages():
    tokens = make_tokens([0.3, -2.0, 0.0])
    assert torch.equal(none(tokens), tokens.advantages)


def test_entropic_advantage_by_hand():
    """Entropies 0 .. 10: Q(.1) = 1 and Q(.9) = 9, so h of 1, 5 and 9 is 0, 1/2 and 1. The first
    three tokens are a correct rollout, with w = 1, 2, 4; the next three a wrong one."""
    entropy = [1, 5, 9, 1, 5, 9, 0, 2, 3, 4, 6, 7, 8, 10, 5, 5, 5]
    ordered = sorted(entropy)
    low, high = (float(torch.tensor(ordered).double().quantile(q)) for q in (0.1, 0.9))
    h = [min(max((x - low) / (high - low), 0), 1) for x in entropy[:3]]
    tokens = make_tokens([0.7] * 3 + [-0.7] * 3 + [0.0] * 11, entropy=entropy)
    tokens = replace(tokens, row=torch.tensor([0] * 3 + [1] * 3 + [2] * 11))
    up = [4**x for x in h]
    down = [4**-x for x in h]
    expected = [0.7 * 3 * x / sum(up) for x in up] + [-0.7 * 3 * x / sum(down) for x in down]
    got = entropic_advantage(tokens)
    assert got[:6].tolist() == pytest.approx(expected, rel=1e-7)
    assert not got[6:].any()
    assert torch.equal(entropic_advantage(tokens, kappa=0.0), tokens.advantages)


@given(tokens=random_tokens())
def test_entropic_advantage_keeps_the_mean_of_each_rollout(tokens):
    got = entropic_advantage(tokens, kappa=3.0)
    for row in tokens.row[tokens.loss_mask > 0].unique():
        mine = tokens.row == row
        torch.testing.assert_close(got[mine].mean(), tokens.advantages[mine].mean(), **EXACT)


def test_covariance_kernel_by_hand():
    """c = 1, -1, 0, 0; sigma^2 = 1/2, so w = 1/e, 1/e, 1, 1 with mean (1 + 1/e) / 2."""
    tokens = make_tokens([1, 1, -1, -1], logprobs=[-1, -3, -2, -2])
    got = covariance_kernel(tokens)
    assert got.tolist() == pytest.approx([0.537883, 0.537883, -1.462117, -1.462117], abs=1e-6)
    # N - 1: sigma^2 = 2/3, so w = exp(-3/4), which is 0.472367
    got = covariance_kernel(tokens, std="sample")
    assert got.tolist() == pytest.approx([0.641643, 0.641643, -1.358357, -1.358357], abs=1e-6)


def test_covariance_kernel_centres_logprobs_advantages_and_sigma():
    """log pi - mean: 1, -2, 1; A - mean: 1, 1, -2; c = 1, -2, -2 with mean -1 and variance 2."""
    tokens = make_tokens([2, 2, -1], logprobs=[-1, -4, -1])
    w = [math.exp(-1 / 4), math.exp(-1), math.exp(-1)]
    close(covariance_kernel(tokens), [3 * x / sum(w) for x in (2 * w[0], 2 * w[1], -w[2])])


def test_covariance_kernel_takes_its_means_over_the_scope():
    """In each of the two groups all advantages are equal: covariance exists only between them."""
    tokens = make_tokens([1, 1, -1, -1], logprobs=[-1, -3, -2, -2], group=[0, 0, 1, 1])
    assert torch.equal(covariance_kernel(tokens, scope="group"), tokens.advantages)
    together = make_tokens(tokens.advantages, logprobs=tokens.logprobs)
    assert torch.equal(covariance_kernel(tokens, scope="batch"), covariance_kernel(together))
    assert not torch.equal(covariance_kernel(tokens, scope="batch"), tokens.advantages)


@given(tokens=random_tokens(), scope=st.sampled_from(["group", "batch"]))
def test_covariance_weights_average_one_over_the_scope(tokens, scope):
    nonzero = select(tokens, tokens.advantages != 0)
    weights = covariance_kernel(nonzero, scope=scope) / nonzero.advantages
    part = nonzero.group if scope == "group" else torch.zeros_like(nonzero.group)
    assert bool((weights >= 0).all())
    for index in part[nonzero.loss_mask > 0].unique():
        in_part = (part == index) & (nonzero.loss_mask > 0)
        torch.testing.assert_close(weights[in_part].mean().item(), 1.0, **EXACT)


@given(tokens=random_tokens(masked=False))
def test_a_larger_covariance_of_either_sign_gets_less_weight(tokens):
    tokens = select(tokens, tokens.advantages != 0)
    centred = tokens.logprobs - tokens.logprobs.mean()
    size = (centred * (tokens.advantages - tokens.advantages.mean())).abs()
    weights = covariance_kernel(tokens, scope="batch") / tokens.advantages
    assert bool((weights[size.argsort()].diff() <= 1e-9).all())


@pytest.mark.parametrize("advantage", [0.1, -0.7, 0.0])
def test_covariance_weights_are_one_if_advantages_or_logprobs_are_equal(advantage):
    tokens = make_tokens([advantage] * 7, logprobs=[-0.1, -0.2, -0.3, -1.7, -0.7, -2.9, -4])
    assert torch.equal(covariance_kernel(tokens), tokens.advantages)
    same = make_tokens([0.1, 0.7, -0.3, 0.1, 0.9], logprobs=[-0.1] * 5)
    assert torch.equal(covariance_kernel(same), same.advantages)


def test_covariance_weights_are_one_if_covariances_are_equal():
    """Two tokens always have the same c, here up to rounding, so sigma is 0."""
    tokens = make_tokens([-0.3, -1.0], logprobs=[-3.4, -3.0])
    close(covariance_kernel(tokens), [-0.3, -1.0])


def test_covariance_weights_are_finite_if_covariances_hardly_vary():
    """exp(-c^2 / (2 sigma^2)) underflows to 0 for all of these tokens; their ratios do not."""
    tokens = make_tokens([1, 1, -1, -1], logprobs=[-1, -1 - 1e-3, -3, -3 - 1e-3])
    got = covariance_kernel(tokens)
    assert bool(got.isfinite().all())
    assert (got / tokens.advantages).mean().item() == pytest.approx(1)


def published_objective(logprobs: list[Tensor], advantages: list[float]) -> Tensor:
    """The objective of CW-GRPO's published code for one group, written out row by row, at ratio 1
    with its gradient. logprobs: one tensor a rollout."""
    mean_advantage = sum(advantages) / len(advantages)
    c = [(x - x.mean()) * (a - mean_advantage) for x, a in zip(logprobs, advantages, strict=True)]
    flat = torch.cat(c)
    sigma = flat.std(unbiased=False) + 1e-8
    w = [(-(x**2) / (2 * sigma**2)).exp() for x in c]
    padded = len(w) * max(len(x) for x in w)
    total = torch.cat(w).sum()
    terms = [
        (x * padded / total * (y - y.detach()).exp() * a).mean()
        for x, y, a in zip(w, logprobs, advantages, strict=True)
    ]
    return torch.stack(terms).mean()


def test_covariance_kernel_code_has_the_gradient_of_the_published_objective():
    """Two groups of different lengths; A' / (tokens of the rollout x rollouts) is the gradient."""
    generator = torch.Generator().manual_seed(0)
    lengths, advantages = [[3, 1, 4], [2, 5]], [[1.2, -0.4, -0.8], [0.7, -0.7]]
    logprobs = [[-torch.rand(n, generator=generator).double() for n in part] for part in lengths]
    expected = []
    for part, a in zip(logprobs, advantages, strict=True):
        leaves = [x.clone().requires_grad_() for x in part]
        objective = published_objective(leaves, a) * len(a) / 5  # a mean over all five rollouts
        expected += torch.autograd.grad(objective, leaves)
    rows = [n for part in lengths for n in part]
    row = torch.arange(5).repeat_interleave(torch.tensor(rows))
    tokens = make_tokens(
        torch.tensor([a for part in advantages for a in part], dtype=torch.float64)[row],
        logprobs=torch.cat([x for part in logprobs for x in part]),
        group=torch.tensor([0, 0, 0, 1, 1])[row],
    )
    got = covariance_kernel_code(replace(tokens, row=row))
    as_gradient = got / (torch.tensor(rows)[row] * 5)
    torch.testing.assert_close(as_gradient, torch.cat(expected), rtol=1e-9, atol=1e-12)


def test_covariance_kernel_code_is_finite_where_nothing_varies():
    tokens = make_tokens([0.0] * 3, logprobs=[-1, -2, -3])
    close(covariance_kernel_code(tokens), [0, 0, 0])
    equal = replace(make_tokens([1, 1, -1, -1]), row=torch.tensor([0, 0, 1, 1]))
    close(covariance_kernel_code(equal), [1, 1, -1, -1])


def test_stare_by_hand():
    """Of four tokens with A > 0, ceil(.5 x 4) = 2; of three with A < 0, ceil(.5 x 3) = 2."""
    tokens = make_tokens(
        [1, 1, 2, 2, -1, -1, -1, 0],
        logprobs=[-1, -4, -3, -2, -1, -2, -3, -9],
        entropy=[0.2] * 8,
    )
    close(stare(tokens, share=0.5), [1, 1.1, 2.2, 2, -1, -1, -1, 0])
    second_form = stare(tokens, share=0.5, negative_weight=0.9)
    close(second_form, [1, 1.1, 2.2, 2, -1, -0.9, -0.9, 0])
    assert torch.equal(stare(tokens, share=0.5, entropy_below=0.2), tokens.advantages)
    assert torch.equal(stare(tokens, share=0.0), tokens.advantages)
    close(stare(tokens, share=0.1), [1, 1.1, 2, 2, -1, -1, -1, 0])


def test_entropy_aware_by_hand():
    """z = -1, 1, -1, 1 in both groups; the bound is 1/2 in the first and 2 in the second."""
    tokens = make_tokens(
        [1, 1, -1, -1, 4, 4, -4, -4], entropy=[1, 3] * 4, group=[0, 0, 0, 0, 1, 1, 1, 1]
    )
    close(entropy_aware(tokens), [0.9, 1.1, -0.9, -1.1, 3.8, 4.2, -3.8, -4.2])
    close(entropy_aware(tokens, phi=8.0)[:4], [0.975, 1.025, -0.975, -1.025])
    close(entropy_aware(tokens, alpha=0.5)[4:], [3.5, 4.5, -3.5, -4.5])
    z = math.sqrt(3) / 2  # with N - 1 = 3: std 2 / sqrt(3)
    close(entropy_aware(tokens, std="sample")[4:6], [4 - 0.2 * z, 4 + 0.2 * z])


@given(tokens=random_tokens(), alpha=st.floats(0, 1.9), phi=st.floats(0.5, 4))
def test_entropy_aware_multiplies_within_its_bounds(tokens, alpha, phi):
    nonzero = (tokens.advantages != 0) & (tokens.loss_mask > 0)
    multiplier = (entropy_aware(tokens, alpha=alpha, phi=phi) / tokens.advantages)[nonzero]
    assert bool((multiplier >= 1 - alpha / phi - 1e-12).all())
    assert bool((multiplier <= 1 + alpha / phi + 1e-12).all())
    by_default = (entropy_aware(tokens) / tokens.advantages)[nonzero]
    assert bool(((by_default >= 0.9 - 1e-12) & (by_default <= 1.1 + 1e-12)).all())


@given(tokens=random_tokens(masked=False))
def test_entropy_aware_saturates_where_z_reaches_half_the_advantage(tokens):
    tokens = select(tokens, tokens.advantages != 0)
    got = entropy_aware(tokens)
    for index in tokens.group.unique():
        in_group = tokens.group == index
        entropy, advantages = tokens.entropy[in_group], tokens.advantages[in_group]
        std = entropy.std(correction=0)
        z = (entropy - entropy.mean()) / std if std > 0 else torch.zeros_like(entropy)
        saturated = ((got[in_group] / advantages - 1).abs() - 0.1).abs() < 1e-12
        beyond = z.abs() - advantages.abs() / 2
        assert bool((saturated == (beyond >= 0))[beyond.abs() > 1e-9].all())


def test_entropy_aware_does_not_change_groups_with_equal_entropies():
    tokens = make_tokens([1, -1, 2, -3], entropy=[0.1] * 3 + [0.7], group=[0, 0, 0, 1])
    for std in ("population", "sample"):
        assert torch.equal(entropy_aware(tokens, std=std), tokens.advantages)


def test_quadrants_by_hand():
    """The group means are 3 and 2. A token at the mean is high; A = 0 is in no quadrant."""
    tokens = make_tokens(
        [1, 1, -1, 1, -2, -2, 0], entropy=[1, 2, 6, 2, 1, 3, 2], group=[0, 0, 0, 1, 1, 1, 1]
    )
    close(quadrant(tokens, which="phr"), [0, 0, 0, 1, 0, 0, 0])
    close(quadrant(tokens, which="plr"), [1, 1, 0, 0, 0, 0, 0])
    close(quadrant(tokens, which="nhr"), [0, 0, -1, 0, 0, -2, 0])
    close(quadrant(tokens, which="nlr"), [0, 0, 0, 0, -2, 0, 0])


@given(tokens=random_tokens())
def test_the_four_quadrants_add_up_to_the_advantages(tokens):
    parts = torch.stack([quadrant(tokens, which=which) for which in get_args(Quadrant)])
    assert torch.equal(parts.sum(0), none(tokens))
    assert bool(((parts != 0).sum(0) <= 1).all())


@pytest.mark.parametrize("entropy", [0.1, 0.7, 1 / 3])
def test_all_tokens_are_high_if_all_entropies_are_equal(entropy):
    tokens = make_tokens([1.0] * 4 + [-1.0] * 3, entropy=[entropy] * 7)
    whole = quadrant(tokens, which="phr") + quadrant(tokens, which="nhr")
    assert torch.equal(whole, tokens.advantages)


def test_entropy_advantage_by_hand():
    """alpha H is 0.2 or 0.8; the cap |A| / 2 is 0.5, or 0 where A = 0."""
    tokens = make_tokens([1, 1, -1, -1, 0], entropy=[0.5, 2, 0.5, 2, 2])
    close(entropy_advantage(tokens), [1.2, 1.5, -0.8, -0.5, 0])
    close(entropy_advantage(tokens, alpha=0.1, kappa=1.0), [1.05, 1.2, -0.95, -0.8, 0])


def test_high_entropy_by_hand():
    """0.8 * 9 = 7.2: two of ten; 0.8 * 10 = 8: three of eleven; all tied tokens stay."""
    ten = make_tokens([1.0, -1.0] * 5, entropy=[9, 0, 3, 8, 4, 5, 1, 2, 7, 6])
    close(high_entropy(ten), [1, 0, 0, -1, 0, 0, 0, 0, 0, 0])
    eleven = make_tokens([1.0] * 11, entropy=range(11))
    close(high_entropy(eleven), [0] * 8 + [1] * 3)
    # 0.3 * 10 is 3 plus a rounding error: eight of eleven
    close(high_entropy(eleven, rho=0.7), [0] * 3 + [1] * 8)
    ties = make_tokens([1.0, -1, 1, -1, 1], entropy=[2, 2, 0, 2, 1])
    close(high_entropy(ties), [1, -1, 0, -1, 0])
    assert torch.equal(high_entropy(ten, rho=1.0), ten.advantages)


@given(tokens=random_tokens(), rho=st.sampled_from([0.05, 0.2, 0.3, 0.5, 0.9, 1.0]))
def test_high_entropy_keeps_tokens_at_or_above_the_interpolated_quantile(tokens, rho):
    in_loss = tokens.loss_mask > 0
    if in_loss.any():
        threshold = tokens.entropy[in_loss].quantile(1 - rho)
        margin = (tokens.entropy - threshold).abs() > 1e-9
        high = in_loss & (tokens.entropy >= threshold)
        expected = torch.where(high, tokens.advantages, 0.0)
        assert torch.equal(high_entropy(tokens, rho=rho)[margin], expected[margin])


@every_case
@given(tokens=random_tokens())
def test_masked_tokens_are_not_read_and_get_zero(name, settings, tokens):
    in_loss = tokens.loss_mask > 0
    poisoned = {
        field: torch.where(in_loss, getattr(tokens, field), math.nan)
        for field in ("advantages", "logprobs", "entropy")
    }
    got = REWEIGHT[name](
        TokenGroups(**poisoned, loss_mask=tokens.loss_mask, row=tokens.row, group=tokens.group),
        **settings,
    )
    assert torch.equal(got[~in_loss], torch.zeros_like(got[~in_loss]))
    without = REWEIGHT[name](select(tokens, in_loss), **settings)
    torch.testing.assert_close(got[in_loss], without, **EXACT)


@every_case
@given(tokens=random_tokens())
def test_signs_do_not_change(name, settings, tokens):
    got = REWEIGHT[name](tokens, **settings)
    assert bool(got.isfinite().all())
    if name != "covariance_kernel_code":  # its gradient through the weights has any sign
        assert bool((got * tokens.advantages >= 0).all())
        assert not got[tokens.advantages == 0].any()


@every_case
@given(tokens=random_tokens(), seed=st.integers(0, 99))
def test_the_order_of_tokens_does_not_matter(name, settings, tokens, seed):
    order = torch.randperm(len(tokens.row), generator=torch.Generator().manual_seed(seed))
    got = REWEIGHT[name](select(tokens, order), **settings)
    torch.testing.assert_close(got, REWEIGHT[name](tokens, **settings)[order], **EXACT)


@pytest.mark.parametrize(
    ("name", "settings"), [c for c in CASES if c[0] not in OF_THE_BATCH and "batch" not in str(c)]
)
@given(tokens=random_tokens())
def test_groups_do_not_affect_each_other(name, settings, tokens):
    whole = REWEIGHT[name](tokens, **settings)
    for index in tokens.group.unique():
        in_group = tokens.group == index
        alone = REWEIGHT[name](select(tokens, in_group), **settings)
        torch.testing.assert_close(whole[in_group], alone, **EXACT)


@every_case
def test_only_masked_tokens_or_no_tokens_are_valid_input(name, settings):
    tokens = make_tokens([1, -1], logprobs=[-1, -2], entropy=[1, 2], loss_mask=[0, 0])
    assert REWEIGHT[name](tokens, **settings).tolist() == [0, 0]
    assert REWEIGHT[name](make_tokens([]), **settings).tolist() == []


@every_case
@given(tokens=random_tokens())
def test_arguments_are_not_mutated_and_the_result_is_new(name, settings, tokens):
    before = {field: getattr(tokens, field).clone() for field in FIELDS}
    REWEIGHT[name](tokens, **settings).add_(1)
    assert all(torch.equal(getattr(tokens, field), value) for field, value in before.items())


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_advantages_and_no_gradient(name, settings, dtype):
    numbers = torch.tensor([0.5, -1.25, 0.75]).to(dtype).requires_grad_()
    index = torch.zeros(3).long()
    tokens = TokenGroups(
        advantages=numbers,
        logprobs=numbers - 2,
        entropy=numbers.abs(),
        loss_mask=torch.ones(3),
        row=index,
        group=index,
    )
    got = REWEIGHT[name](tokens, **settings)
    assert got.dtype == dtype
    assert not got.requires_grad


@pytest.mark.parametrize("name", REWEIGHT)
def test_reweighters_are_listed_by_name_and_take_typed_keywords(name):
    assert REWEIGHT[name].__name__ == name
    first, *others = inspect.signature(REWEIGHT[name]).parameters.values()
    assert first.name == "tokens"
    for parameter in others:
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.annotation in (float, bool) or get_origin(parameter.annotation) is Literal


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("entropy_aware", {"alpha": -0.1}),
        ("entropy_aware", {"phi": 0.0}),
        ("entropy_advantage", {"alpha": -0.1}),
        ("entropy_advantage", {"kappa": 0.0}),
        ("high_entropy", {"rho": 0.0}),
        ("high_entropy", {"rho": 1.1}),
    ],
)
def test_numbers_out_of_range_raise(name, settings):
    with pytest.raises(AssertionError, match=next(iter(settings))):
        REWEIGHT[name](make_tokens([1, -1], entropy=[1, 2]), **settings)
