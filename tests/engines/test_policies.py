"""The contract of every policy: LocalPolicy, and DeepSpeedPolicy on all ranks that run this file.

`make test` runs it in one process; tests/stack/test_ranks.py runs it on two ranks at once.
"""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from asymrl.algo.loss import LOSSES
from asymrl.engines.policy import SECTIONS, learning_rate
from asymrl.errors import UserError
from asymrl.training.metrics import measure_logprob_gain
from asymrl.types import LossInputs, LossOutputs, TrainerState
from tests.helpers.models import tiny_model
from tests.helpers.policies import (
    BONUS,
    LOSS,
    MIXED,
    OPTIM,
    SHARDED,
    STOP,
    VOCABULARY,
    close,
    dense_gradients,
    gradients,
    loss_named,
    offloaded,
    parts_of,
    policy,
    rollout_batch,
    state_of,
)


@pytest.fixture(params=[pytest.param(policy, id="local"), *SHARDED])
def make(request):
    """Makes a policy; the tests that use it are the contract and run for every policy."""
    return request.param


def test_scores_equal_a_plain_forward_pass(make) -> None:
    batch = rollout_batch(MIXED)
    logprobs, entropy = make().score(batch)
    model = tiny_model(VOCABULARY, STOP)
    for r, sequence in enumerate(batch.sequences):
        ids, start = torch.tensor([list(sequence)]), int(batch.prompt_lengths[r])
        with torch.no_grad():
            dense = (model(input_ids=ids).logits[0, start - 1 : -1] / 0.8).log_softmax(-1)
        of_row = batch.row == r
        torch.testing.assert_close(
            logprobs[of_row], dense.gather(1, ids[0, start:, None])[:, 0], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(entropy[of_row], -(dense.exp() * dense).sum(-1))


@pytest.mark.parametrize("bonus", [0.0, 0.1])
@pytest.mark.parametrize("budget", [1, 40, 10000])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_the_plain_loss_under_any_split(make, bonus, budget, checkpointing) -> None:
    trained = make(token_budget=budget, gradient_checkpointing=checkpointing)
    batch = rollout_batch(MIXED, bonus)
    stats = trained.update(batch, BONUS if bonus else LOSS)
    assert close(gradients(trained), dense_gradients(batch, bonus))
    assert stats.skipped_rows == (0 if bonus else 5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_every_loss_are_the_same_under_any_split(make, name) -> None:
    """As with all rows in one micro-batch of a policy in one process."""
    batch = rollout_batch(MIXED, bonus=1.0)
    whole, split = policy(token_budget=10000), make(token_budget=30, micro_batch_cost=10)
    expected = whole.update(batch, loss_named(name))
    got = split.update(batch, loss_named(name))
    assert close(gradients(split), gradients(whole))
    assert got.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)
    if name not in ("kl_cov", "cispo"):  # it removes the gradient of some tokens, and of not all
        removed = sum(v for k, v in got.metrics.items() if k.startswith("loss/clip_fraction"))
        assert 0 < removed < 1


def test_skipped_rows_count_in_every_mean() -> None:
    skipping, whole = policy(), policy()
    batch = rollout_batch(MIXED)
    ours = skipping.update(batch, LOSS)
    theirs = whole.update(replace(batch, has_gradient=torch.ones(12, dtype=torch.bool)), LOSS)
    assert ours.skipped_rows == 5 and theirs.skipped_rows == 0
    for name in ("loss/total", "loss/clip_fraction_low", "loss/clip_fraction_high"):
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=1e-5)
    assert 0 < ours.metrics["loss/clip_fraction_low"] < 1
    assert close(gradients(skipping), gradients(whole))


def test_the_optimizer_steps_even_if_no_row_has_a_gradient(make) -> None:
    trained = make()
    trained.update(rollout_batch(MIXED), LOSS)
    before = {name: tensor.clone() for name, tensor in trained.named_weights()}
    stats = trained.update(rollout_batch([0.0] * 12), LOSS)
    assert (stats.grad_norm, stats.skipped_rows, stats.updates) == (0.0, 12, 2)
    changed = [not torch.equal(before[name], tensor) for name, tensor in trained.named_weights()]
    assert all(changed)  # by the moments of the first step


