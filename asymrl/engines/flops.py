"""Counts the floating-point operations of a policy, as a share of the devices' peak (MFU).

The forward pass of a row of T input tokens, of which R predict a response token, takes

    2 N T  +  2 V D R  +  4 L Q T (T + 1) / 2

multiplications and additions. N: weights of the backbone's matrices (without embeddings, norms and
biases). V x D: the head, which only processes response tokens. L: layers of attention, with
Q = heads x head_dim; a token attends to itself and all tokens before it, and a pair takes 2 Q
operations for the score and 2 Q for the weighted sum. The backward pass takes twice as much, so an
update takes three times as much; a frozen weight of LoRA needs no gradient of its own, so its part
takes twice as much. This is PaLM's 6 x parameters x tokens + 12 x layers x width x T^2
(arXiv 2204.02311, Appendix B), with half of T^2, because causal attention needs no more.

Only rows with a forward pass count. Not counted: padding, softmax, optimizer, and what layer
checkpointing and the chunked head compute a second time. So a policy that computes all layers twice
stays below 75%, however fast it runs.

Knows shapes and lengths, and no engine. Dense models only: in a mixture of experts, a token does
not use every weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from asymrl.algo.batch import response_lengths
from asymrl.types import Batch, Tokens, frozen

BF16_PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800 PCIe": 756e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "A40": 150e12,
    "A10": 125e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 operations a second, from the makers' data sheets, without sparsity. A key matches
whole words in CUDA's name of the device: L4 does not match L40, and A100 does not match A1000."""


@frozen
class Work:
    """What a token costs, in multiply-adds.

    matrices: weights of the backbone's matrices. attention: layers x heads x head_dim, for one
    token that attends to one token. head: V x D. frozen_matrices, frozen_head: those of the weights
    that are not trained. peak: operations a second of all devices that share the work, None if
    unknown.
    """

    matrices: int
    attention: int
    head: int
    frozen_matrices: int = 0
    frozen_head: int = 0
    peak: float | None = None


def work_per_token(model: Any, devices: int = 1) -> Work:
    """The Work of a Hugging Face causal LM, whole or sharded by ZeRO-3 (with its size in ds_shape).

    The peak is None if a weight has 3 or more dimensions (stacked experts, convolutions), because
    the formula does not hold then.
    """
    config, backbone = model.config.get_text_config(), model.get_decoder()
    embeddings = {id(m.weight) for m in backbone.modules() if isinstance(m, torch.nn.Embedding)}
    weights = [p for p in backbone.parameters() if id(p) not in embeddings]
    shapes = [getattr(p, "ds_shape", p.shape) for p in weights]
    sizes = [shape[0] * shape[1] if len(shape) == 2 else 0 for shape in shapes]
    head = model.get_output_embeddings().weight
    head_size = math.prod(getattr(head, "ds_shape", head.shape))
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Work(
        matrices=sum(sizes),
        attention=config.num_hidden_layers * heads * head_dim,
        head=head_size,
        frozen_matrices=sum(
            size for size, p in zip(sizes, weights, strict=True) if not p.requires_grad
        ),
        frozen_head=0 if head.requires_grad else head_size,
        peak=peak_flops(devices) if all(len(shape) < 3 for shape in shapes) else None,
    )


def forward_flops(work: Work, lengths: Tensor, responses: Tensor) -> float:
    """Operations of a forward pass over rows with `lengths` (R,) input tokens, of which
    `responses` (R,) predict a response token."""
    tokens, pairs = lengths.double(), lengths.double() * (lengths + 1) / 2
    per_row = work.matrices * tokens + work.head * responses + 2 * work.attention * pairs
    return 2 * per_row.sum().item()


def rows_flops(work: Work, tokens: Tokens, rows: Tensor | None = None) -> float:
    """Operations of a forward pass over the rows where `rows` (R,) is True; over all rows if None.
    A row's last token is not an input."""
    responses = response_lengths(tokens)
    lengths = torch.tensor([len(sequence) - 1 for sequence in tokens.sequences])
    mask = torch.ones_like(lengths, dtype=torch.bool) if rows is None else rows
    return forward_flops(work, lengths[mask], responses[mask])


def update_flops(work: Work, batch: Batch) -> float:
    """Operations of an update on the rows of a mini-batch that have a gradient: three forward
    passes, less the gradients of frozen weights."""
    frozen = Work(matrices=work.frozen_matrices, head=work.frozen_head, attention=0)
    rows = batch.has_gradient
    return 3 * rows_flops(work, batch, rows) - rows_flops(frozen, batch, rows)


def utilisation(
    work: Work, scored: Sequence[Tokens], updated: Sequence[Batch], seconds: Mapping[str, float]
) -> dict[str, float]:
    """perf/update_mfu and perf/score_mfu: operations / (devices' peak x seconds of the phase).

    scored: the tokens of each forward pass of the score phase; if it has none, there is no
    perf/score_mfu. updated: the mini-batches of the updates, of which the rows with has_gradient
    count. seconds: by metric name, `time/update` and `time/score`. {} if the peak is unknown.
    """
    if (peak := work.peak) is None:
        return {}
    flops = sum(update_flops(work, batch) for batch in updated)
    shares = {"perf/update_mfu": flops / (peak * seconds["time/update"])}
    if scored:
        flops = sum(rows_flops(work, tokens) for tokens in scored)
        shares["perf/score_mfu"] = flops / (peak * seconds["time/score"])
    return shares


def device_peak(name: str) -> float | None:
    """Dense bf16 operations a second of the device with this CUDA name; None if unknown."""
    matches = (peak for part, peak in BF16_PEAKS.items() if re.search(rf"\b{part}\b", name))
    return next(matches, None)


def peak_flops(devices: int) -> float | None:
    """Operations a second of so many GPUs like this one. None on a CPU, and on a GPU that is not in
    BF16_PEAKS."""
    one = device_peak(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return None if one is None else one * devices
