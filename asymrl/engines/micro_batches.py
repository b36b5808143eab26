"""Rows of a batch -> padded micro-batches for the policy's module -> inputs and totals of the loss.

Sequences are padded on the right, without a mask: with causal attention, padding does not affect
the tokens before it. Knows no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from asymrl.algo.batch import plan, response_lengths
from asymrl.engines.distributed import World
from asymrl.types import Batch, LossInputs, LossOutputs, Tokens, UpdateStats, frozen


@frozen
class MicroBatch:
    """B rows of a batch in one padded forward pass, with their m response tokens.

    rows (B,): indices of the rows. input_ids (B, T): padded on the right, without each row's last
    token. tokens (m,): indices into the batch's flat (M,) axis. sequence, position (m,): where in
    (B, T) the hidden state that predicts each token is. targets (m,): the token ids. is_dummy: it
    is a dummy, which keeps collectives in step, and its values must be ignored.
    """

    rows: Tensor
    input_ids: Tensor
    tokens: Tensor
    sequence: Tensor
    position: Tensor
    targets: Tensor
    is_dummy: bool


def micro_batches(
    batch: Tokens,
    rows: Sequence[int],
    token_budget: int,
    world: World | None = None,
    *,
    micro_batch_cost: int = 0,
    responses_only: bool = False,
) -> Iterator[MicroBatch]:
    """These rows in micro-batches of similar length, at most `token_budget` padded tokens each,
    cut as `plan` says.

    With a world: this rank's share. Each forward pass is collective then, so every rank gets the
    same number of micro-batches, and at least one; a rank without a row left gets a dummy.
    responses_only: each row starts at the last token of its prompt.
    """
    starts = batch.prompt_lengths - 1 if responses_only else torch.zeros_like(batch.prompt_lengths)
    lengths = [
        len(ids) - start for ids, start in zip(batch.sequences, starts.tolist(), strict=True)
    ]
    row_lengths = [lengths[row] for row in rows]
    size, rank = (world.size, world.rank) if world else (1, 0)
    parts = plan(row_lengths, size, token_budget, micro_batch_cost)[rank]
    for part in parts or ([[]] if world else []):
        part_rows = [rows[index] for index in part] or [lengths.index(min(lengths))]
        yield make_micro_batch(batch, part_rows, starts, is_dummy=not part)


def make_micro_batch(
    batch: Tokens, rows: Sequence[int], starts: Tensor, *, is_dummy: bool = False
) -> MicroBatch:
    """These rows as one padded MicroBatch, each from token `starts` (R,) on."""
    lengths = response_lengths(batch)
    index = torch.tensor(rows)
    inputs = [torch.tensor(batch.sequences[row][int(starts[row]) : -1]) for row in rows]
    counts = lengths[index]
    offset = torch.cat([torch.arange(count) for count in counts.tolist()])
    first_token = (lengths.cumsum(0) - lengths)[index]
    first_position = (batch.prompt_lengths - 1 - starts)[index]
    tokens = torch.repeat_interleave(first_token, counts) + offset
    return MicroBatch(
        rows=index,
        input_ids=nn.utils.rnn.pad_sequence(inputs, batch_first=True),
        tokens=tokens,
        sequence=torch.repeat_interleave(torch.arange(len(rows)), counts),
        position=torch.repeat_interleave(first_position, counts) + offset,
        targets=batch.targets[tokens],
        is_dummy=is_dummy,
    )


def forward_micro_batch(
    module: nn.Module, micro: MicroBatch, device: Any, prefix: Mapping[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probs (m,) and entropy (m,) of a micro-batch, on `device`; prefix as in PolicyModule."""
    tensors = (micro.input_ids, micro.sequence, micro.position, micro.targets)
    return module(*(to_device(t, device) for t in tensors), *([prefix] if prefix else []))


