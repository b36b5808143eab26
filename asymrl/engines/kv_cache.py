"""The keys and values of a batch that grows by a token a step and loses rows: written in place.

transformers' own cache copies all of it for every token and for every row that goes. This one is
laid out once with room for the tokens to come, and a row that goes is overwritten by the last one
that stays. Knows attention layers of transformers; nothing of sampling.
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


def room_for(length: int) -> int:
    """Tokens that a layer of so many gets room for: few more, since attention reads past gaps."""
    return length + max(4, length // 16)


def suits(model: Any) -> bool:
    """Whether keys and values are all that the layers keep: no convolution, no recurrent state."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


class Layer(CacheLayerMixin):
    """keys, values: (rows, heads, room, D), of which the first `rows` and `length` count."""

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
        """Append (rows, heads, new tokens, D) -> views of all so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            room = room_for(end) if self.length else end
            self._lay_out(slice(self.rows), self.rows, room)
        parts = slice(self.rows), slice(None), slice(self.length, end)
        self.keys[parts], self.values[parts] = key_states, value_states
        self.length = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def _lay_out(self, index: Tensor | slice, rows: int, room: int) -> None:
        """Row n of so many becomes what the n-th of `index` was, with room for so many tokens."""
        for name in ("keys", "values"):
            before = getattr(self, name)
            after = before.new_empty(rows, before.shape[1], room, before.shape[3])
            after[:, :, : self.length] = before[index, :, : self.length]
            setattr(self, name, after)
        self.rows = rows

    def repeat(self, index: Tensor) -> None:
        self._lay_out(index, len(index), room_for(self.length))

    def move(self, source: Tensor, target: Tensor, rows: int) -> None:
        """Copy rows `source` over rows `target`; then only the first `rows` are left."""
        for whole in (self.keys, self.values):
            assert whole is not None
            whole[target, :, : self.length] = whole[source, :, : self.length]
        self.rows = rows

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1  # it grows


def new() -> Cache:
    return Cache(layer_class_to_replicate=Layer)


def repeat(cache: Cache, index: Tensor) -> None:
    """Row n becomes a copy of what row index[n] was."""
    for layer in cache.layers:
        assert isinstance(layer, Layer)
        layer.repeat(index)


def drop(cache: Cache, gone: Tensor) -> Tensor:
    """Without the rows where `gone` (R,) is True -> order (R',): which row each place has now.

    The last rows that stay move into the places of those that go, so that few are copied.
    """
    rows = len(gone) - int(gone.sum())
    target = torch.nonzero(gone[:rows])[:, 0]
    source = torch.nonzero(~gone[rows:])[:, 0] + rows
    for layer in cache.layers:
        assert isinstance(layer, Layer)
        layer.move(source, target, rows)
    order = torch.arange(rows, device=gone.device)
    order[target] = source
    return order