def test_gradients_are_clipped_by_their_global_norm() -> None:
    trained = policy(max_grad_norm=0.01)
    stats = trained.update(rollout_batch(MIXED), LOSS)
    assert stats.grad_norm > 0.01
    assert gradients(trained).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_the_learning_rate_rises_linearly_in_warmup(make) -> None:
    trained = make(warmup_updates=4)
    rates = [trained.update(rollout_batch(MIXED), LOSS).lr for _ in range(5)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 10 updates, 2 of warmup, then x = 0, 1/8, ... 7/8
        ({"lr_schedule": "linear", "warmup_updates": 2}, [5, 10, 10, 8.75, 7.5, 1.25]),
        ({"lr_schedule": "linear", "warmup_share": 0.2}, [5, 10, 10, 8.75, 7.5, 1.25]),
        ({"lr_schedule": "linear", "lr_floor": 0.5, "warmup_share": 0.2}, [5, 10, 10, 9.375]),
        ({"lr_schedule": "cosine"}, [10, 10 * (1 + math.cos(math.pi / 10)) / 2]),
        ({"lr_schedule": "constant"}, [10, 10, 10]),
    ],
)
def test_the_learning_rate_follows_its_schedule(settings, expected) -> None:
    optim = OPTIM.model_copy(update={"lr": 10.0, **settings})
    updates = [*range(1, len(expected)), 10] if len(expected) > 4 else range(1, len(expected) + 1)
    assert [learning_rate(optim, n, 10) for n in updates] == pytest.approx(expected)


def test_the_learning_rate_stays_at_its_floor_after_the_last_planned_update() -> None:
    optim = OPTIM.model_copy(update={"lr": 10.0, "lr_schedule": "cosine", "lr_floor": 0.1})
    assert learning_rate(optim, 99, 10) == pytest.approx(1.0)


def test_an_update_raises_logprobs_with_a_positive_advantage_and_lowers_the_others(make) -> None:
    trained = make()
    batch = rollout_batch([1, -1] * 6)
    old, _ = trained.score(batch)
    trained.update(replace(batch, old_logprobs=old), LOSS)
    change = trained.score(batch)[0] - old
    assert change[batch.advantages > 0].mean() > 0 > change[batch.advantages < 0].mean()


def test_a_policy_with_a_loaded_state_continues_bit_by_bit(make) -> None:
    one, other = make(), make()
    batch = rollout_batch(MIXED)
    one.update(batch, LOSS)
    other.load_state(parts_of(one))
    one.update(batch, LOSS)
    other.update(batch, LOSS)
    weights, same = dict(one.named_weights()), dict(other.named_weights())
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_saved_folder_holds_the_trained_weights(make, tmp_path: Path) -> None:
    trained = make()
    trained.update(rollout_batch(MIXED), LOSS)
    full, weights = trained.full_weights(), state_of(trained).weights
    if not full:
        return  # rank 0 writes
    trained.save_pretrained(tmp_path, full)
    loaded = dict(AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters())
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_state_of_another_model_raises_an_error_that_names_the_tensor(make) -> None:
    parts = parts_of(make())
    name = "model.norm.weight"
    shapes = dict(parts[0].shapes)
    for others in (shapes | {name: (5,)}, {k: shape for k, shape in shapes.items() if k != name}):
        with pytest.raises(UserError, match=name):
            make().load_state([replace(part, shapes=others) for part in parts])


def test_a_state_moves_between_any_numbers_of_ranks(make) -> None:
    """Cut into other slices, even empty ones, it loads bit by bit."""
    trained, batch = make(), rollout_batch(MIXED)
    trained.update(batch, LOSS)
    whole = state_of(trained)
    for ranks in (1, 2, 3, 70):
        other = make()
        other.load_state([cut(whole, rank, ranks) for rank in range(ranks)])
        loaded = state_of(other)
        for section in SECTIONS:
            mine, theirs = getattr(whole, section), getattr(loaded, section)
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        ours = dict(other.named_weights())
        assert all(torch.equal(ours[name], w) for name, w in trained.named_weights())


def cut(whole: TrainerState, rank: int, ranks: int) -> TrainerState:
    """The part that a rank would own."""

    def own(tensor: torch.Tensor) -> torch.Tensor:
        size = math.ceil(tensor.numel() / ranks)
        return tensor.flatten()[rank * size : (rank + 1) * size]

    sections = {s: {n: own(t) for n, t in getattr(whole, s).items()} for s in SECTIONS}
    return replace(whole, **sections)


def broken_slope(inputs: LossInputs) -> LossOutputs:
    """Adds the square root of 0: the loss is 0, but its gradient is NaN."""
    outputs = LOSS(inputs)
    same = inputs.logprobs - inputs.logprobs.detach()
    return replace(outputs, loss=outputs.loss * 0 + (same * same).sqrt().sum())


