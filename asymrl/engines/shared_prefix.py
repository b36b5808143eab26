"""The prompts of a mini-batch, each computed once for all the rows that begin with it.

Their keys and values are leaves for the rows' backward passes; what those leave in them then goes
through the prompts in one backward pass of its own. The gradient is the same, but for the order of
sums. Knows causal LMs of transformers whose cache is keys and values; no loss and no optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from asymrl.engines.policy import PolicyModule
from asymrl.types import Tokens, frozen

WORTH = 128
"""Tokens that have to be saved: fewer cost less than one more pass through a small model."""


@frozen
class Prompts:
    """N prompts without their last token, padded to P on the left: a token then stands where its
    row has it, counted from the response, which sliding windows go by. mask (N, P): the rest is
    padding; place (R,): each row's prompt; made: keys, values of each layer, and leaves: copies of
    them that gather gradients."""

    mask: Tensor
    place: Tensor
    made: Sequence[tuple[Tensor, Tensor]]
    leaves: Sequence[tuple[Tensor, Tensor]]


def worth_it(batch: Tokens, rows: Sequence[int], most: int) -> bool:
    """Whether computing each prompt of these rows once saves enough, and all of them, padded and
    in one pass, are at most so many tokens."""
    lengths = {int(batch.group[row]): int(batch.prompt_lengths[row]) - 1 for row in rows}
    saved = sum(int(batch.prompt_lengths[row]) - 1 for row in rows) - sum(lengths.values())
    padded = len(lengths) * max(lengths.values(), default=0)
    return saved >= WORTH and padded <= most


def compute(module: PolicyModule, batch: Tokens, rows: Sequence[int]) -> Prompts:
    """Of the given rows. Rows of a group have one prompt."""
    first = {int(batch.group[row]): row for row in reversed(rows)}
    texts = [batch.sequences[r][: int(batch.prompt_lengths[r]) - 1] for r in first.values()]
    ids = torch.zeros(len(texts), max(1, *map(len, texts)), dtype=torch.long)
    for n, text in enumerate(texts):
        ids[n, : len(text)] = torch.tensor(text, dtype=torch.long)
    lengths = torch.tensor([len(text) for text in texts])[:, None]
    source = torch.arange(ids.shape[1]) - (ids.shape[1] - lengths)  # below 0: padding
    place = torch.zeros(int(batch.group.max()) + 1, dtype=torch.long)
    place[list(first)] = torch.arange(len(first))
    cache, device = DynamicCache(), module.model.device
    # no mask: padding on the right changes nothing before it
    module.model.get_decoder()(input_ids=ids.to(device), past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    index = source.clamp(min=0).to(device)
    made = [(moved(layer.keys, index), moved(layer.values, index)) for layer in layers]
    leaves = [(k.detach().requires_grad_(), v.detach().requires_grad_()) for k, v in made]
    return Prompts(
        mask=(source >= 0).to(device),
        place=place[batch.group].to(device),
        made=made,
        leaves=leaves,
    )


def moved(whole: Tensor, source: Tensor) -> Tensor:
    """whole (N, heads, P, D), source (N, P) -> the tokens in another order."""
    index = source[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3])
    return whole.gather(2, index)


def before(prompts: Prompts, lengths: Tensor, rows: Sequence[int], width: int) -> dict[str, Any]:
    """What a forward pass over these rows' responses (B, width), each after the last token of its
    prompt, needs to know of their prompts. lengths (R,): of prompts, whole."""
    chosen = torch.tensor(rows, device=prompts.mask.device)
    place, cache = prompts.place[chosen], DynamicCache()
    for layer, (keys, values) in enumerate(prompts.leaves):
        cache.update(keys[place], values[place], layer)
    mask = prompts.mask[place]
    begins = lengths.to(chosen.device)[chosen, None] - 1
    return {
        "past_key_values": cache,
        "attention_mask": torch.cat([mask, mask.new_ones(len(rows), width)], dim=1),
        "position_ids": begins + torch.arange(width, device=chosen.device),
        "use_cache": True,
    }


def backward(prompts: Prompts) -> None:
    """Once all rows' backward passes are done."""
    made = [tensor for layer in prompts.made for tensor in layer]
    leaves = [leaf for layer in prompts.leaves for leaf in layer]
    torch.autograd.backward(made, [leaf.grad for leaf in leaves])
