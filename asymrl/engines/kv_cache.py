"""A key-value cache for a batch that grows by one token a step and loses rows: written in place.

transformers' own cache copies all keys and values for every new token and for every finished row.
This one allocates space for the coming tokens, and overwrites a finished row with the last
running one. Knows the attention layers of transformers; nothing of sampling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)


def capacity_for(length: int) -> int:
    """Tokens to allocate for `length` tokens: only a few more than needed, because unused tokens
    take memory and lie between the heads that attention reads."""
    return length + max(4, length // 16)


def supports(model: Any) -> bool:
    """Whether all layers cache keys and values only: no convolution, no recurrent state."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


class GrowingCache(Cache):
    layers: list[GrowingLayer]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=GrowingLayer)

    def repeat_rows(self, index: Tensor) -> None:
        """Make row n a copy of the former row index[n]; index (R,)."""
        for layer in self.layers:
            layer.repeat(index)

    def drop_rows(self, finished: Tensor) -> Tensor:
        """Remove the rows where `finished` (R,) is True -> order (R',): the former index of each
        row. The last running rows move into the places of the finished ones: few are copied."""
        rows = len(finished) - int(finished.sum())
        target = torch.nonzero(finished[:rows])[:, 0]
        source = torch.nonzero(~finished[rows:])[:, 0] + rows
        for layer in self.layers:
            layer.move(source, target, rows)
        order = torch.arange(rows, device=finished.device)
        order[target] = source
        return order


class GrowingLayer(CacheLayerMixin):
    """keys, values: (capacity in rows, heads, capacity in tokens, D). The first `rows` rows and
    `length` tokens are in use."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.rows = len(key_states)
        shape = (self.rows, key_states.shape[1], 0)
        self.keys = key_states.new_empty(*shape, key_states.shape[3])
        self.values = value_states.new_empty(*shape, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, new tokens, D); returns views of all keys and values in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            capacity = capacity_for(end) if self.length else end
            self._reallocate(slice(self.rows), self.rows, capacity)
        new_tokens = slice(self.rows), slice(None), slice(self.length, end)
        self.keys[new_tokens], self.values[new_tokens] = key_states, value_states
        self.length = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def _reallocate(self, index: Tensor | slice, rows: int, capacity: int) -> None:
        """Copy to new tensors of `rows` rows and `capacity` tokens: row n is old row index[n]."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(rows, old.shape[1], capacity, old.shape[3])
            new[:, :, : self.length] = old[index, :, : self.length]
            setattr(self, name, new)
        self.rows = rows

    def repeat(self, index: Tensor) -> None:
        self._reallocate(index, len(index), capacity_for(self.length))

    def move(self, source: Tensor, target: Tensor, rows: int) -> None:
        """Copy rows `source` over rows `target`, then keep the first `rows` only."""
        for states in (self.keys, self.values):
            assert states is not None
            states[target, :, : self.length] = states[source, :, : self.length]
        self.rows = rows

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1  # no maximum
