"""Log-probs and entropy from hidden states without materialising the (M, V) logits.

One autograd function loops over tiles (some tokens x some of the vocabulary) in forward and in
backward; backward recomputes the logits of each tile. Beyond inputs and gradients, two tiles are in
memory at a time, and a third in half precision if the head is in half precision. On a CPU a tile
fits into the cache. The function never synchronises with the device, and `head` must be complete
only while it runs, inside the forward and backward of one module, which is when ZeRO-3 gathers it.

Precision: the matrix products run in the wider of the two input dtypes, without autocast. Logits,
sums and accumulators over tiles are fp32 (fp64 for fp64 inputs). On CUDA, half-precision products
give fp32 results, so logits are never rounded to bf16; on a CPU, which has no such product,
half-precision inputs are converted to fp32, the head one tile at a time. Gradients of logits are
rounded to the dtype of the products, and each returned gradient to the dtype of its input.

This module does not know the model. It does not support a head with a bias.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_TILE = 2**20
"""Logits in a tile on a CPU: 4 MiB in fp32, chosen by measurement (docs/performance.md)."""
SMALLEST_TILE, LARGEST_TILE = 2**22, 2**26
"""Bounds for logits in a tile on a GPU: 16 to 256 MiB in fp32, depending on free memory."""
TILE_SHARE = 16
"""A tile takes at most 1 / TILE_SHARE of a GPU's free memory; two or three exist at once."""


