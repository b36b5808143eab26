"""Log-probs and entropy from hidden states, without ever holding (M, V) logits.

One autograd function goes over tiles, some tokens by some of the vocabulary, forward and backward;
backward computes each tile's logits again. Beyond the inputs and their gradients two tiles are
held, and a third of halves where the head is of halves. On a CPU a tile stays in the cache, so that
most of the time goes into the matrix products.

The function needs `head` whole only while it runs, inside one module's forward and backward, which
is when ZeRO-3 gathers it. It never waits for the device.

Number formats: the products run in the wider of the two dtypes, whatever autocast says (it is
switched off inside). Logits, sums and what adds up over tiles are fp32 (fp64 for fp64);
half-precision products give fp32 results, so logits are never rounded to bf16. Gradients with
respect to logits are rounded to the products' dtype, and what is returned to autograd is cast to
its input's dtype at the end. On a CPU, which has no such product, halves are widened to fp32, the
head a tile at a time.

This module does not know what model made the hidden states. It has no place for a head with a bias.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_TILE = 2**20
"""Logits in a tile on a CPU: 4 MiB in fp32. Chosen by measurement (docs/performance.md)."""
SMALLEST_TILE, LARGEST_TILE = 2**22, 2**26
"""On other devices: 16 to 256 MiB in fp32, by the memory that is free."""
TILE_SHARE = 16
"""Tiles that would fit into a device's free memory, at least. Two or three live at once."""


