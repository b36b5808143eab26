"""What the micro-batches of a mini-batch add up to, and that nothing waits for the device."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from asymrl.algo.loss import ppo_clip
from asymrl.engines.policy import (
    PolicyModule,
    Totals,
    laid_out,
    loss_inputs,
    micro_batch,
    no_tokens,
)
from asymrl.types import LossOutputs
from tests.helpers.batches import batch_of
from tests.helpers.models import tiny_model


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


def added(parts: list[LossOutputs]) -> Totals:
    totals = Totals()
    for part in parts:
        totals.add(part)
    return totals


def test_totals_by_hand():
    totals = added(PARTS)
    assert totals.metrics(skipped_tokens=0.0) == {
        "loss/total": -0.25,
        "a": 3.0 / 6.0,
        "b": 1.0,
        "peak": 4.0,
    }
    assert totals.metrics(skipped_tokens=6.0)["a"] == 3.0 / 12.0
    assert totals.by_accuracy_bin == {"pressure": [1.5, 5.0], "other": [3.0]}


@pytest.mark.parametrize("cut", [1, 2])
def test_ranks_add_up_to_one_process(cut: int):
    whole, merged = added(PARTS), Totals.merge([added(PARTS[:cut]), added(PARTS[cut:])])
    assert merged.metrics(2.0) == whole.metrics(2.0)
    assert merged.by_accuracy_bin == whole.by_accuracy_bin


def test_many_small_sums_keep_their_digits():
    """2^24 + 1 + ... + 1: in fp32 every 1 would be lost."""
    large, ones = outputs(2.0**24, 0, 1, 0, [0.0]), outputs(1.0, 0, 1, 0, [0.0])
    assert added([large, *[ones] * 9]).metrics(0.0)["loss/total"] == 2**24 + 9


def test_totals_keep_no_graph():
    totals = added(PARTS).fetch()
    assert totals._sums is not None and not totals._sums.requires_grad


class Reads(TorchDispatchMode):
    """Notes the operations for which a host would wait for a device: those whose result is a plain
    number, or has a shape that depends on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if any(wait in name for wait in self.WAITS) or (name.startswith("index.") and masks(args)):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def masks(args) -> bool:
    return any(x is not None and x.dtype == torch.bool for x in args[1])


@pytest.mark.parametrize("entropy_bonus", [0.0, 0.1])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_micro_batch_never_waits_for_the_device(entropy_bonus: float, checkpointing: bool):
    """Head, loss, backward and totals read no value back; `item` does. transformers' own forward
    pass reads one at its start (are these packed sequences?), so it is left out."""
    model = tiny_model(101, 1).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    module, batch = PolicyModule(model, 1.0), batch_of([3, 5, 4], [6, 2, 7], [True] * 3)
    micro, totals = micro_batch(batch, [0, 2]), Totals()
    loss = partial(ppo_clip, clip_low=0.2, clip_high=0.2, entropy_bonus=entropy_bonus)
    hidden = model.get_decoder()(input_ids=micro.input_ids, use_cache=False).last_hidden_state
    with Reads() as reads:
        totals.add(loss(no_tokens(batch, "cpu")))
        values = module.head(hidden[micro.sequence, micro.position], micro.targets)
        found = loss(loss_inputs(batch, micro, *values))
        found.loss.backward()
        totals.add(found)
    assert reads.seen == []
    with Reads() as reads:
        found.loss.item()
    assert reads.seen == ["_local_scalar_dense.default"]


def test_parts_are_laid_out_by_their_tokens():
    parts = [
        (torch.tensor([4, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        (torch.tensor([0]), torch.tensor([[5.0], [6.0]])),
    ]
    assert laid_out(parts, 5).tolist() == [[5, 2, 0, 0, 1], [6, 4, 0, 0, 3]]
    assert laid_out([], 3).tolist() == [[0, 0, 0], [0, 0, 0]]
