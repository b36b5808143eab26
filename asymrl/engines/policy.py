"""What a policy is, and what all policies share: the wrapper module and the micro-batch layout.

Knows torch modules and Hugging Face causal LMs; no optimizer, no distribution. Sequences are
padded on the right: under causal attention padding then changes nothing before it, and no mask is
needed.
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
    """The trained model with its optimizer. Every method is collective over the ranks.

    work: what a token of it costs, for the utilisation of the device.
    """

    @property
    def work(self) -> Work: ...

    def score(self, batch: Tokens) -> tuple[Tensor, Tensor]:
        """logprobs (M,) and entropy (M,) of the response tokens, fp32 on the CPU, no gradient."""
        ...

    def update(self, minibatch: Batch, loss: LossFn) -> UpdateStats:
        """One optimizer step; rows that are not live are skipped."""
        ...

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights under their Hugging Face names, tied ones once."""
        ...

    def sleep(self) -> None:
        """Give memory back until the next update; scoring and `named_weights` go on."""
        ...

    def state(self) -> TrainerState | None:
        """Whole on the first rank, None on the others."""
        ...

    def load_state(self, state: TrainerState) -> None:
        """The same state on every rank; it may be of another number of ranks or backend."""
        ...

    def save_pretrained(self, folder: Path, state: TrainerState) -> None:
        """The Hugging Face model folder of a state, without the tokenizer. Not collective."""
        ...


class PolicyModule(nn.Module):
    """A causal LM as the trainer sees it: token ids in, logprobs and entropy of chosen tokens out.

    Full logits (B, T, V) are never held: the head works on the hidden states of response tokens
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
        before: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """input_ids (B, T); sequence, position (m,): where each target's hidden state is; before:
        what the backbone is told of tokens before the first (prompts.py)."""
        backbone = self.model.get_decoder()
        hidden = backbone(input_ids=input_ids, **(before or {"use_cache": False})).last_hidden_state
        return self.head(hidden[sequence, position], targets)

    def named_hf_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.model.named_parameters()


class Head(nn.Module):
    """The LM head, chunked: hidden (m, D), targets (m,) -> logprobs (m,), entropy (m,)."""

    def __init__(self, linear: Any, temperature: float) -> None:
        super().__init__()
        assert getattr(linear, "bias", None) is None, "an LM head with a bias is not supported"
        self.linear = linear
        self.temperature = temperature

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        weight, device = self.linear.weight, hidden.device.type
        if torch.is_autocast_enabled(device):  # as autocast does it for a linear layer
            dtype = torch.get_autocast_dtype(device)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        return logprobs_and_entropy(hidden, weight, targets, temperature=self.temperature)


@frozen
class MicroBatch:
    """Some rows of a batch as one padded forward pass.

    rows: which; input_ids (B, T), right-padded, without each row's last token; tokens (m,): the
    rows' places in the flat (M,) axis; sequence, position (m,): the hidden state that predicts
    each; targets (m,).
    """

    rows: Sequence[int]
    input_ids: Tensor
    tokens: Tensor
    sequence: Tensor
    position: Tensor
    targets: Tensor


def micro_batch(batch: Tokens, rows: Sequence[int], *, responses_only: bool = False) -> MicroBatch:
    """responses_only: each row from the last token of its prompt on."""
    lengths = response_lengths(batch)
    first = lengths.cumsum(0) - lengths
    chosen = torch.tensor(rows)
    starts = batch.prompt_lengths[chosen] - 1
    begins = starts if responses_only else torch.zeros_like(starts)
    texts = [batch.sequences[r][begin:-1] for r, begin in zip(rows, begins.tolist(), strict=True)]
    input_ids = torch.zeros(len(rows), max(map(len, texts)), dtype=torch.long)
    for b, text in enumerate(texts):
        input_ids[b, : len(text)] = torch.tensor(text)
    counts = lengths[chosen]
    offset = torch.arange(int(counts.sum())) - torch.repeat_interleave(
        counts.cumsum(0) - counts, counts
    )
    tokens = torch.repeat_interleave(first[chosen], counts) + offset
    return MicroBatch(
        rows=rows,
        input_ids=input_ids,
        tokens=tokens,
        sequence=torch.repeat_interleave(torch.arange(len(rows)), counts),
        position=torch.repeat_interleave(starts - begins, counts) + offset,
        targets=batch.targets[tokens],
    )


def run(
    module: nn.Module, micro: MicroBatch, device: Any, before: Mapping[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """logprobs (m,) and entropy (m,) of a micro-batch, on `device`."""
    parts = (micro.input_ids, micro.sequence, micro.position, micro.targets)
    return module(*(onto(part, device) for part in parts), *([before] if before else []))


def onto(tensor: Tensor, device: Any) -> Tensor:
    """A copy on `device` that the host does not wait for; from pinned memory, without which it
    would wait for all that the device still has to do."""
    if torch.device(device).type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def laid_out(parts: Sequence[tuple[Tensor, Tensor]], length: int) -> Tensor:
    """(2, length) on the CPU of parts (tokens (m,) on the CPU, values (2, m) on any device), 0
    where there is none. Waits for the device once, at the end."""
    whole = torch.zeros(2, length)
    if not parts:
        return whole
    places = torch.cat([tokens for tokens, _ in parts])
    values = torch.cat([values for _, values in parts], dim=1).float().cpu()
    whole[:, places] = values
    return whole


def loss_inputs(batch: Batch, micro: MicroBatch, logprobs: Tensor, entropy: Tensor) -> LossInputs:
    """The micro-batch's share of the batch, beside what the policy now says of it."""
    device, tokens = logprobs.device, micro.tokens
    return LossInputs(
        logprobs=logprobs,
        entropy=entropy,
        old_logprobs=onto(batch.old_logprobs[tokens], device),
        advantages=onto(batch.advantages[tokens], device),
        loss_mask=onto(batch.loss_mask[tokens], device),
        row=onto(batch.row[tokens], device),
        group=onto(batch.group, device),
        accuracy_bin=onto(batch.accuracy_bin, device),
        loss_denominators=onto(batch.loss_denominators[tokens], device),
    )


