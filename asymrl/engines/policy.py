"""What a policy is, and what all policies share: the wrapper module and the micro-batch layout.

Knows torch modules and Hugging Face causal LMs; no optimizer, no distribution. Sequences are
padded on the right: under causal attention padding then changes nothing before it, and no mask is
needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from asymrl.algo.logprobs import logprobs_and_entropy
from asymrl.batch import response_lengths
from asymrl.types import Batch, LossFn, LossInputs, Tokens, TrainerState, UpdateStats, value


class Policy(Protocol):
    """The trained model with its optimizer. Every method is collective over the ranks."""

    def score(self, batch: Tokens) -> tuple[Tensor, Tensor]:
        """logprobs (M,) and entropy (M,) of the response tokens, fp32 on the CPU, no gradient."""
        ...

    def update(self, minibatch: Batch, loss: LossFn) -> UpdateStats:
        """One optimizer step; rows that are not live are skipped."""
        ...

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights under their Hugging Face names, tied ones once."""
        ...

    def state(self) -> TrainerState: ...

    def load_state(self, state: TrainerState) -> None: ...

    def save_pretrained(self, folder: Path) -> None:
        """The Hugging Face model folder, without the tokenizer."""
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
        self, input_ids: Tensor, sequence: Tensor, position: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """input_ids (B, T); sequence, position (m,): where each target's hidden state is."""
        backbone = self.model.get_decoder()
        hidden = backbone(input_ids=input_ids, use_cache=False).last_hidden_state
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
        return logprobs_and_entropy(
            hidden, self.linear.weight, targets, temperature=self.temperature
        )


@value
class MicroBatch:
    """Some rows of a batch as one padded forward pass.

    input_ids (B, T), right-padded, without each row's last token; tokens (m,): the rows' places in
    the flat (M,) axis; sequence, position (m,): the hidden state that predicts each; targets (m,).
    """

    input_ids: Tensor
    tokens: Tensor
    sequence: Tensor
    position: Tensor
    targets: Tensor


def micro_batch(batch: Tokens, rows: Sequence[int]) -> MicroBatch:
    lengths = response_lengths(batch)
    first = lengths.cumsum(0) - lengths
    input_ids = torch.zeros(
        len(rows), max(len(batch.sequences[r]) for r in rows) - 1, dtype=torch.long
    )
    for b, r in enumerate(rows):
        sequence = torch.tensor(batch.sequences[r][:-1])
        input_ids[b, : len(sequence)] = sequence
    chosen = torch.tensor(rows)
    counts = lengths[chosen]
    offset = torch.arange(int(counts.sum())) - torch.repeat_interleave(
        counts.cumsum(0) - counts, counts
    )
    tokens = torch.repeat_interleave(first[chosen], counts) + offset
    return MicroBatch(
        input_ids=input_ids,
        tokens=tokens,
        sequence=torch.repeat_interleave(torch.arange(len(rows)), counts),
        position=torch.repeat_interleave(batch.prompt_lengths[chosen] - 1, counts) + offset,
        targets=batch.targets[tokens],
    )


def run(module: nn.Module, micro: MicroBatch, device: Any) -> tuple[Tensor, Tensor]:
    """logprobs (m,) and entropy (m,) of a micro-batch, on `device`."""
    return module(
        micro.input_ids.to(device),
        micro.sequence.to(device),
        micro.position.to(device),
        micro.targets.to(device),
    )


def loss_inputs(batch: Batch, micro: MicroBatch, logprobs: Tensor, entropy: Tensor) -> LossInputs:
    """The micro-batch's share of the batch, beside what the policy now says of it."""
    device, tokens = logprobs.device, micro.tokens
    return LossInputs(
        logprobs=logprobs,
        entropy=entropy,
        old_logprobs=batch.old_logprobs[tokens].to(device),
        advantages=batch.advantages[tokens].to(device),
        weight=batch.weight[tokens].to(device),
        row=batch.row[tokens].to(device),
        group=batch.group.to(device),
        denominators=batch.denominators[tokens].to(device),
    )


class Totals:
    """Sums, counts and maxima of the loss metrics over the micro-batches of one mini-batch."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.pairs: dict[str, list[float]] = {}
        self.maxima: dict[str, float] = {}

    def add(self, outputs: Any) -> None:
        self.loss += outputs.loss.item()
        for name, (total, count) in outputs.metrics.items():
            pair = self.pairs.setdefault(name, [0.0, 0.0])
            pair[0] += total.item()
            pair[1] += count.item()
        for name, peak in outputs.maxima.items():
            self.maxima[name] = max(self.maxima.get(name, peak.item()), peak.item())

    def means(self, skipped_tokens: float) -> dict[str, float]:
        """Skipped rows have advantage 0: they add nothing to any sum, their tokens to the count."""
        means = {
            name: total / max(count + skipped_tokens, 1.0)
            for name, (total, count) in self.pairs.items()
        }
        return {"loss/total": self.loss, **means, **self.maxima}
