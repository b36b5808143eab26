"""Log-probs and entropy from hidden states, without ever holding (M, V) logits.

One autograd function loops over chunks of tokens, forward and backward; backward computes each
chunk's logits again. It needs `head` whole only while it runs, inside one module's forward and
backward, which is when ZeRO-3 gathers it.

Number formats: the products run in the wider of the two dtypes, whatever autocast says (it is
switched off inside). Logits, log-softmax, sums and the gradient of `head` are fp32 (fp64 for
fp64); half-precision products give fp32 results, so logits are never rounded to bf16. Gradients
with respect to logits are rounded to the products' dtype, and what is returned to autograd is cast
to its input's dtype at the end. On a CPU, which has no such product, halves are widened to fp32
copies first.

This module does not know what model made the hidden states. It has no place for a head with a bias.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**26
"""Logits that a chunk may hold: 256 MiB in fp32. About two such arrays live at once."""


def logprobs_and_entropy(
    hidden: Float[Tensor, "M D"],
    head: Float[Tensor, "V D"],
    targets: Int[Tensor, "M"],
    *,
    temperature: float,
    chunk: int | None = None,
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"]]:
    """Log-probs of `targets` and entropy, both exact, in nats, under pi = softmax(z).

        z = hidden @ head.T / temperature       log pi(target)       H = -sum_v pi_v log pi_v

    H is the Shannon entropy over the full vocabulary. Both are differentiable, once, with respect
    to `hidden` and `head`: with g and h the incoming gradients of log pi(target) and H,

        dz_v = g (1[v = target] - pi_v) - h pi_v (log pi_v + H).

    `chunk`: tokens at a time; by default as many as keep chunk x V within CHUNK_ELEMENTS, at least
    1. It changes memory and speed, and results only by rounding. M = 0 gives empty results and
    zero gradients. The temperature is above 0.
    """
    assert temperature > 0, f"the temperature is {temperature}, and must be above 0"
    chunk = max(1, CHUNK_ELEMENTS // head.shape[0]) if chunk is None else chunk
    assert chunk >= 1, f"the chunk is {chunk} tokens, and is at least 1"
    return _ChunkedHead.apply(hidden, head, targets.long(), temperature, chunk)


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        wide_hidden, wide_head = _operands(hidden, head)
        logprobs = hidden.new_empty(len(targets), dtype=_result_dtype(hidden, head))
        entropy = torch.empty_like(logprobs)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(targets), chunk):
                logp = _log_softmax(wide_hidden[rows], wide_head, temperature)
                logprobs[rows] = logp.gather(1, targets[rows, None]).squeeze(1)
                entropy[rows] = -logp.exp().mul_(logp).sum(1)
                del logp  # before the next chunk's logits are made
        ctx.save_for_backward(hidden, head, targets, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)  # an output that the loss does not use costs nothing
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_logprobs: Tensor | None, of_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, head, targets, entropy = ctx.saved_tensors
        wants_hidden, wants_head, *_ = ctx.needs_input_grad
        if of_logprobs is None:
            of_logprobs = torch.zeros_like(entropy)
        wide_hidden, wide_head = _operands(hidden, head)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_head = torch.zeros_like(head, dtype=entropy.dtype) if wants_head else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(targets), ctx.chunk):
                logp = _log_softmax(wide_hidden[rows], wide_head, ctx.temperature)
                g, h = (
                    of_logprobs[rows, None],
                    None if of_entropy is None else of_entropy[rows, None],
                )
                grad = _logits_gradient(logp, targets[rows, None], entropy[rows, None], g, h)
                grad = grad.div_(ctx.temperature).to(wide_head.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = _product(grad, wide_head).to(hidden.dtype)
                if grad_head is not None:
                    grad_head += _product(grad.T, wide_hidden[rows])
                del logp, grad
        if grad_head is not None:
            grad_head = grad_head.to(head.dtype)
        return grad_hidden, grad_head, None, None, None


def _logits_gradient(
    logp: Float[Tensor, "C V"],
    targets: Int[Tensor, "C 1"],
    entropy: Float[Tensor, "C 1"],
    g: Float[Tensor, "C 1"],
    h: Float[Tensor, "C 1"] | None,
) -> Float[Tensor, "C V"]:
    """dz_v = g (1[v = target] - pi_v) - h pi_v (log pi_v + H), in the memory of `logp`."""
    if h is None:
        grad = logp.exp_().mul_(-g)
    else:
        pi = logp.exp()
        grad = logp.add_(entropy).mul_(h).add_(g).mul_(pi).neg_()
    return grad.scatter_add_(1, targets, g)


def _chunks(length: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, length, chunk)]


def _result_dtype(hidden: Tensor, head: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(hidden.dtype, head.dtype), torch.float32)


def _operands(hidden: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype that the products run in; no copy where they already are."""
    dtype = torch.promote_types(hidden.dtype, head.dtype)
    if hidden.device.type != "cuda":
        dtype = torch.promote_types(dtype, torch.float32)
    return hidden.to(dtype), head.to(dtype)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in at least fp32, also of halves."""
    if left.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(left, right, out_dtype=torch.float32)
    return left @ right


def _log_softmax(
    hidden: Float[Tensor, "C D"], head: Float[Tensor, "V D"], temperature: float
) -> Float[Tensor, "C V"]:
    return torch.log_softmax(_product(hidden, head.T).div_(temperature), dim=1)
