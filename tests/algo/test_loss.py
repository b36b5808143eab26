"""Token losses, what divides them, and importance weights: hand numbers and properties."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asymrl.algo.diagnostics import BINS, NUM_ACCURACY_BINS
from asymrl.algo.loss import (
    AGGREGATIONS,
    IMPORTANCE_LEVELS,
    LOSSES,
    KLEstimator,
    TokenLoss,
    covariance,
    importance_weights,
    kl_to_reference,
    loss_denominators,
    policy_loss,
    ppo_clip,
)
from asymrl.types import Batch, LossInputs, LossOutputs

CLIP = partial(ppo_clip, clip_low=0.2, clip_high=0.28)
LOSS = partial(policy_loss, token_loss=CLIP)
every_aggregation = pytest.mark.parametrize("aggregation", AGGREGATIONS)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tokens(ratio: Tensor, advantages: Tensor, **changes: Tensor) -> LossInputs:
    """Tokens of one row with these ratios; loss_mask and loss_denominators are 1."""
    ones, row = torch.ones_like(ratio), torch.zeros(len(ratio), dtype=torch.long)
    batch = minibatch(row, advantages, changes.get("old_logprobs", -2 * ones), ones)
    inputs = LossInputs(
        logprobs=(ratio.log() - 2).requires_grad_(),
        old_logprobs=-2 * ones,
        advantages=advantages,
        entropy=ones.clone().requires_grad_(),
        loss_mask=ones,
        row=row,
        group=row[:1],
        accuracy_bin=row[:1],
        loss_denominators=ones,
        reference_logprobs=None,
        minibatch=batch,
        tokens=torch.arange(len(ratio)),
    )
    return dataclasses.replace(inputs, **changes)


def minibatch(row: Tensor, advantages: Tensor, old_logprobs: Tensor, loss_mask: Tensor) -> Batch:
    """The fields of a mini-batch that token losses read; a group a row."""
    rows = torch.arange(int(row.max()) + 1 if len(row) else 0)
    return Batch(
        sequences=[[0]] * len(rows),
        prompt_lengths=torch.ones_like(rows),
        group=rows,
        row=row,
        targets=torch.zeros_like(row),
        advantages=advantages,
        old_logprobs=old_logprobs,
        old_entropy=torch.ones_like(old_logprobs),
        loss_mask=loss_mask,
        loss_denominators=torch.ones_like(loss_mask),
        has_gradient=torch.ones_like(rows, dtype=torch.bool),
        accuracy_bin=torch.zeros_like(rows),
    )


def gradient(output: LossOutputs, inputs: LossInputs) -> Tensor:
    return torch.autograd.grad(output.loss, inputs.logprobs)[0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        # slope is d loss / d logprob = -ratio * A where the clip does not bind, else 0
        (0.5, 2.0, -1.0, -1.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.56, 0.0),
        (0.5, -2.0, 1.6, 0.0),
        (0.9, -2.0, 1.8, 1.8),
        (1.5, -2.0, 3.0, 3.0),
        (1.0, 2.0, -2.0, -2.0),
        (1.0, -2.0, 2.0, 2.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_ppo_clip_of_one_token_by_hand(ratio, advantage, loss, slope):
    inputs = tokens(tensor(ratio), tensor(advantage))
    output = LOSS(inputs)
    assert output.loss.item() == pytest.approx(loss, abs=1e-10)
    assert gradient(output, inputs).item() == pytest.approx(slope, abs=1e-10)


def test_there_is_no_dual_clip():
    inputs = tokens(tensor(50.0), tensor(-1.0))
    output = LOSS(inputs)
    assert output.loss.item() == pytest.approx(50.0)
    assert gradient(output, inputs).item() == pytest.approx(50.0)


@pytest.mark.parametrize("log_ratio", [-1e4, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_extreme_log_ratios_stay_finite(log_ratio, advantage):
    logprobs = tensor(log_ratio - 2).requires_grad_()
    inputs = tokens(tensor(1.0), tensor(advantage), logprobs=logprobs)
    output = LOSS(inputs)
    finite = [output.loss, gradient(output, inputs), output.maxima["loss/ratio_max"]]
    finite += [total for total, _ in output.metrics.values()]
    assert all(value.isfinite().all() for value in finite)


def test_loss_is_the_masked_sum_over_denominators():
    inputs = tokens(
        tensor(1.1, 0.9, 1.0),
        tensor(2.0, -2.0, 5.0),
        loss_mask=tensor(1.0, 1.0, 0.0),
        loss_denominators=tensor(4.0, 2.0, 1.0),
    )
    output = LOSS(inputs)
    assert output.loss.item() == pytest.approx(-2.2 / 4 + 1.8 / 2, abs=1e-10)
    expected = tensor(-2.2 / 4, 1.8 / 2, 0.0)
    torch.testing.assert_close(gradient(output, inputs), expected, rtol=0, atol=1e-10)


def test_entropy_bonus_raises_entropy_and_is_aggregated_like_the_loss():
    inputs = tokens(
        tensor(1.0, 1.0, 1.0),
        tensor(0.0, 0.0, 0.0),
        entropy=tensor(1.0, 3.0, 5.0).requires_grad_(),
        loss_mask=tensor(1.0, 1.0, 0.0),
        loss_denominators=tensor(4.0, 2.0, 1.0),
    )
    output = LOSS(inputs, entropy_bonus=0.1)
    assert output.loss.item() == pytest.approx(-0.1 * (1 / 4 + 3 / 2), abs=1e-10)
    (slope,) = torch.autograd.grad(output.loss, inputs.entropy)
    torch.testing.assert_close(slope, tensor(-0.1 / 4, -0.1 / 2, 0.0), rtol=0, atol=1e-10)


def test_without_a_bonus_the_entropy_gets_no_gradient():
    inputs = tokens(tensor(1.0), tensor(1.0))
    LOSS(inputs).loss.backward()
    assert inputs.logprobs.grad is not None
    assert inputs.entropy.grad is None


def test_metrics_by_hand_count_only_unmasked_tokens():
    inputs = tokens(
        #      low A<0, low A>0, high A>0, high A<0, inside, high A=0, low A=0, masked, masked
        tensor(0.5, 0.5, 1.5, 1.5, 1.25, 1.4, 0.6, 9.0, 0.1),
        tensor(-1.0, 1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 1.0, -1.0),
        loss_mask=tensor(1, 1, 1, 1, 1, 1, 1, 0, 0),
    )
    output = LOSS(inputs)
    got = {name: (total.item(), count.item()) for name, (total, count) in output.metrics.items()}
    assert got == {
        "loss/clip_fraction_low": (1.0, 7),
        "loss/clip_fraction_high": (1.0, 7),
    }
    assert output.maxima["loss/ratio_max"].item() == pytest.approx(1.5)


def test_pressure_is_the_size_of_the_gradient_by_accuracy_bin():
    """The sum of |d loss / d logprob| over the tokens of each bin; clipped tokens add 0."""
    ratio, advantages = tensor(0.5, 1.1, 1.5, 0.5, 1.5), tensor(2, 2, 2, -3, -3)
    rows = torch.tensor([0, 0, 1, 2, 2])
    inputs = tokens(ratio, advantages, row=rows, accuracy_bin=torch.tensor([20, 20, 3]))
    inputs = dataclasses.replace(inputs, loss_denominators=tensor(1, 2, 1, 1, 4))
    masked = dataclasses.replace(inputs, loss_mask=tensor(0, 1, 1, 1, 1))
    assert LOSS(masked).by_accuracy_bin["pressure"][20].item() == pytest.approx(1.1)
    beyond_clamp = tokens(tensor(1.0), tensor(-1), accuracy_bin=torch.tensor([3]))
    beyond_clamp = dataclasses.replace(beyond_clamp, logprobs=beyond_clamp.old_logprobs + 25)
    assert LOSS(beyond_clamp).by_accuracy_bin["pressure"].sum() == 0
    output = LOSS(inputs)
    pressure = output.by_accuracy_bin["pressure"]
    assert pressure[20].item() == pytest.approx(0.5 * 2 + 1.1 * 2 / 2)  # the third token is clipped
    assert pressure[3].item() == pytest.approx(1.5 * 3 / 4)  # the fourth token is clipped
    assert pressure.sum() == gradient(output, inputs).abs().sum()
    assert len(pressure) == NUM_ACCURACY_BINS == 2 * (BINS + 1)


def test_metrics_carry_no_graph():
    output = LOSS(tokens(tensor(0.5, 1.5), tensor(-1.0, 1.0)))
    assert output.loss.requires_grad
    values = [*output.maxima.values(), *(x for pair in output.metrics.values() for x in pair)]
    assert not any(value.requires_grad for value in values)


def test_an_empty_micro_batch_gives_zero_with_a_graph():
    inputs = tokens(tensor(), tensor())
    output = LOSS(inputs, entropy_bonus=0.1)
    assert output.loss.item() == 0
    assert gradient(output, inputs).shape == (0,)
    assert all(total == 0 and count == 0 for total, count in output.metrics.values())
    assert output.maxima["loss/ratio_max"] == 0


def test_arguments_are_not_mutated():
    inputs = tokens(tensor(0.5, 1.5), tensor(-1.0, 1.0))
    named = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    before = {name: value.clone() for name, value in named.items() if isinstance(value, Tensor)}
    LOSS(inputs, entropy_bonus=0.1).loss.backward()
    assert all(torch.equal(getattr(inputs, name), value) for name, value in before.items())


# Four rows with 2, 1, 3 and 2 tokens, of the prompts 7, 7, 5 and 9. One token of row 2 and all of
# row 3 are masked, so 5 tokens count: 3 rows of 2 prompts, which have 3 and 2 tokens.
ROW = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3])
GROUP = torch.tensor([7, 7, 5, 9])
LOSS_MASK = tensor(1, 1, 1, 1, 0, 1, 0, 0)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", (5, 5, 5, 5, 1, 5, 1, 1)),
        ("prompt_mean", (6, 6, 6, 4, 1, 4, 1, 1)),
        ("seq_mean", (6, 6, 3, 6, 1, 6, 1, 1)),
        ("constant", (30, 30, 30, 30, 1, 30, 1, 1)),
    ],
)
def test_denominators_by_hand(aggregation, expected):
    got = loss_denominators(LOSS_MASK, ROW, GROUP, aggregation=aggregation, constant_length=10)
    assert torch.equal(got, tensor(*expected))


@pytest.mark.parametrize("aggregation", ["token_mean", "prompt_mean", "seq_mean"])
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data())
def test_denominators_make_each_aggregation_a_mean(aggregation, lengths, data):
    """Each aggregation is a mean, and a mean of ones is 1."""
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    group = torch.tensor([data.draw(st.integers(0, 3)) for _ in lengths])
    loss_mask = torch.tensor([data.draw(st.sampled_from([0.0, 1.0])) for _ in row]).double()
    loss_mask[0] = 1
    got = loss_denominators(loss_mask, row, group, aggregation=aggregation, constant_length=0)
    assert (loss_mask / got).sum().item() == pytest.approx(1, abs=1e-10)


@every_aggregation
def test_denominators_are_never_zero(aggregation):
    settings = {"aggregation": aggregation, "constant_length": 10}
    no_rows = torch.zeros(0, dtype=torch.long)
    assert loss_denominators(tensor(), no_rows, no_rows, **settings).shape == (0,)
    got = loss_denominators(torch.zeros_like(LOSS_MASK), ROW, GROUP, **settings)
    assert torch.equal(got, torch.ones_like(got))


def test_unknown_aggregations_and_bad_lengths_raise():
    with pytest.raises(AssertionError, match="token_mean"):
        loss_denominators(LOSS_MASK, ROW, GROUP, aggregation="mean", constant_length=10)
    with pytest.raises(AssertionError, match="at least 1"):
        loss_denominators(LOSS_MASK, ROW, GROUP, aggregation="constant", constant_length=0)


# Parameters with which a loss selects some of a few tokens.
SELECTIVE = {
    "gspo": {"clip_low": 0.1, "clip_high": 0.1},
    "clip_cov": {"share": 0.3, "cov_low": 0.2, "cov_high": 50.0},
    "kl_cov": {"share": 0.3},
    "flash_reinforce": {"max_kl": 0.05},
}


class MiniBatch:
    """Random rows under a policy with two parameters, whose gradient the test compares."""

    def __init__(self, lengths: list[int], num_prompts: int, aggregation: str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        self.group = torch.randint(num_prompts, (len(lengths),), generator=generator)
        size = len(self.row)
        self.features = torch.randn(size, 2, generator=generator, dtype=torch.float64)
        self.advantages = 3 * torch.randn(size, generator=generator, dtype=torch.float64)
        self.old_logprobs = -2 + torch.randn(size, generator=generator, dtype=torch.float64)
        self.reference_logprobs = -2 + torch.randn(size, generator=generator, dtype=torch.float64)
        self.loss_mask = (torch.rand(size, generator=generator) < 0.8).double()
        self.policy = tensor(0.3, -0.4).requires_grad_()
        self.accuracy_bin = torch.randint(NUM_ACCURACY_BINS, (len(lengths),), generator=generator)
        self.loss_denominators = loss_denominators(
            self.loss_mask, self.row, self.group, aggregation=aggregation, constant_length=7
        )

    def inputs(self, rows: list[int]) -> LossInputs:
        """A micro-batch of the rows in this order, renumbered from 0."""
        index = torch.cat([(self.row == r).nonzero()[:, 0] for r in rows])
        drift = self.features[index] @ self.policy
        return LossInputs(
            logprobs=self.old_logprobs[index] + drift,
            old_logprobs=self.old_logprobs[index],
            advantages=self.advantages[index],
            entropy=drift.square(),
            loss_mask=self.loss_mask[index],
            row=torch.tensor([rows.index(r) for r in self.row[index].tolist()]),
            group=self.group[rows],
            accuracy_bin=self.accuracy_bin[rows],
            loss_denominators=self.loss_denominators[index],
            reference_logprobs=self.reference_logprobs[index],
            minibatch=minibatch(self.row, self.advantages, self.old_logprobs, self.loss_mask),
            tokens=index,
        )

    def results(self, token_loss: TokenLoss, split: list[list[int]]) -> Tensor:
        """Loss, gradient, metrics (sum, count), maximum and pressure, summed over micro-batches."""
        outputs = [
            policy_loss(self.inputs(rows), token_loss=token_loss, entropy_bonus=0.1, kl_coef=0.3)
            for rows in split
        ]
        loss = torch.stack([output.loss for output in outputs]).sum()
        (slope,) = torch.autograd.grad(loss, self.policy)
        metrics = torch.tensor(
            [[total, count] for o in outputs for total, count in o.metrics.values()]
        ).double()
        maximum = max(output.maxima["loss/ratio_max"] for output in outputs)
        by_name = metrics.view(len(outputs), -1, 2).sum(0)
        pressure = torch.stack([output.by_accuracy_bin["pressure"] for output in outputs]).sum(0)
        return torch.cat([loss[None], slope, by_name.flatten(), maximum[None], pressure]).detach()


@pytest.mark.parametrize("name", LOSSES)
@every_aggregation
@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=2, max_size=7),
    num_prompts=st.integers(1, 4),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_splits_and_row_order_do_not_change_loss_gradient_or_metrics(
    name, aggregation, lengths, num_prompts, seed, data
):
    token_loss = partial(LOSSES[name], **SELECTIVE.get(name, {}))
    batch = MiniBatch(lengths, num_prompts, aggregation, seed)
    order = data.draw(st.permutations(range(len(lengths))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(lengths) - 1))))
    split = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(lengths)], strict=True)]
    whole = batch.results(token_loss, [list(range(len(lengths)))])
    torch.testing.assert_close(batch.results(token_loss, split), whole, rtol=1e-10, atol=1e-10)


def test_aggregations_differ_if_lengths_differ():
    losses = {
        name: MiniBatch([1, 4, 2, 3], 3, name, 1).results(ppo_clip, [[0, 1, 2, 3]])[0].item()
        for name in AGGREGATIONS
    }
    assert len({round(loss, 9) for loss in losses.values()}) == len(AGGREGATIONS)


POLICY = torch.tensor([-1.0, -2.0, -3.0, -0.5, -0.5])
ENGINE = torch.tensor([-1.5, -1.0, -3.0, -3.5, -0.4])
RESPONSE = torch.tensor([0, 0, 0, 1, 1])


def weights(level: str, cap: float = 2.0) -> list[float]:
    return importance_weights(POLICY, ENGINE, RESPONSE, level=level, cap=cap).tolist()


def test_token_importance_weights_are_capped_ratios() -> None:
    assert weights("token") == pytest.approx([math.exp(0.5), math.exp(-1), 1, 2, math.exp(-0.1)])
    assert weights("token", cap=1.0) == pytest.approx([1, math.exp(-1), 1, 1, math.exp(-0.1)])


def test_sequence_importance_weights_are_the_capped_ratio_of_the_response() -> None:
    first = math.exp(0.5 - 1 + 0)
    assert weights("sequence") == pytest.approx([first] * 3 + [2] * 2)
    assert weights("sequence", cap=100.0) == pytest.approx([first] * 3 + [math.exp(2.9)] * 2)


def test_importance_weights_are_one_if_off() -> None:
    assert weights("off") == [1.0] * 5


@pytest.mark.parametrize("level", IMPORTANCE_LEVELS)
def test_no_tokens_give_no_importance_weights(level: str) -> None:
    empty = torch.zeros(0)
    assert len(importance_weights(empty, empty, empty.long(), level=level, cap=2.0)) == 0


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_an_overflowing_ratio_is_capped(level: str) -> None:
    got = importance_weights(
        torch.zeros(2), torch.full((2,), -2e4), RESPONSE[:2], level=level, cap=3.0
    )
    assert got.tolist() == [3.0, 3.0]


def test_importance_weights_carry_no_gradient() -> None:
    policy = POLICY.clone().requires_grad_()
    assert not importance_weights(policy, ENGINE, RESPONSE, level="sequence", cap=2.0).requires_grad


@given(st.lists(st.floats(-5, 0), min_size=1, max_size=20), st.floats(1, 10))
def test_equal_logprobs_have_importance_weight_one(logprobs, cap) -> None:
    same, row = torch.tensor(logprobs), torch.arange(len(logprobs)) // 3
    for level in IMPORTANCE_LEVELS:
        got = importance_weights(same, same, row, level=level, cap=cap)
        torch.testing.assert_close(got, torch.ones_like(same))


def test_uncapped_token_weights_correct_for_the_engines_distribution() -> None:
    """E_mu[(pi / mu) f] = E_pi[f], exactly, over a small vocabulary."""
    torch.manual_seed(0)
    policy, engine = torch.randn(2, 7, dtype=torch.float64).log_softmax(-1)
    values, row = torch.randn(7, dtype=torch.float64), torch.arange(7)
    got = importance_weights(policy, engine, row, level="token", cap=1e9)
    torch.testing.assert_close((engine.exp() * got * values).sum(), (policy.exp() * values).sum())


def slopes(token_loss: TokenLoss, inputs: LossInputs) -> Tensor:
    """d sum(L) / d logprob of each token."""
    return torch.autograd.grad(token_loss(inputs).sum(), inputs.logprobs)[0]


def rows_of(inputs: LossInputs, *row: int) -> LossInputs:
    """The same tokens in these rows."""
    rows = torch.tensor(row)
    zeros = torch.zeros(int(rows.max()) + 1, dtype=torch.long)
    return dataclasses.replace(inputs, row=rows, group=zeros, accuracy_bin=zeros)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [(2.0, -1.0, 2.0, 2.0), (5.0, -1.0, 3.0, 0.0), (5.0, 1.0, -1.2, 0.0), (0.5, -1.0, 0.8, 0.0)],
)
def test_a_dual_clip_bounds_the_loss_of_a_wrong_token_by_hand(ratio, advantage, loss, slope):
    inputs, dual = tokens(tensor(ratio), tensor(advantage)), partial(ppo_clip, dual_clip=3.0)
    assert dual(inputs).item() == pytest.approx(loss)
    assert slopes(dual, inputs).item() == pytest.approx(slope)


def test_gspo_clips_a_whole_response_by_the_geometric_mean_of_its_ratios():
    # geometric means: sqrt(2 * 0.5) = 1 and sqrt(4) = 2, above 1.5
    inputs = rows_of(tokens(tensor(2.0, 0.5, 4.0, 1.0), tensor(3, 1, 3, 3)), 0, 0, 1, 1)
    wide = partial(LOSSES["gspo"], clip_low=0.5, clip_high=0.5)
    torch.testing.assert_close(wide(inputs), tensor(-3, -1, -4.5, -4.5), rtol=0, atol=1e-12)
    torch.testing.assert_close(slopes(wide, inputs), tensor(-3, -1, 0, 0), rtol=0, atol=1e-12)


def test_gspo_of_responses_of_one_token_is_ppo():
    inputs = rows_of(tokens(tensor(0.5, 1.1, 1.5, 1.5), tensor(2, 2, 2, -3)), 0, 1, 2, 3)
    gspo, ppo = (partial(LOSSES[n], clip_low=0.2, clip_high=0.2) for n in ("gspo", "ppo_clip"))
    torch.testing.assert_close(gspo(inputs), ppo(inputs), rtol=0, atol=1e-12)
    torch.testing.assert_close(slopes(gspo, inputs), slopes(ppo, inputs), rtol=0, atol=1e-12)


def test_cispo_has_the_policy_gradient_with_a_capped_ratio():
    ratio, advantages = tensor(0.01, 1.1, 4.9, 7.0, 7.0), tensor(2, 2, 2, 2, -1)
    inputs = tokens(ratio, advantages)
    expected = -ratio.clamp(max=5) * advantages
    torch.testing.assert_close(slopes(LOSSES["cispo"], inputs), expected, rtol=0, atol=1e-12)


def test_up_has_neither_ratio_nor_clip_for_correct_tokens():
    inputs = tokens(tensor(7.0, 0.1, 0.1, 2.0, 9.0), tensor(2, 2, -1, -1, -1))
    expected = tensor(-2, -2, 0, 2, 0)
    torch.testing.assert_close(slopes(LOSSES["up"], inputs), expected, rtol=0, atol=1e-12)


# Advantages 3, 3, -1, -1 (mean 1) and log-probs -1, -3, -1, -3 (mean -2): cov 2, -2, -2, 2; the
# last token is not in the loss, so it enters no mean.
COVARIANT = tokens(
    tensor(2.0, 2.0, 0.5, 2.0, 1.0),
    tensor(3, 3, -1, -1.1, 9),
    logprobs=(tensor(-1, -3, -1, -3.1, -1) + tensor(2, 2, 0.5, 2, 1).log()).requires_grad_(),
    old_logprobs=tensor(-1, -3, -1, -3.1, -1),
    loss_mask=tensor(1, 1, 1, 1, 0),
)
COVARIANT = dataclasses.replace(
    COVARIANT,
    minibatch=dataclasses.replace(COVARIANT.minibatch, loss_mask=COVARIANT.loss_mask),
)


def test_covariance_is_over_the_tokens_in_the_loss():
    mean_advantage, mean_logprob = 3.9 / 4, -8.1 / 4
    expected = [
        (a - mean_advantage) * (logprob - mean_logprob)
        for a, logprob in ((3, -1), (3, -3), (-1, -1), (-1.1, -3.1))
    ]
    assert covariance(COVARIANT.minibatch)[:4].tolist() == pytest.approx(expected)


def test_kl_cov_penalises_only_the_tokens_with_the_highest_covariance():
    kl_cov = partial(LOSSES["kl_cov"], share=0.25, coef=0.5)  # 1 of 4: the fourth
    got = kl_cov(COVARIANT)[:4].tolist()
    assert got == pytest.approx([-6, -6, 0.5, 2.2 + 0.5 * math.log(2)])
    assert slopes(kl_cov, COVARIANT)[:4].tolist() == pytest.approx([-6, -6, 0.5, 2.2 + 0.5])


def test_clip_cov_drops_tokens_of_high_covariance_and_no_others():
    clip_cov = partial(LOSSES["clip_cov"], cov_low=1.0, cov_high=5.0)
    one = slopes(partial(clip_cov, share=0.25), COVARIANT)[:4].tolist()
    assert [one[1], one[2]] == pytest.approx([-6, 0.5])  # their covariance is below cov_low
    assert sorted([one[0] == 0, one[3] == 0]) == [False, True]
    both = slopes(partial(clip_cov, share=1.0), COVARIANT)[:4].tolist()
    assert both == pytest.approx([0, -6, 0.5, 0])
    none = partial(clip_cov, cov_low=30.0, cov_high=40.0)
    assert slopes(none, COVARIANT)[:4].tolist() == pytest.approx([-6, -6, 0.5, 2.2])


def test_flash_reinforce_drops_a_response_whose_policy_has_moved():
    """Bernoulli KL of 0.5 and 0.6: 0.5 log(0.5 / 0.6) + 0.5 log(0.5 / 0.4) = 0.0204."""
    old = tensor(0.5, 0.5, 0.5, 0.5).log()
    inputs = tokens(tensor(1.2, 1.0, 1.2, 1.2), tensor(2, 2, 2, -2), old_logprobs=old)
    inputs = dataclasses.replace(inputs, logprobs=(old + tensor(1.2, 1, 1.2, 1.2).log()))
    inputs = rows_of(inputs, 0, 0, 1, 1)
    halves = partial(LOSSES["flash_reinforce"], max_kl=0.0204 * 0.75)
    torch.testing.assert_close(halves(inputs), tensor(-2.4, -2, 0, 0), rtol=0, atol=1e-12)
    kept = partial(LOSSES["flash_reinforce"], max_kl=0.0205)
    torch.testing.assert_close(kept(inputs), tensor(-2.4, -2, -2.4, 2.4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "kl_cov"])
def test_where_the_policy_has_not_moved_every_loss_has_the_policy_gradient(name):
    """-A at ratio 1; nothing is selected, clipped or dropped."""
    inputs = tokens(tensor(1, 1, 1, 1), tensor(2, -1, 0, 0.5))
    torch.testing.assert_close(slopes(LOSSES[name], inputs), tensor(-2, 1, 0, -0.5))


def test_clip_fractions_count_the_tokens_whose_gradient_a_loss_removes():
    inputs = tokens(tensor(7.0, 0.1, 0.1, 2.0, 9.0), tensor(2, 2, -1, -1, -1))
    output = policy_loss(inputs, token_loss=LOSSES["up"])
    assert [output.metrics[f"loss/clip_fraction_{s}"][0].item() for s in ("low", "high")] == [2, 0]


# A policy and a reference over three tokens; each token once, weighted by its probability.
POLICY_P, REFERENCE_P = tensor(0.5, 0.3, 0.2), tensor(0.2, 0.2, 0.6)
EXACT_KL = (POLICY_P * (POLICY_P / REFERENCE_P).log()).sum().item()


def kl_and_gradient(estimator: KLEstimator) -> tuple[float, Tensor]:
    """The estimator's mean under the policy, and that of its gradient with respect to the logits:
    tokens are sampled from the policy, whose probabilities are constants."""
    logits = POLICY_P.log().requires_grad_()
    inputs = dataclasses.replace(
        tokens(torch.ones_like(POLICY_P), torch.zeros_like(POLICY_P)),
        logprobs=logits.log_softmax(0),
        reference_logprobs=REFERENCE_P.log(),
    )
    mean = (POLICY_P * kl_to_reference(inputs, estimator=estimator)).sum()
    return mean.item(), torch.autograd.grad(mean, logits)[0]


def kl_gradient(of: Callable[[Tensor], Tensor]) -> Tensor:
    logits = POLICY_P.log().requires_grad_()
    return torch.autograd.grad(of(logits.log_softmax(0)), logits)[0]


def test_k1_and_k3_are_unbiased_and_k2_has_the_gradient_of_the_kl_divergence():
    forward = kl_gradient(lambda logp: (logp.exp() * (logp - REFERENCE_P.log())).sum())
    reverse = kl_gradient(lambda logp: (REFERENCE_P * (REFERENCE_P.log() - logp)).sum())
    expected: dict[KLEstimator, Tensor] = {"k1": 0 * forward, "k2": forward, "k3": reverse}
    for estimator, slope in expected.items():
        mean, got = kl_and_gradient(estimator)
        assert estimator == "k2" or mean == pytest.approx(EXACT_KL, abs=1e-10)
        torch.testing.assert_close(got, slope, rtol=0, atol=1e-10)


def test_a_kl_penalty_is_aggregated_like_the_loss_and_measured():
    inputs = tokens(
        tensor(1.0, 1.0, 1.0),
        tensor(0.0, 0.0, 0.0),
        reference_logprobs=tensor(-2 + math.log(2), -2, 5),
        loss_mask=tensor(1, 1, 0),
        loss_denominators=tensor(4.0, 2.0, 1.0),
    )
    output = LOSS(inputs, kl_coef=0.1)
    k3 = 2 - math.log(2) - 1
    assert output.loss.item() == pytest.approx(0.1 * k3 / 4, abs=1e-10)
    assert output.metrics["loss/kl"][0].item() == pytest.approx(k3)
    assert output.metrics["loss/kl"][1].item() == 2
    assert output.by_accuracy_bin["pressure"].sum() == 0  # of the token loss alone
    assert "loss/kl" not in LOSS(inputs).metrics
