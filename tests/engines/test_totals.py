"""Totals of the loss metrics over micro-batches, computed without waiting for the device."""

import weakref
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asymrl.algo.loss import policy_loss, ppo_clip
from asymrl.engines.micro_batches import (
    empty_loss_inputs,
    loss_inputs,
    make_update_stats,
    micro_batches,
    to_flat,
    total,
)
from asymrl.engines.policy import PolicyModule
from asymrl.types import LossInputs, LossOutputs, UpdateStats
from tests.helpers.batches import batch_of
from tests.helpers.models import tiny_model
from tests.helpers.policies import LOSS, MIXED, policy, rollout_batch


def outputs(
    loss: float, total: float, count: float, peak: float, cells: list[float]
) -> LossOutputs:
    return LossOutputs(
        loss=torch.tensor(loss, requires_grad=True),
        metrics={
            "a": (torch.tensor(total), torch.tensor(count)),
            "b": (torch.tensor(1.0), torch.tensor(1.0)),
        },
        maxima={"peak": torch.tensor(peak)},
        by_accuracy_bin={"pressure": torch.tensor(cells), "other": torch.tensor([1.0])},
    )


PARTS = [
    outputs(0.5, 2.0, 3.0, 1.5, [1.0, 2.0]),
    outputs(-1.0, 1.0, 2.0, 4.0, [0.0, 3.0]),
    outputs(0.25, 0.0, 1.0, 2.0, [0.5, 0.0]),
]


def stats(parts: list[LossOutputs], skipped_tokens: int = 0) -> UpdateStats:
    """The stats of a mini-batch with one row to train, and one to skip if `skipped_tokens`."""
    rows = 2 if skipped_tokens else 1
    batch = batch_of([1] * rows, [4, skipped_tokens][:rows], [True, False][:rows])
    batch = replace(batch, loss_mask=torch.ones_like(batch.loss_mask))
    rest: dict[str, Any] = {"grad_norm": 0.0, "lr": 0.0, "updates": 1, "non_finite": None}
    return make_update_stats(batch, total(parts), **rest)


def test_totals_equal_the_numbers_by_hand():
    result = stats(PARTS)
    assert result.metrics == {"loss/total": -0.25, "a": 3.0 / 6.0, "b": 1.0, "peak": 4.0}
    assert stats(PARTS, skipped_tokens=6).metrics["a"] == 3.0 / 12.0
    assert result.by_accuracy_bin == {"pressure": [1.5, 5.0], "other": [3.0]}


@pytest.mark.parametrize("cut", [1, 2])
def test_merged_totals_of_ranks_equal_those_of_one_process(cut: int):
    assert stats([total(PARTS[:cut]), total(PARTS[cut:])], 2) == stats(PARTS, 2)


def test_many_small_terms_are_not_lost_beside_a_large_one():
    """2^24 + 1 + ... + 1: fp32 would lose every 1."""
    large, ones = outputs(2.0**24, 0, 1, 0, [0.0]), outputs(1.0, 0, 1, 0, [0.0])
    assert total([large, *[ones] * 9]).loss.item() == 2**24 + 9


def test_totals_keep_no_graph():
    def leaf() -> torch.Tensor:
        return torch.tensor(1.0, requires_grad=True)

    part = LossOutputs(
        loss=leaf(),
        metrics={"a": (leaf(), leaf())},
        maxima={"peak": leaf()},
        by_accuracy_bin={"pressure": leaf()},
    )
    result = total([part, part])
    tensors = tree_leaves([getattr(result, field.name) for field in fields(result)])
    assert len(tensors) == 5
    assert not any(tensor.requires_grad for tensor in tensors)


def test_an_update_frees_the_graph_of_each_micro_batch():
    """A loss with a graph that was kept for the totals would be alive at the end."""
    losses: list[weakref.ref] = []
    with_graph: list[bool] = []

    def loss(inputs: LossInputs) -> LossOutputs:
        outputs = LOSS(inputs)
        losses.append(weakref.ref(outputs.loss))
        with_graph.append(outputs.loss.grad_fn is not None)
        alive = [ref() is not None for ref in losses[1:-2]]  # the caller still holds the last one
        assert not any(alive), alive
        return outputs

    policy(token_budget=1).update(rollout_batch(MIXED), loss)
    assert len(losses) > 4 and all(with_graph[1:])  # the first one is without tokens


class HostReads(TorchDispatchMode):
    """Records the operations that make a host wait for the device: those that return a plain number
    or a shape that depends on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if any(wait in name for wait in self.WAITS) or (
            name.startswith("index.") and has_mask(args)
        ):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def has_mask(args) -> bool:
    return any(x is not None and x.dtype == torch.bool for x in args[1])


@pytest.mark.parametrize("entropy_bonus", [0.0, 0.1])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_micro_batch_never_waits_for_the_device(entropy_bonus: float, checkpointing: bool):
    """Head, loss and backward read no value from the device; `item` does. The forward pass of
    transformers reads one (to detect packed sequences), so it runs outside of the check."""
    model = tiny_model(101, 1).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    module, batch = PolicyModule(model, 1.0), batch_of([3, 5, 4], [6, 2, 7], [True] * 3)
    (micro,) = micro_batches(batch, [0, 2], token_budget=100)
    loss = partial(policy_loss, token_loss=ppo_clip, entropy_bonus=entropy_bonus)
    hidden = model.get_decoder()(input_ids=micro.input_ids, use_cache=False).last_hidden_state
    with HostReads() as reads:
        loss(empty_loss_inputs(batch, "cpu"))
        values = module.head(hidden[micro.sequence, micro.position], micro.targets)
        result = loss(loss_inputs(batch, micro.tokens, *values))
        result.loss.backward()
    assert reads.seen == []
    with HostReads() as reads:
        result.loss.item()
    assert reads.seen == ["_local_scalar_dense.default"]


def test_values_are_placed_at_their_tokens():
    parts = [
        (torch.tensor([4, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        (torch.tensor([0]), torch.tensor([[5.0], [6.0]])),
    ]
    assert to_flat(parts, 5).tolist() == [[5, 2, 0, 0, 1], [6, 4, 0, 0, 3]]
    assert to_flat([], 3).tolist() == [[0, 0, 0], [0, 0, 0]]