def logprobs_and_entropy(
    hidden: Float[Tensor, "M D"],
    head: Float[Tensor, "V D"],
    targets: Int[Tensor, "M"],
    *,
    temperature: float,
    tile: tuple[int, int] | None = None,
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"]]:
    """Log-probs of `targets` and entropy, both exact, in nats, under pi = softmax(z).

        z = hidden @ head.T / temperature       log pi(target)       H = -sum_v pi_v log pi_v

    H is the Shannon entropy over the full vocabulary. Both are differentiable, once, with respect
    to `hidden` and `head`: with g and h the incoming gradients of log pi(target) and H,

        dz_v = g (1[v = target] - pi_v) - h pi_v (log pi_v + H).

    `tile`: tokens and vocabulary entries at a time, each at least 1; by default `tile_shape` of
    what the device has room for. It changes memory and speed, and results only by rounding. M = 0
    gives empty results and zero gradients. The temperature is above 0.
    """
    assert temperature > 0, f"the temperature is {temperature}, and must be above 0"
    if tile is None:
        tile = tile_shape(len(targets), len(head), tile_elements(hidden.device))
    assert min(tile) >= 1, f"the tile is {tile} tokens and entries, and each is at least 1"
    return _TiledHead.apply(hidden, head, targets.long(), temperature, tile)


def tile_elements(device: torch.device) -> int:
    """Logits that a tile may hold. On CUDA a power of 2, so that it seldom changes from call to
    call; ranks may differ, since no collective runs between tiles."""
    if device.type != "cuda":
        return CPU_TILE
    free = torch.cuda.mem_get_info(device)[0]
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return bounded_tile(free)


def bounded_tile(free_bytes: int) -> int:
    """The largest power of 2, in fp32 logits, of which TILE_SHARE fit; within the bounds."""
    fits = 2 ** int(math.log2(max(1, free_bytes // (4 * TILE_SHARE))))
    return min(max(fits, SMALLEST_TILE), LARGEST_TILE)


def tile_shape(tokens: int, vocabulary: int, elements: int) -> tuple[int, int]:
    """(tokens, vocabulary entries) of a tile: square, for the sake of the products, or as much
    longer on one side as the other is short. At most `elements` together, at least 1 each."""
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
        logprobs = hidden.new_empty(len(targets), dtype=_result_dtype(hidden, head))
        entropy, peak, total = (torch.empty_like(logprobs) for _ in range(3))
        memory = _memory(logprobs, tile)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _parts(len(targets), tile[0]):
                wide = hidden[rows].to(_operand_dtype(hidden, head))
                tiles = _tiles(wide, head, temperature, tile[1], memory)
                chosen, *statistics = _statistics(tiles, targets[rows], logprobs.dtype)
                peak[rows], total[rows], entropy[rows] = statistics
                logprobs[rows] = (chosen - peak[rows]) - total[rows].log()
        ctx.save_for_backward(hidden, head, targets, peak, total, entropy)
        ctx.temperature, ctx.tile = temperature, tile
        ctx.set_materialize_grads(False)  # an output that the loss does not use costs nothing
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_logprobs: Tensor | None, of_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, head, targets, peak, total, entropy = ctx.saved_tensors
        wants_hidden, wants_head, *_ = ctx.needs_input_grad
        g = torch.zeros_like(entropy) if of_logprobs is None else of_logprobs
        scale, by_logit = _coefficients(g, of_entropy, total, entropy)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_head = torch.zeros_like(head, dtype=entropy.dtype) if wants_head else None
        memory, alpha = _memory(entropy, ctx.tile), 1 / ctx.temperature
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _parts(len(targets), ctx.tile[0]):
                wide = hidden[rows].to(_operand_dtype(hidden, head))
                of_wide = torch.zeros_like(wide, dtype=entropy.dtype)
                tiles = _tiles(wide, head, ctx.temperature, ctx.tile[1], memory)
                for start, part, logits, spare in tiles:
                    shifted = logits.sub_(peak[rows, None])
                    slope = None if by_logit is None else by_logit[rows, None]
                    grad = _logits_gradient(shifted, scale[rows, None], slope, spare)
                    _add_at(grad, targets[rows] - start, g[rows])
                    grad = grad.to(part.dtype)
                    if grad_hidden is not None:
                        _product(of_wide, grad, part, beta=1.0, alpha=alpha)
                    if grad_head is not None:
                        into = grad_head[start : start + len(part)]
                        _product(into, grad.T, wide, beta=1.0, alpha=alpha)
                if grad_hidden is not None:
                    grad_hidden[rows] = of_wide.to(hidden.dtype)
        if grad_head is not None:
            grad_head = grad_head.to(head.dtype)
        return grad_hidden, grad_head, None, None, None


Tile = tuple[int, Tensor, Tensor, Tensor]


def _tiles(
    hidden: Float[Tensor, "N D"],
    head: Float[Tensor, "V D"],
    temperature: float,
    width: int,
    memory: tuple[Tensor, Tensor],
) -> Iterator[Tile]:
    """Per part of the vocabulary: its first entry, its rows of `head` in hidden's dtype (C, D), the
    logits (N, C), and as much spare memory. Logits and spare lie in `memory`, the same each time.
    """
    for columns in _parts(len(head), width):
        part = head[columns].to(hidden.dtype)
        shape = len(hidden), len(part)
        logits, spare = (flat[: shape[0] * shape[1]].view(shape) for flat in memory)
        _product(logits, hidden, part.T, beta=0.0, alpha=1 / temperature)
        yield columns.start, part, logits, spare


def _statistics(
    tiles: Iterator[Tile], targets: Int[Tensor, "N"], dtype: torch.dtype
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"], Float[Tensor, "N"], Float[Tensor, "N"]]:
    """The targets' logits; the largest logit m; S; entropy H. Overwrites the tiles.

        S = sum_v exp(z_v - m)      H = log S - sum_v exp(z_v - m) (z_v - m) / S

    Every tile is summed from its own largest logit, and the sums are shifted to m at the end. No
    term of H is below 0, so nothing cancels.
    """
    chosen = torch.zeros_like(targets, dtype=dtype)
    parts = []
    for start, _, logits, spare in tiles:
        place = targets - start
        found = logits.gather(1, place.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        chosen = torch.where(_inside(place, logits), found, chosen)
        top = logits.amax(1)
        weight = torch.exp(logits.sub_(top[:, None]), out=spare)
        parts.append((top, weight.sum(1), weight.mul_(logits).sum(1)))
    tops, totals, moments = (torch.stack(of_tiles) for of_tiles in zip(*parts, strict=True))
    peak = tops.amax(0)
    shift = tops - peak
    weight = shift.exp()
    total = (weight * totals).sum(0)
    moment = (weight * (moments + shift * totals)).sum(0)
    return chosen, peak, total, total.log() - moment / total


def _coefficients(
    g: Float[Tensor, "M"],
    h: Float[Tensor, "M"] | None,
    total: Float[Tensor, "M"],
    entropy: Float[Tensor, "M"],
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"] | None]:
    """(a, b) of dz_v = exp(z_v - m) (a + b (z_v - m)), but for the target's own g: pi_v is
    exp(z_v - m) / S and log pi_v is z_v - m - log S. b is None where there is no h."""
    if h is None:
        return -g / total, None
    return -(g + h * (entropy - total.log())) / total, -h / total


def _logits_gradient(
    shifted: Float[Tensor, "N C"],
    scale: Float[Tensor, "N 1"],
    by_logit: Float[Tensor, "N 1"] | None,
    spare: Float[Tensor, "N C"],
) -> Float[Tensor, "N C"]:
    """exp(x) (a + b x) of shifted logits x, in their own memory."""
    if by_logit is None:
        return shifted.exp_().mul_(scale)
    weight = torch.exp(shifted, out=spare)
    return torch.addcmul(scale, shifted, by_logit, out=shifted).mul_(weight)


def _add_at(tile: Float[Tensor, "N C"], place: Int[Tensor, "N"], g: Float[Tensor, "N"]) -> None:
    """tile[n, place[n]] += g[n] where that is inside the tile."""
    mine = torch.where(_inside(place, tile), g, 0.0)
    tile.scatter_add_(1, place.clamp(0, tile.shape[1] - 1)[:, None], mine[:, None])


def _inside(place: Int[Tensor, "N"], tile: Float[Tensor, "N C"]) -> Tensor:
    return (place >= 0) & (place < tile.shape[1])


def _memory(like: Tensor, tile: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return like.new_empty(tile[0] * tile[1]), like.new_empty(tile[0] * tile[1])


def _parts(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]


def _result_dtype(hidden: Tensor, head: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(hidden.dtype, head.dtype), torch.float32)


def _operand_dtype(hidden: Tensor, head: Tensor) -> torch.dtype:
    """What the products run in."""
    dtype = torch.promote_types(hidden.dtype, head.dtype)
    return dtype if hidden.device.type == "cuda" else torch.promote_types(dtype, torch.float32)


def _product(out: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float) -> None:
    """out = beta out + alpha left @ right, added up in out's dtype, which is at least fp32."""
    if left.dtype in (torch.bfloat16, torch.float16):
        torch.addmm(out, left, right, out_dtype=out.dtype, beta=beta, alpha=alpha, out=out)
    else:
        torch.addmm(out, left, right, beta=beta, alpha=alpha, out=out)
