"""The protocol of a policy, and what local.py and deepspeed.py share: the module that both train,
the layout of micro-batches, and the totals of the loss metrics.

Handles torch modules and Hugging Face causal LMs, but no optimizer algorithm and no sharding.
Sequences are padded on the right, without a mask: with causal attention, padding does not affect
the tokens before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from asymrl.algo.batch import response_lengths
from asymrl.algo.logprobs import logprobs_and_entropy
from asymrl.engines.flops import Work
from asymrl.errors import UserError
from asymrl.types import (
    Batch,
    LossFn,
    LossInputs,
    LossOutputs,
    Tokens,
    TrainerState,
    UpdateStats,
    frozen,
)


class Policy(Protocol):
    """The model under training, with its optimizer.

    All methods but `save_pretrained` are collective: every rank calls them, in the same order and
    with the same arguments. Batches live on the CPU and hold all rows; each rank works on a share.
    """

    @property
    def work(self) -> Work:
        """The work per token, from which the utilisation of the devices is computed."""
        ...

    def score(self, batch: Tokens) -> tuple[Tensor, Tensor]:
        """Log-probs (M,) and entropy (M,) of the response tokens, in nats.

        Computed without gradient at the rollout temperature; fp32, on the CPU, on every rank.
        """
        ...

    def update(self, minibatch: Batch, loss: LossFn) -> UpdateStats:
        """One optimizer step on the sum of `loss` over micro-batches and ranks.

        Rows without has_gradient get no forward pass; their tokens still count in the metrics. If
        the loss or a gradient is not finite, weights and moments stay unchanged and
        UpdateStats.non_finite names it. Wakes a sleeping policy.
        """
        ...

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, unsharded, under its Hugging Face name; a tied parameter once.

        A yielded tensor stays valid until the next update. Works while asleep.
        """
        ...

    def sleep(self) -> None:
        """Free device memory until the next update. `score` and `named_weights` still work."""
        ...

    def state(self) -> TrainerState | None:
        """The full, unsharded state on rank 0; None on the other ranks."""
        ...

    def load_state(self, state: TrainerState) -> None:
        """Load the same state on every rank. It may come from another backend or world size.

        UserError if its names or shapes differ from the model's.
        """
        ...

    def save_pretrained(self, folder: Path, state: TrainerState) -> None:
        """Write the weights of `state` as a Hugging Face model folder, without the tokenizer.

        Not collective: rank 0 alone calls it.
        """
        ...