def save_model(model: Any, weights: Mapping[str, Tensor], dtype: torch.dtype, folder: Path) -> None:
    """A Hugging Face folder with these weights in this dtype; the model gives its configs."""
    model.save_pretrained(folder, state_dict={n: t.to(dtype) for n, t in weights.items()})


def check_same_parameters(state: TrainerState, own: Mapping[str, tuple[int, ...]]) -> None:
    """A state is of this model if every part has just its parameters, in their shapes."""
    for section in ("weights", "exp_avg", "exp_avg_sq"):
        held = getattr(state, section)
        for name in sorted(held.keys() | own.keys()):
            mine = own.get(name)
            theirs = tuple(held[name].shape) if name in held else None
            if mine != theirs:
                raise UserError(
                    f"the checkpoint is of another model: {section} of {name} has shape {theirs} "
                    f"there and {mine} in this model"
                )


class Totals:
    """Sums, counts and maxima of the loss metrics over the micro-batches of one mini-batch.

    They stay where the loss made them, in fp64, so that `add` never waits for the device. All
    outputs that are added have the same names.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._peaks: list[str] = []
        self._cells: dict[str, int] = {}
        self._sums: Tensor | None = None
        self._maxima: Tensor | None = None

    def add(self, outputs: LossOutputs) -> None:
        self._names, self._peaks = list(outputs.metrics), list(outputs.maxima)
        self._cells = {name: len(sums) for name, sums in outputs.by_accuracy_bin.items()}
        pairs = [part for pair in outputs.metrics.values() for part in pair]
        sums = [outputs.loss.detach(), *pairs, *outputs.by_accuracy_bin.values()]
        self._sum(torch.cat([part.double().reshape(-1) for part in sums]))
        if outputs.maxima:
            self._raise_to(torch.stack([peak.double() for peak in outputs.maxima.values()]))

    def _sum(self, sums: Tensor) -> None:
        self._sums = sums if self._sums is None else self._sums + sums

    def _raise_to(self, maxima: Tensor) -> None:
        self._maxima = maxima if self._maxima is None else torch.maximum(self._maxima, maxima)

    def fetch(self) -> Totals:
        """On the CPU, as other ranks can take it. Waits for the device."""
        assert self._sums is not None, "something was added"
        self._sums = self._sums.cpu()
        self._maxima = None if self._maxima is None else self._maxima.cpu()
        return self

    @staticmethod
    def merge(of_ranks: Sequence[Totals]) -> Totals:
        """Exact means over the whole mini-batch: sums and counts add up over its parts."""
        whole = Totals()
        for part in of_ranks:
            whole._names, whole._peaks, whole._cells = part._names, part._peaks, part._cells
            assert part._sums is not None, "something was added"
            whole._sum(part._sums)
            if part._maxima is not None:
                whole._raise_to(part._maxima)
        return whole

    def metrics(self, skipped_tokens: float) -> dict[str, float]:
        """Skipped rows have advantage 0: they add nothing to a sum, their tokens to its count."""
        loss, *sums = self._numbers()
        pairs = zip(sums[::2], sums[1::2], strict=False)  # and after the pairs, the cells
        means = {
            name: total / max(count + skipped_tokens, 1.0)
            for name, (total, count) in zip(self._names, pairs, strict=False)
        }
        maxima = [] if self._maxima is None else self._maxima.tolist()
        return {"loss/total": loss, **means, **dict(zip(self._peaks, maxima, strict=True))}

    @property
    def loss(self) -> float:
        return self._numbers()[0]

    @property
    def by_accuracy_bin(self) -> dict[str, list[float]]:
        numbers = iter(self._numbers()[1 + 2 * len(self._names) :])
        return {name: list(islice(numbers, length)) for name, length in self._cells.items()}

    def _numbers(self) -> list[float]:
        """The loss; sum and count of each metric; the cells of each name."""
        assert self._sums is not None, "something was added"
        return self._sums.tolist()


def non_finite(totals: Totals, gradients: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """What makes an update impossible: the loss, or the gradients that hold infinities or NaN."""
    if not math.isfinite(totals.loss):
        return f"the loss ({totals.loss})"
    held = [(name, gradient) for name, gradient in gradients if gradient is not None]
    if not held:
        return None
    finite = torch.stack([gradient.isfinite().all() for _, gradient in held]).tolist()
    bad = [name for (name, _), good in zip(held, finite, strict=True) if not good]
    if not bad:
        return None
    others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"the gradient of {bad[0]}{others}"


def no_tokens(batch: Batch, device: Any) -> LossInputs:
    """Of an empty micro-batch: a loss of it has all its metrics, at zero."""
    empty = torch.zeros(0, device=device)
    rows = torch.zeros(0, dtype=torch.long, device=device)
    return LossInputs(
        logprobs=empty,
        entropy=empty,
        old_logprobs=empty,
        advantages=empty,
        loss_mask=empty,
        row=rows,
        group=onto(batch.group, device),
        accuracy_bin=onto(batch.accuracy_bin, device),
        loss_denominators=empty,
    )


def without_dropout(model: Any) -> None:
    """The ratio of a fresh policy to itself is 1: so no noise, neither in scores nor updates."""
    for module in model.modules():
        rates = [name for name in vars(module) if name == "p" or "dropout" in name]
        for name in rates:
            if isinstance(getattr(module, name), float):
                setattr(module, name, 0.0)


@torch.no_grad()
def check_head(module: PolicyModule) -> None:
    """Some models do more to their logits than a linear head does; their numbers would be wrong."""
    model, device = module.model, module.model.device
    ids = torch.arange(4, 12, device=device)[None] % model.config.vocab_size
    places = torch.arange(7, device=device)
    mine, _ = module(ids[:, :-1], torch.zeros_like(places), places, ids[0, 1:])
    logits = model(input_ids=ids[:, :-1]).logits[0].float() / module.head.temperature
    theirs = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    rounding = 0.1 if model.dtype == torch.bfloat16 else 1e-3  # their logits are rounded to it
    if not torch.allclose(mine.float(), theirs, atol=rounding, rtol=rounding):
        raise UserError(
            f"{model.config.model_type} models do more to their logits than a linear head "
            "(soft-capping or scaling, say), which is not supported"
        )
