"""The reference of a KL penalty: the model before training, which no update moves.

Runs for LocalPolicy, and for DeepSpeedPolicy on all ranks that run this file, as test_policies.py
does.
"""

from typing import Any

import pytest
import torch

from asymrl.engines import lora
from tests.helpers.models import tiny_model
from tests.helpers.policies import (
    LOSS,
    MIXED,
    SHARDED,
    STOP,
    VOCABULARY,
    adapted_model,
    gradients,
    parts_of,
    policy,
    rollout_batch,
    sharded,
    state_of,
)


@pytest.fixture(params=[pytest.param(policy, id="local"), SHARDED[0]])
def make(request):
    """Makes a policy from a model."""
    return request.param


def with_reference(make: Any, **settings: Any) -> Any:
    """A policy of the tiny model with a copy of it."""
    return make(tiny_model(VOCABULARY, STOP), reference=tiny_model(VOCABULARY, STOP), **settings)


@pytest.mark.parametrize("bf16", [False, True])
def test_before_the_first_update_the_reference_equals_the_policy(make, bf16) -> None:
    trained, batch = with_reference(make, bf16=bf16), rollout_batch(MIXED)
    reference = trained.score_reference(batch)
    assert reference.dtype == torch.float32 and reference.shape == batch.targets.shape
    assert torch.equal(reference, trained.score(batch)[0])


def test_updates_and_a_loaded_state_do_not_move_the_reference(make) -> None:
    trained, other, batch = with_reference(make), with_reference(make), rollout_batch(MIXED)
    start = trained.score_reference(batch)
    for _ in range(2):
        trained.update(batch, LOSS)
        trained.sleep()
    assert torch.equal(trained.score_reference(batch), start)
    assert not torch.equal(trained.score(batch)[0], start)
    other.load_state(parts_of(trained))
    assert torch.equal(other.score_reference(batch), start)
    assert torch.equal(other.score(batch)[0], trained.score(batch)[0])


def test_a_reference_changes_no_update_and_no_state(make) -> None:
    one, other, batch = (
        with_reference(make),
        make(tiny_model(VOCABULARY, STOP)),
        rollout_batch(MIXED),
    )
    one.score_reference(batch)
    assert one.update(batch, LOSS) == other.update(batch, LOSS)
    assert torch.equal(gradients(one), gradients(other))
    mine, theirs = state_of(one), state_of(other)
    assert mine.shapes == theirs.shapes and other.reference is None
    assert len(dict(one.named_weights())) == len(dict(other.named_weights()))


def test_the_sharded_reference_gives_the_local_ones_logprobs() -> None:
    batch = rollout_batch(MIXED)
    here, there = with_reference(policy), with_reference(sharded, token_budget=40)
    torch.testing.assert_close(
        there.score_reference(batch), here.score_reference(batch), atol=1e-5, rtol=1e-5
    )
    if there.world.size > 1:  # a rank holds a part of each weight, in the reference too
        whole = sum(p.numel() for p in tiny_model(VOCABULARY, STOP).parameters())
        held = sum(p.ds_tensor.numel() for p in there.reference.module.parameters())
        assert held < 0.6 * whole


def test_with_adapters_the_reference_is_the_model_without_them(make) -> None:
    trained, batch = make(adapted_model()), rollout_batch(MIXED)
    for _ in range(2):
        trained.update(batch, LOSS)
    base = make(tiny_model(VOCABULARY, STOP)).score(batch)[0]
    scored = trained.score(batch)[0]
    assert torch.equal(trained.score_reference(batch), base)
    assert not torch.equal(scored, base) and torch.equal(trained.score(batch)[0], scored)
    assert trained.reference is None
    trained.update(batch, LOSS)
    assert len(lora.named_trained(trained.module.model)) == 2 * 2 * 7