class PolicyModule(nn.Module):
    """A causal LM that maps token ids to the log-prob and entropy of chosen tokens.

    The full logits (B, T, V) never exist: the head runs on the hidden states of response tokens
    only, in chunks (algo/logprobs.py).
    """

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.head = Head(model.get_output_embeddings(), temperature)

    def forward(
        self,
        input_ids: Tensor,
        sequence: Tensor,
        position: Tensor,
        targets: Tensor,
        prefix: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """input_ids (B, T), targets (m,) -> log-probs (m,) and entropy (m,), in nats.

        sequence, position (m,): indices into (B, T) of the hidden state that predicts each target.
        prefix: keyword arguments for the backbone if input_ids continue shared prompts
        (shared_prefix.prefix_inputs).
        """
        backbone = self.model.get_decoder()
        hidden = backbone(input_ids=input_ids, **(prefix or {"use_cache": False})).last_hidden_state
        return self.head(hidden[sequence, position], targets)

    def named_hf_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.model.named_parameters()


class Head(nn.Module):
    """The LM head in chunks: hidden (m, D), targets (m,) -> log-probs (m,), entropy (m,)."""

    def __init__(self, linear: Any, temperature: float) -> None:
        super().__init__()
        assert getattr(linear, "bias", None) is None, "an LM head with a bias is not supported"
        self.linear = linear
        self.temperature = temperature

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        weight, device = self.linear.weight, hidden.device.type
        if torch.is_autocast_enabled(device):  # cast as autocast casts the inputs of nn.Linear
            dtype = torch.get_autocast_dtype(device)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        return logprobs_and_entropy(hidden, weight, targets, temperature=self.temperature)


def make_module(model: Any, temperature: float, gradient_checkpointing: bool) -> PolicyModule:
    """The module to train, in training mode. Dropout is off, so that the probability ratio of an
    unchanged policy is 1. gradient_checkpointing: layers recompute their activations."""
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        rates = [name for name in vars(module) if name == "p" or "dropout" in name]
        for name in rates:
            if isinstance(getattr(module, name), float):
                setattr(module, name, 0.0)
    return PolicyModule(model.train(), temperature)


@torch.no_grad()
def check_linear_head(module: PolicyModule) -> None:
    """Raise UserError if the model changes its logits after the linear head, because `Head` would
    then compute other log-probs than the model."""
    model, device = module.model, module.model.device
    ids = torch.arange(4, 12, device=device)[None] % model.config.vocab_size
    positions = torch.arange(7, device=device)
    ours, _ = module(ids[:, :-1], torch.zeros_like(positions), positions, ids[0, 1:])
    logits = model(input_ids=ids[:, :-1]).logits[0].float() / module.head.temperature
    theirs = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    tolerance = 0.1 if model.dtype == torch.bfloat16 else 1e-3  # the model rounds its logits
    if not torch.allclose(ours.float(), theirs, atol=tolerance, rtol=tolerance):
        raise UserError(
            f"{model.config.model_type} models are not supported: they change the logits after "
            "the linear head, for example by soft-capping or scaling"
        )


def init_adamw_state(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Set step and moments to 0 before the first step, so that a state is always complete.

    Like AdamW itself, it keeps the step on the parameter's device if fused, else on the CPU.
    """
    for parameter in parameters:
        device = parameter.device if optimizer.defaults.get("fused") else "cpu"
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


@frozen
class MicroBatch:
    """B rows of a batch in one padded forward pass, with their m response tokens.

    rows: indices of the rows. input_ids (B, T): padded on the right, without each row's last token.
    tokens (m,): indices into the batch's flat (M,) axis. sequence, position (m,): where in (B, T)
    the hidden state that predicts each token is. targets (m,): the token ids.
    """

    rows: Sequence[int]
    input_ids: Tensor
    tokens: Tensor
    sequence: Tensor
    position: Tensor
    targets: Tensor


def make_micro_batch(
    batch: Tokens, rows: Sequence[int], *, responses_only: bool = False
) -> MicroBatch:
    """These rows of a batch as one padded MicroBatch.

    responses_only: start each row at the last token of its prompt.
    """
    lengths = response_lengths(batch)
    first_token = lengths.cumsum(0) - lengths
    index = torch.tensor(rows)
    prompt_ends = batch.prompt_lengths[index] - 1
    starts = prompt_ends if responses_only else torch.zeros_like(prompt_ends)
    inputs = [batch.sequences[r][start:-1] for r, start in zip(rows, starts.tolist(), strict=True)]
    input_ids = torch.zeros(len(rows), max(map(len, inputs)), dtype=torch.long)
    for b, ids in enumerate(inputs):
        input_ids[b, : len(ids)] = torch.tensor(ids)
    counts = lengths[index]
    offset = torch.arange(int(counts.sum())) - torch.repeat_interleave(
        counts.cumsum(0) - counts, counts
    )
    tokens = torch.repeat_interleave(first_token[index], counts) + offset
    return MicroBatch(
        rows=rows,
        input_ids=input_ids,
        tokens=tokens,
        sequence=torch.repeat_interleave(torch.arange(len(rows)), counts),
        position=torch.repeat_interleave(prompt_ends - starts, counts) + offset,
        targets=batch.targets[tokens],
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
    if not parts:
        return flat
    tokens = torch.cat([tokens for tokens, _ in parts])
    flat[:, tokens] = torch.cat([values for _, values in parts], dim=1).float().cpu()
    return flat


def loss_inputs(batch: Batch, tokens: Tensor, logprobs: Tensor, entropy: Tensor) -> LossInputs:
    """The batch's values at `tokens` (m,), with the policy's current log-probs and entropy (m,) of
    these tokens. All on the device of `logprobs`."""
    device = logprobs.device
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
    )


def empty_loss_inputs(batch: Batch, device: Any) -> LossInputs:
    """Loss inputs without tokens. Their loss has every metric, with the value 0."""
    empty = torch.zeros(0, device=device)
    return loss_inputs(batch, torch.zeros(0, dtype=torch.long), empty, empty)


def make_update_stats(
    minibatch: Batch,
    totals: Totals,
    *,
    grad_norm: float,
    lr: float,
    updates: int,
    non_finite: str | None,
) -> UpdateStats:
    """The stats of an update from its totals, over trained and skipped rows."""
    trained = minibatch.has_gradient
    return UpdateStats(
        metrics=totals.metrics(minibatch.loss_mask[~trained[minibatch.row]].sum().item()),
        by_accuracy_bin=totals.by_accuracy_bin,
        grad_norm=grad_norm,
        lr=lr,
        updates=updates,
        skipped_rows=int((~trained).sum()),
        non_finite=non_finite,
    )


def save_model(model: Any, weights: Mapping[str, Tensor], dtype: torch.dtype, folder: Path) -> None:
    """Write a Hugging Face folder: these weights in this dtype, and the model's configs."""
    model.save_pretrained(folder, state_dict={n: t.to(dtype) for n, t in weights.items()})


def check_same_parameters(state: TrainerState, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError unless every part of the state has exactly the model's parameters.

    shapes: name -> shape of the model's parameters.
    """
    for section in ("weights", "exp_avg", "exp_avg_sq"):
        tensors = getattr(state, section)
        for name in sorted(tensors.keys() | shapes.keys()):
            expected = shapes.get(name)
            actual = tuple(tensors[name].shape) if name in tensors else None
            if actual != expected:
                ours, theirs = ("absent" if x is None else f"{x}" for x in (expected, actual))
                raise UserError(
                    f"the checkpoint is from another model: the shape of {name} in {section} is "
                    f"{theirs} in the checkpoint and {ours} in this model"
                )


class Totals:
    """Sums, counts and maxima of the loss metrics over the micro-batches of one mini-batch.

    They stay on the device, in fp64, so that `add` never waits for the device. All added outputs
    must have the same metric names.
    """

    def __init__(self) -> None:
        self._metrics: list[str] = []
        self._maxima_names: list[str] = []
        self._bins: dict[str, int] = {}
        self._sums: Tensor | None = None
        self._maxima: Tensor | None = None

    def add(self, outputs: LossOutputs) -> None:
        self._metrics, self._maxima_names = list(outputs.metrics), list(outputs.maxima)
        self._bins = {name: len(sums) for name, sums in outputs.by_accuracy_bin.items()}
        pairs = [number for pair in outputs.metrics.values() for number in pair]
        sums = [outputs.loss.detach(), *pairs, *outputs.by_accuracy_bin.values()]
        self._add_sums(torch.cat([part.double().reshape(-1) for part in sums]))
        if outputs.maxima:
            self._take_maxima(torch.stack([x.double() for x in outputs.maxima.values()]))

    def _add_sums(self, sums: Tensor) -> None:
        self._sums = sums if self._sums is None else self._sums + sums

    def _take_maxima(self, maxima: Tensor) -> None:
        self._maxima = maxima if self._maxima is None else torch.maximum(self._maxima, maxima)

    def fetch(self) -> Totals:
        """Move to the CPU, so that other ranks can receive it. Waits for the device."""
        assert self._sums is not None, "call add first"
        self._sums = self._sums.cpu()
        self._maxima = None if self._maxima is None else self._maxima.cpu()
        return self

    @staticmethod
    def merge(of_ranks: Sequence[Totals]) -> Totals:
        """Totals over all ranks; the means are exact, because sums and counts add up."""
        merged = Totals()
        for part in of_ranks:
            merged._metrics, merged._maxima_names = part._metrics, part._maxima_names
            merged._bins = part._bins
            assert part._sums is not None, "call add first"
            merged._add_sums(part._sums)
            if part._maxima is not None:
                merged._take_maxima(part._maxima)
        return merged

    def metrics(self, skipped_tokens: float) -> dict[str, float]:
        """Loss, means and maxima. Skipped rows have advantage 0, so they only add `skipped_tokens`
        to the counts."""
        loss, *numbers = self._numbers()
        pairs = zip(numbers[::2], numbers[1::2], strict=False)  # the accuracy bins follow
        means = {
            name: total / max(count + skipped_tokens, 1.0)
            for name, (total, count) in zip(self._metrics, pairs, strict=False)
        }
        maxima = [] if self._maxima is None else self._maxima.tolist()
        return {"loss/total": loss, **means, **dict(zip(self._maxima_names, maxima, strict=True))}

    @property
    def loss(self) -> float:
        return self._numbers()[0]

    @property
    def by_accuracy_bin(self) -> dict[str, list[float]]:
        numbers = iter(self._numbers()[1 + 2 * len(self._metrics) :])
        return {name: list(islice(numbers, length)) for name, length in self._bins.items()}

    def _numbers(self) -> list[float]:
        """The loss, then sum and count of each metric, then the bins of each binned metric."""
        assert self._sums is not None, "call add first"
        return self._sums.tolist()


def non_finite(totals: Totals, gradients: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """Names the loss or the first gradient that contains infinities or NaN; None if all are finite.

    gradients: (parameter name, gradient), None where there is no gradient.
    """
    if not math.isfinite(totals.loss):
        return f"the loss ({totals.loss})"
    present = [(name, gradient) for name, gradient in gradients if gradient is not None]
    if not present:
        return None
    finite = torch.stack([gradient.isfinite().all() for _, gradient in present]).tolist()
    bad = [name for (name, _), is_finite in zip(present, finite, strict=True) if not is_finite]
    if not bad:
        return None
    others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"the gradient of {bad[0]}{others}"