def infinite(inputs: LossInputs) -> LossOutputs:
    outputs = LOSS(inputs)
    return replace(outputs, loss=outputs.loss + math.inf) if len(inputs.logprobs) else outputs


@pytest.mark.parametrize("loss", [broken_slope, infinite])
def test_an_update_that_is_not_finite_changes_nothing_and_names_its_cause(make, loss) -> None:
    """The next update gives the same as in a policy without the failed one."""
    trained, other, batch = make(), make(), rollout_batch(MIXED)
    assert trained.update(batch, LOSS) == other.update(batch, LOSS)
    before = state_of(trained)
    stats = trained.update(batch, loss)
    gradient = "'s norm" if make is offloaded else r" of \S+ and \d+ more"
    cause = f"the gradient{gradient}" if loss is broken_slope else r"the loss \((inf|nan)\)"
    assert re.match(cause, stats.non_finite)
    after = state_of(trained)
    assert stats.updates == before.updates == after.updates == 1
    for section in ("weights", "exp_avg", "exp_avg_sq"):
        mine, theirs = getattr(before, section), getattr(after, section)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert trained.update(batch, LOSS) == other.update(batch, LOSS)


def test_a_minibatch_without_a_row_to_train_has_every_metric(make) -> None:
    stats = make().update(rollout_batch([0.0] * 12), LOSS)
    assert stats.metrics == {
        "loss/total": 0.0,
        "loss/clip_fraction_low": 0.0,
        "loss/clip_fraction_high": 0.0,
        "loss/ratio_max": 0.0,
    }


def test_dropout_is_disabled(make) -> None:
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": VOCABULARY}
    trained = make(model=GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.5)))
    batch = rollout_batch(MIXED)
    assert torch.equal(trained.score(batch)[0], trained.score(batch)[0])


def test_layer_checkpointing_follows_its_setting(make) -> None:
    for setting in (False, True):
        model = make(gradient_checkpointing=setting).module.model
        assert model.is_gradient_checkpointing == setting


def test_a_head_that_is_not_linear_raises_an_error(make) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    config = Gemma2Config(**sizes, vocab_size=VOCABULARY, final_logit_softcapping=0.1)
    with pytest.raises(UserError, match="gemma2"):
        make(model=Gemma2ForCausalLM(config))


def test_bf16_forward_passes_keep_fp32_weights_and_gradients() -> None:
    half, full = policy(bf16=True), policy()
    batch = rollout_batch(MIXED)
    half.update(batch, LOSS)
    full.update(batch, LOSS)
    assert all(t.dtype == torch.float32 for _, t in half.named_weights())
    assert close(gradients(half), gradients(full), tolerance=0.1)
    assert not close(gradients(half), gradients(full), tolerance=1e-5)


def test_sleeping_changes_no_result(make) -> None:
    sleeper, other = make(), make()
    batch = rollout_batch(MIXED)
    for trained in (sleeper, other, sleeper, other):
        trained.update(batch, LOSS)
        if trained is sleeper:
            trained.sleep()
            trained.sleep()
            assert len(list(trained.named_weights())) and trained.score(batch)
    one, same = state_of(sleeper), state_of(other)
    for section in ("weights", "exp_avg", "exp_avg_sq"):
        mine, theirs = getattr(one, section), getattr(same, section)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_the_logprob_gain_covers_correct_rollouts_only():
    trained, batch = policy(), rollout_batch(MIXED)
    rewards = torch.tensor([1.0, 0, 0, 1] * 3)
    new, _ = trained.score(batch)
    gain = measure_logprob_gain(trained, batch, (batch.old_logprobs, batch.old_entropy), rewards)
    change = (new - batch.old_logprobs)[(rewards == 1)[batch.row]].double()
    assert gain["diag/logprob_gain_positive"] == pytest.approx(change.mean().item(), rel=1e-5)


def test_pressure_by_accuracy_bin_is_the_loss_gradient_with_respect_to_logprobs(make):
    """Summed over micro-batches and ranks, it equals one pass over all rows."""
    trained, batch = make(token_budget=40), rollout_batch(MIXED)
    logprobs, _ = trained.score(batch)
    ratio = (logprobs - batch.old_logprobs).exp()
    moves = torch.where(batch.advantages > 0, ratio <= 1.2, ratio >= 0.8)
    size = batch.advantages.abs() * ratio * moves / batch.loss_denominators
    expected = torch.zeros(34).index_add(0, batch.accuracy_bin[batch.row], size)
    pressure = trained.update(batch, LOSS).by_accuracy_bin["pressure"]
    assert pressure == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-7)
