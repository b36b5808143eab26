"""What a rollout engine is: prompts in, sampled responses out, weights on request.

Knows no particular engine. Seeds: sample i of draw j at step s reads one stream of uniforms that
is derived from (run seed, s, j, i) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asymrl.errors import UserError
from asymrl.types import Request, Rollout, Sampling, derive_seed

FINGERPRINT_PART = 2**24


class RolloutEngine(Protocol):
    """Generates with the weights it was last given; without any, it refuses.

    exact_logprobs: its logprobs and entropy equal the policy's own forward pass to fp32 rounding,
    so that no score pass is needed. weight_dtype: what weights become when they are loaded.
    """

    @property
    def weight_dtype(self) -> torch.dtype: ...

    @property
    def exact_logprobs(self) -> bool: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Every sample of every request once, in the order they finish."""
        ...

    def load_weights(self, named: Iterator[tuple[str, Tensor]]) -> None:
        """Take all of the policy's weights, under their Hugging Face names, and be ready to
        generate: an engine that sleeps wakes here. Collective over the ranks, as `named` is."""
        ...

    def fingerprint(self, names: Sequence[str]) -> dict[str, float]:
        """`fingerprint` of the named weights, as the engine computes with them now."""
        ...

    def sleep(self) -> None:
        """Give memory back while the policy updates; the weights may be lost."""
        ...


def uniforms(seed: int, sample: int, count: int) -> Tensor:
    """(count,) fp64 uniforms in [0, 1): the stream of sample number `sample` of a request."""
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, sample)))
    return torch.from_numpy(generator.random(count))


def fingerprint(tensor: Tensor) -> float:
    """A number that a changed, moved or stale entry changes: a fixed projection, in fp64.

    Computed where the tensor is, a part at a time: the head of a large model has 4e8 entries.
    """
    flat, total = tensor.detach().flatten(), 0.0
    for start in range(0, len(flat), FINGERPRINT_PART):
        part = flat[start : start + FINGERPRINT_PART].double()
        places = torch.arange(start, start + len(part), dtype=torch.float64, device=part.device)
        total += float(part @ places.cos_())
    return total


def check_weights(engine: RolloutEngine, named: Iterable[tuple[str, Tensor]]) -> None:
    """Compare every tensor with what the engine computes with, by fingerprint.

    Raises RuntimeError that names the tensor that differs, UserError for one that is not finite.
    """
    for name, tensor in named:
        sent = fingerprint(tensor.to(engine.weight_dtype))
        if not math.isfinite(sent):
            raise UserError(f"the weights of {name} are not finite; start from another checkpoint")
        arrived = engine.fingerprint([name])[name]
        if not math.isclose(sent, arrived, rel_tol=1e-9, abs_tol=1e-9):
            raise RuntimeError(
                f"weight sync failed: {name} is {sent} in the policy and {arrived} in the engine"
            )