def logprobs_and_entropy(
    hidden: Float[Tensor, "M D"],
    head: Float[Tensor, "V D"],
    targets: Int[Tensor, "M"],
    *,
    temperature: float,
    tile: tuple[int, int] | None = None,
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"]]:
    """Exact log-probs of `targets` and entropy, in nats, under pi = softmax(z).

        z = hidden @ head.T / temperature       log pi(target)       H = -sum_v pi_v log pi_v

    H is the Shannon entropy over the full vocabulary. Both outputs are differentiable (once) with
    respect to `hidden` and `head`. With g and h the incoming gradients of log pi(target) and H,

        dz_v = g (1[v = target] - pi_v) - h pi_v (log pi_v + H).

    `tile` is (tokens, vocabulary entries), each at least 1. By default it follows from the
    device's free memory. It changes memory and speed, and results only by rounding. M = 0 gives
    empty results and zero gradients. The temperature must be above 0.
    """
    assert temperature > 0, f"temperature must be above 0 (got {temperature})"
    if tile is None:
        tile = tile_shape(len(targets), len(head), tile_elements(hidden.device))
    assert min(tile) >= 1, f"both sides of tile must be at least 1 (got {tile})"
    return _TiledHead.apply(hidden, head, targets.long(), temperature, tile)


def tile_elements(device: torch.device) -> int:
    """The number of logits in a tile on this device. Ranks may have different numbers, since no
    collective runs between tiles."""
    if device.type != "cuda":
        return CPU_TILE
    free = torch.cuda.mem_get_info(device)[0]
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return bounded_tile(free)


def bounded_tile(free_bytes: int) -> int:
    """The largest power of 2 such that TILE_SHARE tiles of fp32 logits fit, within the bounds. A
    power of 2 rarely changes between calls."""
    fits = 2 ** int(math.log2(max(1, free_bytes // (4 * TILE_SHARE))))
    return min(max(fits, SMALLEST_TILE), LARGEST_TILE)


def tile_shape(tokens: int, vocabulary: int, elements: int) -> tuple[int, int]:
    """(tokens, vocabulary entries) of a tile with at most `elements` logits, each at least 1.

    The tile is square, which is fastest for matrix products. If there are too few tokens or
    vocabulary entries for a square, the other side is longer.
    """
    columns = min(vocabulary, elements // max(1, min(tokens, math.isqrt(elements))))
    return max(1, min(tokens, elements // columns)), columns


class _TiledHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        temperature: float,
        tile: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(torch.promote_types(hidden.dtype, head.dtype), torch.float32)
        logprobs = hidden.new_empty(len(targets), dtype=dtype)
        entropy, peak, total = (torch.empty_like(logprobs) for _ in range(3))
        memory = _memory(logprobs, tile)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _parts(len(targets), tile[0]):
                hidden_rows = hidden[rows].to(_operand_dtype(hidden, head))
                tiles = _tiles(hidden_rows, head, temperature, tile[1], memory)
                target_logits, *statistics = _statistics(tiles, targets[rows], logprobs.dtype)
                peak[rows], total[rows], entropy[rows] = statistics
                logprobs[rows] = (target_logits - peak[rows]) - total[rows].log()
        ctx.save_for_backward(hidden, head, targets, peak, total, entropy)
        ctx.temperature, ctx.tile = temperature, tile
        ctx.set_materialize_grads(False)  # an output that the loss ignores costs nothing
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, head, targets, peak, total, entropy = ctx.saved_tensors
        needs_hidden, needs_head, *_ = ctx.needs_input_grad
        g = torch.zeros_like(entropy) if grad_logprobs is None else grad_logprobs
        a, b = _coefficients(g, grad_entropy, total, entropy)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_head = torch.zeros_like(head, dtype=entropy.dtype) if needs_head else None
        memory, alpha = _memory(entropy, ctx.tile), 1 / ctx.temperature
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _parts(len(targets), ctx.tile[0]):
                hidden_rows = hidden[rows].to(_operand_dtype(hidden, head))
                grad_rows = torch.zeros_like(hidden_rows, dtype=entropy.dtype)
                tiles = _tiles(hidden_rows, head, ctx.temperature, ctx.tile[1], memory)
                for start, head_rows, logits, spare in tiles:
                    shifted = logits.sub_(peak[rows, None])
                    b_rows = None if b is None else b[rows, None]
                    grad = _logits_gradient(shifted, a[rows, None], b_rows, spare)
                    inside, column = _columns(targets[rows] - start, grad)
                    grad.scatter_add_(1, column, torch.where(inside, g[rows], 0.0)[:, None])
                    grad = grad.to(head_rows.dtype)
                    if grad_hidden is not None:
                        _product(grad_rows, grad, head_rows, beta=1.0, alpha=alpha)
                    if grad_head is not None:
                        grad_head_rows = grad_head[start : start + len(head_rows)]
                        _product(grad_head_rows, grad.T, hidden_rows, beta=1.0, alpha=alpha)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad_rows.to(hidden.dtype)
        if grad_head is not None:
            grad_head = grad_head.to(head.dtype)
        return grad_hidden, grad_head, None, None, None


Tile = tuple[int, Tensor, Tensor, Tensor]
"""(first vocabulary entry, rows of the head (C, D), logits (N, C), spare memory (N, C))."""


def _tiles(
    hidden: Float[Tensor, "N D"],
    head: Float[Tensor, "V D"],
    temperature: float,
    width: int,
    memory: tuple[Tensor, Tensor],
) -> Iterator[Tile]:
    """One tile for each `width` vocabulary entries; the rows of the head are in hidden's dtype.

    The logits and the spare memory of all tiles are views of `memory`, so a tile is valid only
    until the next one.
    """
    for columns in _parts(len(head), width):
        head_rows = head[columns].to(hidden.dtype)
        shape = len(hidden), len(head_rows)
        logits, spare = (flat[: shape[0] * shape[1]].view(shape) for flat in memory)
        _product(logits, hidden, head_rows.T, beta=0.0, alpha=1 / temperature)
        yield columns.start, head_rows, logits, spare


def _statistics(
    tiles: Iterator[Tile], targets: Int[Tensor, "N"], dtype: torch.dtype
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"], Float[Tensor, "N"], Float[Tensor, "N"]]:
    """The logits of the targets, the largest logit m, S, and the entropy H. Overwrites the tiles.

        S = sum_v exp(z_v - m)      H = log S - sum_v exp(z_v - m) (z_v - m) / S

    Each tile is summed relative to its own largest logit, and the sums are shifted to m at the end.
    No term of H is negative, so nothing cancels.
    """
    target_logits = torch.zeros_like(targets, dtype=dtype)
    tile_sums = []
    for start, _, logits, spare in tiles:
        inside, column = _columns(targets - start, logits)
        target_logits = torch.where(inside, logits.gather(1, column)[:, 0], target_logits)
        peak = logits.amax(1)
        weight = torch.exp(logits.sub_(peak[:, None]), out=spare)
        tile_sums.append((peak, weight.sum(1), weight.mul_(logits).sum(1)))
    peaks, totals, moments = (torch.stack(sums) for sums in zip(*tile_sums, strict=True))
    peak = peaks.amax(0)
    shift = peaks - peak
    weight = shift.exp()
    total = (weight * totals).sum(0)
    moment = (weight * (moments + shift * totals)).sum(0)
    return target_logits, peak, total, total.log() - moment / total


def _coefficients(
    g: Float[Tensor, "M"],
    h: Float[Tensor, "M"] | None,
    total: Float[Tensor, "M"],
    entropy: Float[Tensor, "M"],
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"] | None]:
    """(a, b) such that dz_v = exp(z_v - m) (a + b (z_v - m)), plus g where v is the target.

    Follows from pi_v = exp(z_v - m) / S and log pi_v = z_v - m - log S. b is None if h is None.
    """
    if h is None:
        return -g / total, None
    return -(g + h * (entropy - total.log())) / total, -h / total


def _logits_gradient(
    shifted: Float[Tensor, "N C"],
    a: Float[Tensor, "N 1"],
    b: Float[Tensor, "N 1"] | None,
    spare: Float[Tensor, "N C"],
) -> Float[Tensor, "N C"]:
    """exp(x) (a + b x) for shifted logits x. Overwrites x."""
    if b is None:
        return shifted.exp_().mul_(a)
    weight = torch.exp(shifted, out=spare)
    return torch.addcmul(a, shifted, b, out=shifted).mul_(weight)


def _columns(column: Int[Tensor, "N"], tile: Float[Tensor, "N C"]) -> tuple[Tensor, Tensor]:
    """Which columns are inside the tile (N,), and the nearest ones that are (N, 1)."""
    width = tile.shape[1]
    return (column >= 0) & (column < width), column.clamp(0, width - 1)[:, None]


def _memory(like: Tensor, tile: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Memory for the logits of one tile, and as much again as spare."""
    return like.new_empty(tile[0] * tile[1]), like.new_empty(tile[0] * tile[1])


def _parts(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]


def _operand_dtype(hidden: Tensor, head: Tensor) -> torch.dtype:
    """The dtype of the operands of the matrix products."""
    dtype = torch.promote_types(hidden.dtype, head.dtype)
    return dtype if hidden.device.type == "cuda" else torch.promote_types(dtype, torch.float32)


def _product(out: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float) -> None:
    """out = beta out + alpha left @ right, accumulated in out's dtype, which is at least fp32."""
    if left.dtype in (torch.bfloat16, torch.float16):
        torch.addmm(out, left, right, out_dtype=out.dtype, beta=beta, alpha=alpha, out=out)
    else:
        torch.addmm(out, left, right, beta=beta, alpha=alpha, out=out)
