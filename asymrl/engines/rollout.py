"""The protocol of a rollout engine: it takes prompts and returns sampled responses.

Independent of training and of the engines, which are in hf.py, vllm.py and scripted.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asymrl.errors import UserError
from asymrl.types import Request, Rollout, Sampling, derive_seed

FINGERPRINT_CHUNK = 2**20  # entries of a tensor that `fingerprint` converts to fp64 at a time

StopRequested = Callable[[], object]  # true if the run should stop now


def never() -> None:
    """A StopRequested for generation that runs to its end."""


class RolloutEngine(Protocol):
    """Samples responses with the weights that it received last. Load weights before generating.

    weight_dtype: the dtype to which the engine converts the weights it receives. exact_logprobs:
    True if its log-probs and entropy equal the policy's own forward pass up to fp32 rounding, so
    that the trainer can skip the score pass.
    """

    @property
    def weight_dtype(self) -> torch.dtype: ...

    @property
    def exact_logprobs(self) -> bool: ...

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop_requested: StopRequested = never,
    ) -> Iterator[Rollout]:
        """Yield every sample of every request exactly once, in the order in which they finish.

        The tokens depend on the requests' seeds; each engine's module says what else affects them.
        Once stop_requested() is true, at most one more token is generated, and samples are missing.
        Collective over the ranks of one tensor-parallel engine, which pass the same requests.
        """
        ...

    def load_weights(self, named: Iterator[tuple[str, Tensor]]) -> None:
        """Replace all weights and get ready to generate; a sleeping engine wakes up.

        named: every parameter of the policy under its Hugging Face name (Policy.named_weights).
        Collective over all ranks, because iterating over `named` is collective.
        """
        ...

    def fingerprint(self, names: Sequence[str]) -> dict[str, float]:
        """name -> `fingerprint` of the weight that the engine uses now."""
        ...

    def sleep(self) -> None:
        """Free memory while the policy updates. The next call is `load_weights`."""
        ...


def make_rollout(
    request: Request,
    sample: int,
    token_ids: Sequence[int],
    sampling: Sampling,
    decode: Callable[[Sequence[int]], str],
    *,
    logprobs: Sequence[float],
    entropy: Sequence[float] | None = None,
) -> Rollout:
    """The Rollout of sampled tokens: truncated unless the last one is a stop token, which is left
    out of the text."""
    truncated = token_ids[-1] not in sampling.stop_ids
    return Rollout(
        draw=request.draw,
        sample=sample,
        token_ids=tuple(token_ids),
        text=decode(list(token_ids if truncated else token_ids[:-1])),
        truncated=truncated,
        engine_logprobs=tuple(logprobs),
        engine_entropy=None if entropy is None else tuple(entropy),
    )


def uniforms(seed: int, sample: int, count: int) -> Tensor:
    """(count,) fp64 uniform numbers in [0, 1) for sample number `sample` of a request.

    A longer count extends the same stream. Different (seed, sample) give independent streams.
    """
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, sample)))
    return torch.from_numpy(generator.random(count))


def fingerprint(tensor: Tensor) -> float:
    """sum_i x_i cos(i) in fp64 over the flattened tensor: changes if any entry changes or moves.

    Computed on the tensor's device, in chunks, because the head of a large model has 4e8 entries.
    """
    flat, total = tensor.detach().flatten(), 0.0
    for start in range(0, len(flat), FINGERPRINT_CHUNK):
        chunk = flat[start : start + FINGERPRINT_CHUNK].double()
        index = torch.arange(start, start + len(chunk), dtype=torch.float64, device=chunk.device)
        total += float(chunk @ index.cos_())
    return total


def check_weights_arrived(engine: RolloutEngine, named: Iterable[tuple[str, Tensor]]) -> None:
    """Compare the fingerprint of every tensor with that of the engine's copy.

    Raises RuntimeError with the name of a tensor that differs, UserError if one is not finite.
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
