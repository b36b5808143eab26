"""DeepSpeedPolicy gives the results of LocalPolicy, and shards as it should.

Runs on all ranks that run this file, as tests/engines/test_policies.py does.
"""

import pytest
import torch

from asymrl.engines.policy import SECTIONS
from tests.helpers.policies import (
    LOSS,
    MIXED,
    SHARDED,
    close,
    dense_gradients,
    gradients,
    parts_of,
    policy,
    rollout_batch,
    state_of,
)

pytestmark = pytest.mark.parametrize("sharding", SHARDED)


def test_three_sgd_steps_end_in_the_same_weights(sharding, monkeypatch) -> None:
    def sgd(params, lr, betas, weight_decay, fused=False):
        return torch.optim.SGD(params, lr=0.1)

    from asymrl.engines import deepspeed

    config = deepspeed.zero3_config
    untested = {"zero_allow_untested_optimizer": True}
    monkeypatch.setattr(deepspeed, "zero3_config", lambda *sections: config(*sections) | untested)
    # AdamW would turn rounding errors in small gradients into steps of size lr
    monkeypatch.setattr(torch.optim, "AdamW", sgd)
    here, there = policy(lr=0.1), sharding(lr=0.1)
    batch = rollout_batch(MIXED)
    for _ in range(3):
        ours, theirs = there.update(batch, LOSS), here.update(batch, LOSS)
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)
        assert ours.skipped_rows == theirs.skipped_rows
    local = dict(here.named_weights())
    for name, tensor in there.named_weights():
        assert close(tensor, local[name]), name


def test_a_state_moves_between_zero3_and_one_process(sharding) -> None:
    here, there, back = policy(), sharding(), policy()
    batch = rollout_batch(MIXED)
    here.update(batch, LOSS)
    there.load_state([here.state()])
    back.load_state(parts_of(there))
    one, same = here.state(), back.state()
    assert one.updates == same.updates == 1
    for section in ("weights", "exp_avg", "exp_avg_sq"):
        mine, theirs = getattr(one, section), getattr(same, section)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    ours, theirs = there.update(batch, LOSS), here.update(batch, LOSS)
    assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-4)
    assert (ours.updates, ours.lr) == (theirs.updates, theirs.lr)


def test_gradients_are_clipped_by_their_global_norm(sharding) -> None:
    here, there = policy(max_grad_norm=0.01, lr=1.0), sharding(max_grad_norm=0.01, lr=1.0)
    batch = rollout_batch(MIXED)
    stats = there.update(batch, LOSS)
    here.update(batch, LOSS)
    assert stats.grad_norm > 0.01  # the norm before clipping
    one, same = state_of(here), state_of(there)
    moments = [(one.exp_avg[name], same.exp_avg[name]) for name in one.exp_avg]
    assert all(close(theirs, mine) for mine, theirs in moments)


def test_bf16_forward_passes_keep_fp32_master_weights(sharding) -> None:
    half, full = sharding(bf16=True), policy()
    batch = rollout_batch(MIXED)
    start = state_of(half)
    assert all(torch.equal(w, w.bfloat16()) for w in start.weights.values())  # as loaded
    stats = half.update(batch, LOSS)
    full.update(batch, LOSS)
    assert close(gradients(half), gradients(full), tolerance=0.1)
    assert not close(gradients(half), gradients(full), tolerance=1e-5)
    after = state_of(half)
    assert any(not torch.equal(w, w.bfloat16()) for w in after.weights.values())
    for name, tensor in half.named_weights():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, after.weights[name].bfloat16())
    assert stats.updates == 1


def test_a_minibatch_with_fewer_rows_than_ranks_has_the_same_gradient(sharding) -> None:
    trained = sharding()
    only_one = [0.0] * 11 + [1.0]
    trained.update(rollout_batch(only_one), LOSS)
    assert close(gradients(trained), dense_gradients(rollout_batch(only_one), 0.0))


def test_gradients_are_reduced_and_accumulated_in_fp32_even_under_bf16(sharding) -> None:
    trained = sharding(bf16=True, token_budget=1)
    zero = trained.engine.optimizer
    assert zero.communication_data_type == zero.gradient_accumulation_dtype == torch.float32
    assert all(flat.dtype == torch.float32 for flat in zero.fp32_partitioned_groups_flat)
    trained.update(rollout_batch(MIXED), LOSS)
    gradient = gradients(trained)
    assert not torch.equal(gradient, gradient.bfloat16().float())  # not rounded to bf16


def test_a_parameter_is_gathered_only_while_it_is_used(sharding) -> None:
    trained = sharding()
    trained.update(rollout_batch(MIXED), LOSS)
    gathered = sharding.__name__ == "offloaded"  # there DeepSpeed keeps small ones gathered
    for parameter in trained.module.parameters():
        assert parameter.ds_status.name == ("AVAILABLE" if gathered else "NOT_AVAILABLE")


def test_an_optimizer_that_waits_in_other_memory_returns_bit_by_bit(sharding) -> None:
    """As on a GPU. The buffers are allocated once, and no gradient is copied: they are freed."""
    mover, other = sharding(), sharding(offload_during_rollouts=False)
    zero, batch, places = mover.engine.optimizer, rollout_batch(MIXED), set()
    for _ in range(3):
        mover.sleep()
        if not mover.offload_optimizer:
            places.add(tuple(buffer.data_ptr() for buffer in mover.host_buffers.buffers))
            assert zero.grad_partitions_flat_buffer.numel() == 0
        mover.update(batch, LOSS)
        other.update(batch, LOSS)
    assert len(places) == (0 if mover.offload_optimizer else 1)
    assert other.host_buffers is None
    mover.sleep()
    one, same = state_of(mover), state_of(other)
    for section in SECTIONS:
        mine, theirs = getattr(one, section), getattr(same, section)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