def to_device(tensor: Tensor, device: Any) -> Tensor:
    """Copy to `device` without blocking the host. The copy starts from pinned memory, because a
    copy from pageable memory waits until the device has finished its queued work."""
    if torch.device(device).type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_flat(parts: Sequence[tuple[Tensor, Tensor]], length: int) -> Tensor:
    """Assemble (2, length) on the CPU from parts (tokens (m,), values (2, m)); 0 elsewhere.

    tokens are indices on the CPU, values may be on any device. Waits for the device once.
    """
    flat = torch.zeros(2, length)
    if parts:
        tokens = torch.cat([tokens for tokens, _ in parts])
        flat[:, tokens] = torch.cat([values for _, values in parts], dim=1).float().cpu()
    return flat


def loss_inputs(batch: Batch, tokens: Tensor, logprobs: Tensor, entropy: Tensor) -> LossInputs:
    """The batch's values at `tokens` (m,), with the policy's current log-probs and entropy (m,) of
    these tokens. All on the device of `logprobs`."""
    device, reference = logprobs.device, batch.reference_logprobs
    return LossInputs(
        logprobs=logprobs,
        entropy=entropy,
        old_logprobs=to_device(batch.old_logprobs[tokens], device),
        advantages=to_device(batch.advantages[tokens], device),
        loss_mask=to_device(batch.loss_mask[tokens], device),
        row=to_device(batch.row[tokens], device),
        group=to_device(batch.group, device),
        accuracy_bin=to_device(batch.accuracy_bin, device),
        loss_denominators=to_device(batch.loss_denominators[tokens], device),
        reference_logprobs=None if reference is None else to_device(reference[tokens], device),
        minibatch=batch,
        tokens=tokens,
    )


def empty_loss_inputs(batch: Batch, device: Any) -> LossInputs:
    """Loss inputs without tokens. Their loss has every metric, with the value 0."""
    empty = torch.zeros(0, device=device)
    return loss_inputs(batch, torch.zeros(0, dtype=torch.long), empty, empty)


def total(parts: Sequence[LossOutputs]) -> LossOutputs:
    """The sums, counts and maxima of several micro-batches or ranks together, in fp64.

    The results carry no graph and are on the CPU, so this call waits for the device. All parts must
    have the same names.
    """

    def combine(operation: Callable[..., Tensor], tensors: Iterable[Tensor]) -> Tensor:
        return reduce(operation, [tensor.detach().double() for tensor in tensors]).cpu()

    first = parts[0]
    pairs = {name: zip(*(p.metrics[name] for p in parts), strict=True) for name in first.metrics}
    return LossOutputs(
        loss=combine(torch.add, [p.loss for p in parts]),
        metrics={
            name: (combine(torch.add, sums), combine(torch.add, counts))
            for name, (sums, counts) in pairs.items()
        },
        maxima={n: combine(torch.maximum, [p.maxima[n] for p in parts]) for n in first.maxima},
        by_accuracy_bin={
            name: combine(torch.add, [p.by_accuracy_bin[name] for p in parts])
            for name in first.by_accuracy_bin
        },
    )


def make_update_stats(
    minibatch: Batch,
    totals: LossOutputs,
    *,
    grad_norm: float,
    lr: float,
    updates: int,
    non_finite: str | None,
) -> UpdateStats:
    """The stats of an update from its totals over the trained rows.

    The skipped rows have advantage 0, so they only add their tokens to the counts.
    """
    skipped = ~minibatch.has_gradient
    skipped_tokens = minibatch.loss_mask[skipped[minibatch.row]].sum().item()
    means = {
        name: sums.item() / max(counts.item() + skipped_tokens, 1.0)
        for name, (sums, counts) in totals.metrics.items()
    }
    maxima = {name: largest.item() for name, largest in totals.maxima.items()}
    return UpdateStats(
        metrics={"loss/total": totals.loss.item(), **means, **maxima},
        by_accuracy_bin={name: sums.tolist() for name, sums in totals.by_accuracy_bin.items()},
        grad_norm=grad_norm,
        lr=lr,
        updates=updates,
        skipped_rows=int(skipped.sum()),
        non_finite=non_finite,
    )
