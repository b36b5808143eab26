"""Properties of the PPO-clip loss and of its denominators, in fp64."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asymrl.algo.diagnostics import BINS, NUM_ACCURACY_BINS
from asymrl.algo.loss import AGGREGATIONS, loss_denominators, ppo_clip
from asymrl.types import LossInputs, LossOutputs

CLIP = {"clip_low": 0.2, "clip_high": 0.28, "entropy_bonus": 0.0}
every_aggregation = pytest.mark.parametrize("aggregation", AGGREGATIONS)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tokens(ratio: Tensor, advantages: Tensor, **changes: Tensor) -> LossInputs:
    """Tokens of one row with these ratios, each of weight and denominator 1."""
    ones, row = torch.ones_like(ratio), torch.zeros(len(ratio), dtype=torch.long)
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
    )
    return dataclasses.replace(inputs, **changes)


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
    output = ppo_clip(inputs, **CLIP)
    assert output.loss.item() == pytest.approx(loss, abs=1e-10)
    assert gradient(output, inputs).item() == pytest.approx(slope, abs=1e-10)


def test_there_is_no_dual_clip():
    inputs = tokens(tensor(50.0), tensor(-1.0))
    output = ppo_clip(inputs, **CLIP)
    assert output.loss.item() == pytest.approx(50.0)
    assert gradient(output, inputs).item() == pytest.approx(50.0)


@pytest.mark.parametrize("log_ratio", [-1e4, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_far_ratios_stay_finite(log_ratio, advantage):
    logprobs = tensor(log_ratio - 2).requires_grad_()
    inputs = tokens(tensor(1.0), tensor(advantage), logprobs=logprobs)
    output = ppo_clip(inputs, **CLIP)
    finite = [output.loss, gradient(output, inputs), output.maxima["loss/ratio_max"]]
    finite += [total for total, _ in output.metrics.values()]
    assert all(value.isfinite().all() for value in finite)


def test_loss_is_the_weighted_sum_over_denominators():
    inputs = tokens(
        tensor(1.1, 0.9, 1.0),
        tensor(2.0, -2.0, 5.0),
        loss_mask=tensor(1.0, 1.0, 0.0),
        loss_denominators=tensor(4.0, 2.0, 1.0),
    )
    output = ppo_clip(inputs, **CLIP)
    assert output.loss.item() == pytest.approx(-2.2 / 4 + 1.8 / 2, abs=1e-10)
    expected = tensor(-2.2 / 4, 1.8 / 2, 0.0)
    torch.testing.assert_close(gradient(output, inputs), expected, rtol=0, atol=1e-10)


def test_entropy_bonus_raises_entropy_and_is_aggregated_as_the_loss():
    inputs = tokens(
        tensor(1.0, 1.0, 1.0),
        tensor(0.0, 0.0, 0.0),
        entropy=tensor(1.0, 3.0, 5.0).requires_grad_(),
        loss_mask=tensor(1.0, 1.0, 0.0),
        loss_denominators=tensor(4.0, 2.0, 1.0),
    )
    output = ppo_clip(inputs, **{**CLIP, "entropy_bonus": 0.1})
    assert output.loss.item() == pytest.approx(-0.1 * (1 / 4 + 3 / 2), abs=1e-10)
    (slope,) = torch.autograd.grad(output.loss, inputs.entropy)
    torch.testing.assert_close(slope, tensor(-0.1 / 4, -0.1 / 2, 0.0), rtol=0, atol=1e-10)


def test_no_bonus_asks_for_no_gradient_of_the_entropy():
    inputs = tokens(tensor(1.0), tensor(1.0))
    ppo_clip(inputs, **CLIP).loss.backward()
    assert inputs.logprobs.grad is not None
    assert inputs.entropy.grad is None


def test_metrics_by_hand_and_under_the_mask():
    inputs = tokens(
        #      low A<0, low A>0, high A>0, high A<0, inside, high A=0, low A=0, masked, masked
        tensor(0.5, 0.5, 1.5, 1.5, 1.25, 1.4, 0.6, 9.0, 0.1),
        tensor(-1.0, 1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 1.0, -1.0),
        loss_mask=tensor(1, 1, 1, 1, 1, 1, 1, 0, 0),
    )
    output = ppo_clip(inputs, **CLIP)
    got = {name: (total.item(), count.item()) for name, (total, count) in output.metrics.items()}
    assert got == {
        "loss/clip_fraction_low": (1.0, 7),
        "loss/clip_fraction_high": (1.0, 7),
    }
    assert output.maxima["loss/ratio_max"].item() == pytest.approx(1.5)


def test_pressure_is_the_size_of_the_gradient_by_cell():
    """|d loss / d logprob| a token, added up over the tokens of each cell: clipped tokens none."""
    ratio, advantages = tensor(0.5, 1.1, 1.5, 0.5, 1.5), tensor(2, 2, 2, -3, -3)
    rows = torch.tensor([0, 0, 1, 2, 2])
    inputs = tokens(ratio, advantages, row=rows, accuracy_bin=torch.tensor([20, 20, 3]))
    inputs = dataclasses.replace(inputs, loss_denominators=tensor(1, 2, 1, 1, 4))
    masked = dataclasses.replace(inputs, loss_mask=tensor(0, 1, 1, 1, 1))
    assert ppo_clip(masked, **CLIP).by_accuracy_bin["pressure"][20].item() == pytest.approx(1.1)
    far = tokens(tensor(1.0), tensor(-1), accuracy_bin=torch.tensor([3]))
    far = dataclasses.replace(far, logprobs=far.old_logprobs + 25)
    assert ppo_clip(far, **CLIP).by_accuracy_bin["pressure"].sum() == 0  # beyond the clamp
    output = ppo_clip(inputs, **CLIP)
    cells = output.by_accuracy_bin["pressure"]
    assert cells[20].item() == pytest.approx(0.5 * 2 + 1.1 * 2 / 2)  # the third is clipped
    assert cells[3].item() == pytest.approx(1.5 * 3 / 4)  # the fourth is clipped
    assert cells.sum() == gradient(output, inputs).abs().sum()
    assert len(cells) == NUM_ACCURACY_BINS == 2 * (BINS + 1)


def test_metrics_carry_no_graph():
    output = ppo_clip(tokens(tensor(0.5, 1.5), tensor(-1.0, 1.0)), **CLIP)
    assert output.loss.requires_grad
    values = [*output.maxima.values(), *(x for pair in output.metrics.values() for x in pair)]
    assert not any(value.requires_grad for value in values)


def test_an_empty_micro_batch_gives_zero_with_a_graph():
    inputs = tokens(tensor(), tensor())
    output = ppo_clip(inputs, **{**CLIP, "entropy_bonus": 0.1})
    assert output.loss.item() == 0
    assert gradient(output, inputs).shape == (0,)
    assert all(total == 0 and count == 0 for total, count in output.metrics.values())
    assert output.maxima["loss/ratio_max"] == 0


def test_arguments_are_not_mutated():
    inputs = tokens(tensor(0.5, 1.5), tensor(-1.0, 1.0))
    before = {f.name: getattr(inputs, f.name).clone() for f in dataclasses.fields(inputs)}
    ppo_clip(inputs, **{**CLIP, "entropy_bonus": 0.1}).loss.backward()
    assert all(torch.equal(getattr(inputs, name), value) for name, value in before.items())


# Four rows with 2, 1, 3 and 2 tokens; prompts 7, 7, 5, 9; one token of row 2 and all of row 3 have
# weight 0. So 5 tokens count, in 3 rows, of 2 prompts, with 3 and 2 tokens.
ROW = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3])
GROUP = torch.tensor([7, 7, 5, 9])
WEIGHT = tensor(1, 1, 1, 1, 0, 1, 0, 0)


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
    got = loss_denominators(WEIGHT, ROW, GROUP, aggregation=aggregation, constant_length=10)
    assert torch.equal(got, tensor(*expected))


@pytest.mark.parametrize("aggregation", ["token_mean", "prompt_mean", "seq_mean"])
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data())
def test_the_loss_of_equal_tokens_is_that_of_one(aggregation, lengths, data):
    """A mean of ones is 1, whichever mean it is."""
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    group = torch.tensor([data.draw(st.integers(0, 3)) for _ in lengths])
    weight = torch.tensor([data.draw(st.sampled_from([0.0, 1.0])) for _ in row]).double()
    weight[0] = 1
    got = loss_denominators(weight, row, group, aggregation=aggregation, constant_length=0)
    assert (weight / got).sum().item() == pytest.approx(1, abs=1e-10)


@every_aggregation
def test_denominators_are_never_zero(aggregation):
    settings = {"aggregation": aggregation, "constant_length": 10}
    no_rows = torch.zeros(0, dtype=torch.long)
    assert loss_denominators(tensor(), no_rows, no_rows, **settings).shape == (0,)
    got = loss_denominators(torch.zeros_like(WEIGHT), ROW, GROUP, **settings)
    assert torch.equal(got, torch.ones_like(got))


def test_unknown_aggregations_and_lengths_are_refused():
    with pytest.raises(AssertionError, match="token_mean"):
        loss_denominators(WEIGHT, ROW, GROUP, aggregation="mean", constant_length=10)
    with pytest.raises(AssertionError, match="at least 1"):
        loss_denominators(WEIGHT, ROW, GROUP, aggregation="constant", constant_length=0)


class MiniBatch:
    """Random rows under a two-parameter policy, whose gradient the test compares."""

    def __init__(self, lengths: list[int], num_prompts: int, aggregation: str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        self.group = torch.randint(num_prompts, (len(lengths),), generator=generator)
        size = len(self.row)
        self.features = torch.randn(size, 2, generator=generator, dtype=torch.float64)
        self.advantages = torch.randn(size, generator=generator, dtype=torch.float64)
        self.weight = (torch.rand(size, generator=generator) < 0.8).double()
        self.policy = tensor(0.3, -0.4).requires_grad_()
        self.accuracy_bin = torch.randint(NUM_ACCURACY_BINS, (len(lengths),), generator=generator)
        self.loss_denominators = loss_denominators(
            self.weight, self.row, self.group, aggregation=aggregation, constant_length=7
        )

    def inputs(self, rows: list[int]) -> LossInputs:
        """The rows, in this order, as a micro-batch with row indices of its own."""
        kept = torch.cat([(self.row == r).nonzero()[:, 0] for r in rows])
        drift = self.features[kept] @ self.policy
        return LossInputs(
            logprobs=drift - 2,
            old_logprobs=torch.full_like(drift, -2),
            advantages=self.advantages[kept],
            entropy=drift.square(),
            loss_mask=self.weight[kept],
            row=torch.tensor([rows.index(r) for r in self.row[kept].tolist()]),
            group=self.group[rows],
            accuracy_bin=self.accuracy_bin[rows],
            loss_denominators=self.loss_denominators[kept],
        )

    def results(self, split: list[list[int]]) -> Tensor:
        """Loss, gradient, metrics (sum, count), maximum and cells, added up over micro-batches."""
        outputs = [
            ppo_clip(self.inputs(rows), clip_low=0.2, clip_high=0.28, entropy_bonus=0.1)
            for rows in split
        ]
        loss = torch.stack([output.loss for output in outputs]).sum()
        (slope,) = torch.autograd.grad(loss, self.policy)
        metrics = torch.tensor(
            [[total, count] for o in outputs for total, count in o.metrics.values()]
        ).double()
        maximum = max(output.maxima["loss/ratio_max"] for output in outputs)
        by_name = metrics.view(len(outputs), -1, 2).sum(0)
        cells = torch.stack([output.by_accuracy_bin["pressure"] for output in outputs]).sum(0)
        return torch.cat([loss[None], slope, by_name.flatten(), maximum[None], cells]).detach()


@every_aggregation
@given(
    lengths=st.lists(st.integers(1, 4), min_size=2, max_size=7),
    num_prompts=st.integers(1, 4),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_no_split_and_no_row_order_changes_loss_gradient_or_metrics(
    aggregation, lengths, num_prompts, seed, data
):
    batch = MiniBatch(lengths, num_prompts, aggregation, seed)
    order = data.draw(st.permutations(range(len(lengths))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(lengths) - 1))))
    split = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(lengths)], strict=True)]
    whole = batch.results([list(range(len(lengths)))])
    torch.testing.assert_close(batch.results(split), whole, rtol=1e-10, atol=1e-10)


def test_aggregations_differ_where_lengths_do():
    losses = {
        name: MiniBatch([1, 4, 2, 3], 3, name, 1).results([[0, 1, 2, 3]])[0].item()
        for name in AGGREGATIONS
    }
    assert len({round(loss, 9) for loss in losses.values()}) == len(AGGREGATIONS)
