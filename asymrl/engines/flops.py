"""Floating-point operations of a policy's work, and what part of a device's peak that is (MFU).

A row of T input tokens, of which R predict a response token, takes in its forward pass

    2 N T  +  2 V D R  +  4 L Q T (T + 1) / 2

multiplications and additions: N weights of the backbone's matrices (embeddings are looked up, norms
and biases are left out), a head of V x D that sees responses only, and L layers of attention with Q
= heads x head_dim, each token over itself and what is before it: scores and weighted sum, 2 Q each
a pair. Backward takes twice as much, so an update takes three times: the 6 x parameters x tokens +
12 x layers x width x T^2 of PaLM (arXiv 2204.02311, Appendix B), but with half of the attention's
square, which is all that causal attention needs.

Counted are rows that had such a pass. Not counted: padding, what layer checkpointing and the
chunked head compute again, the softmax, the optimizer. So a policy that computes all layers twice
stays below 75% however fast it runs.

Knows shapes and lengths, no engine, no framework but torch tensors; dense models only, since of a
mixture of experts not every weight is used by every token.
"""

from __future__ import annotations

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
"""Dense bf16 operations a second by their makers' data sheets, without sparsity; by a part of the
name that CUDA gives the device, whole words: an L40 is no L4, an RTX A1000 no A100."""


@frozen
class Work:
    """What a token costs: weights of the backbone's matrices, layers x heads x head_dim, and V x D.

    All in multiply-adds; the attention's is for one token looking at one token. peak: operations a
    second of all devices that share the work; None where it is not known.
    """

    matrices: int
    attention: int
    head: int
    peak: float | None = None


def work_of(model: Any, devices: int = 1) -> Work:
    """Of a Hugging Face causal LM, whole or sharded by ZeRO-3 (then ds_shape is the size). Without
    a peak where weights are no matrices: stacked experts, convolutions."""
    config = model.config.get_text_config()
    inner = {id(p) for p in model.get_decoder().parameters()}
    modules = model.get_decoder().modules()  # of positions too
    looked_up = {id(each.weight) for each in modules if isinstance(each, torch.nn.Embedding)}
    shapes = {
        id(p): tuple(getattr(p, "ds_shape", p.shape))
        for p in model.parameters()
        if id(p) in inner and id(p) not in looked_up
    }
    vocabulary, width = getattr(
        model.get_output_embeddings().weight, "ds_shape", model.get_output_embeddings().weight.shape
    )
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Work(
        matrices=sum(shape[0] * shape[1] for shape in shapes.values() if len(shape) == 2),
        attention=config.num_hidden_layers * heads * head_dim,
        head=vocabulary * width,
        peak=peak_of(devices) if all(len(shape) < 3 for shape in shapes.values()) else None,
    )


def forward_flops(work: Work, lengths: Tensor, responses: Tensor) -> float:
    """Of rows with `lengths` (R,) input tokens, of which `responses` (R,) predict a response."""
    tokens, pairs = lengths.double(), lengths.double() * (lengths + 1) / 2
    of_rows = work.matrices * tokens + work.head * responses + 2 * work.attention * pairs
    return 2 * of_rows.sum().item()


def rows_flops(work: Work, tokens: Tokens, rows: Tensor | None = None) -> float:
    """A forward pass over the rows where `rows` (R,) is True, or over all. A row's last token
    is no input."""
    responses = response_lengths(tokens)
    lengths = torch.tensor([len(sequence) - 1 for sequence in tokens.sequences])
    chosen = torch.ones_like(lengths, dtype=torch.bool) if rows is None else rows
    return forward_flops(work, lengths[chosen], responses[chosen])


def utilisation(
    work: Work,
    scored: Tokens | None,
    updated: Sequence[Batch],
    seconds: Mapping[str, float],
) -> dict[str, float]:
    """perf/update_mfu and, where there was a score pass over `scored`, perf/score_mfu: operations
    by what the devices' peak allows in the phase's seconds. Nothing where that is not known.

    updated: the mini-batches in the order of the updates; of each, the live rows count.
    """
    if (peak := work.peak) is None:
        return {}
    flops = sum(3 * rows_flops(work, batch, batch.has_gradient) for batch in updated)
    shares = {"perf/update_mfu": flops / (peak * seconds["time/update"])}
    if scored is not None:
        shares["perf/score_mfu"] = rows_flops(work, scored) / (peak * seconds["time/score"])
    return shares


def device_peak(name: str) -> float | None:
    """Dense bf16 operations a second of the device that CUDA calls `name`; None if unknown."""
    named = (peak for part, peak in BF16_PEAKS.items() if re.search(rf"\b{part}\b", name))
    return next(named, None)


def peak_of(devices: int) -> float | None:
    """All devices' together. None on a CPU and on an unknown GPU: BF16_PEAKS takes another line."""
    one = device_peak(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return None if one is None else one * devices
