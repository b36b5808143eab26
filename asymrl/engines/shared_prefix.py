"""Computes each prompt of a mini-batch once for all rows that begin with it.

The prompts' keys and values are leaves of the rows' backward passes. The gradients that gather in
them then flow through the prompts in one backward pass of their own. The total gradient is the
same up to the order of summation. Knows transformers' causal LMs that cache keys and values only;
no loss and no optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from asymrl.engines.micro_batches import MicroBatch
from asymrl.engines.policy import PolicyModule
from asymrl.types import Tokens, frozen

MIN_TOKENS_SAVED = 128
"""Saving fewer tokens costs more time than it saves: a small model gets one more forward pass."""


@frozen
class SharedPrompts:
    """N prompts without their last token, padded to P on the left.

    Padding on the left keeps a token's distance from the response, which sliding-window attention
    depends on. mask (N, P): False for padding. prompt (R,): the index of each row's prompt.
    computed: (keys, values) of each layer, with the graph that made them. leaves: detached copies
    that gather the rows' gradients.
    """

    mask: Tensor
    prompt: Tensor
    computed: Sequence[tuple[Tensor, Tensor]]
    leaves: Sequence[tuple[Tensor, Tensor]]


def saves_time(batch: Tokens, rows: Sequence[int]) -> bool:
    """Whether sharing the prompts of these rows saves at least MIN_TOKENS_SAVED tokens."""
    lengths = {int(batch.group[row]): int(batch.prompt_lengths[row]) - 1 for row in rows}
    saved = sum(int(batch.prompt_lengths[row]) - 1 for row in rows) - sum(lengths.values())
    return saved >= MIN_TOKENS_SAVED


def split_rows(batch: Tokens, rows: Sequence[int], max_tokens: int) -> list[list[int]]:
    """The rows in parts of whole groups, such that the prompts of a part, without their last token
    and padded, have at most `max_tokens` tokens, or are one. Groups of similar prompt length
    share a part. The memory of a part's prompts is needed until its rows are done."""
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(int(batch.group[row]), []).append(row)
    by_length = sorted(groups.values(), key=lambda group: int(batch.prompt_lengths[group[0]]))
    parts: list[list[list[int]]] = []
    for group in by_length:  # the longest prompt so far
        length = int(batch.prompt_lengths[group[0]]) - 1
        if not parts or (len(parts[-1]) + 1) * length > max_tokens:
            parts.append([])
        parts[-1].append(group)
    return [[row for group in part for row in group] for part in parts]


def encode(module: PolicyModule, batch: Tokens, rows: Sequence[int]) -> SharedPrompts:
    """Run the prompts of the rows through the backbone. Rows of one group share a prompt."""
    first_rows = {int(batch.group[row]): row for row in reversed(rows)}
    prompts = [batch.sequences[r][: int(batch.prompt_lengths[r]) - 1] for r in first_rows.values()]
    # padded on the right, so that no mask is needed; the results then move to the right
    ids = torch.zeros(len(prompts), max(1, *map(len, prompts)), dtype=torch.long)
    for n, prompt in enumerate(prompts):
        ids[n, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
    lengths = torch.tensor([len(prompt) for prompt in prompts])[:, None]
    source = torch.arange(ids.shape[1]) - (ids.shape[1] - lengths)  # negative for padding
    prompt_of_group = torch.zeros(int(batch.group.max()) + 1, dtype=torch.long)
    prompt_of_group[list(first_rows)] = torch.arange(len(first_rows))
    cache, device = DynamicCache(), module.model.device
    module.model.get_decoder()(input_ids=ids.to(device), past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    index = source.clamp(min=0).to(device)
    computed = [
        (select_tokens(layer.keys, index), select_tokens(layer.values, index)) for layer in layers
    ]
    leaves = [(k.detach().requires_grad_(), v.detach().requires_grad_()) for k, v in computed]
    return SharedPrompts(
        mask=(source >= 0).to(device),
        prompt=prompt_of_group[batch.group].to(device),
        computed=computed,
        leaves=leaves,
    )


def select_tokens(states: Tensor, source: Tensor) -> Tensor:
    """states (N, heads, P, D), source (N, P) -> (N, heads, P, D) with result[n, :, p] =
    states[n, :, source[n, p]]."""
    index = source[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    return states.gather(2, index)


def prefix_inputs(
    prompts: SharedPrompts, prompt_lengths: Tensor, micro: MicroBatch
) -> dict[str, Any]:
    """Keyword arguments of the backbone for a micro-batch whose rows continue the shared prompts,
    each from its prompt's last token on. prompt_lengths (R,): last tokens included."""
    (rows, width), index = micro.input_ids.shape, micro.rows.to(prompts.mask.device)
    prompt, cache = prompts.prompt[index], DynamicCache()
    for layer, (keys, values) in enumerate(prompts.leaves):
        cache.update(keys[prompt], values[prompt], layer)
    mask = prompts.mask[prompt]
    starts = prompt_lengths.to(index.device)[index, None] - 1
    return {
        "past_key_values": cache,
        "attention_mask": torch.cat([mask, mask.new_ones(rows, width)], dim=1),
        "position_ids": starts + torch.arange(width, device=index.device),
        "use_cache": True,
    }


def backward_prompts(prompts: SharedPrompts) -> None:
    """Send the gradients of the leaves through the prompts, after the backward passes of all
    rows."""
    computed = [states for layer in prompts.computed for states in layer]
    leaves = [leaf for layer in prompts.leaves for leaf in layer]
    pairs = zip(computed, leaves, strict=True)
    # below the first adapter of LoRA, nothing is trained, and keys and values have no graph
    trained = [(states, leaf.grad) for states, leaf in pairs if states.requires_grad]
    torch.autograd.backward([s for s, _ in trained], [gradient for _, gradient in trained])
