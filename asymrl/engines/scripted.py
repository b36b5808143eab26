"""A rollout engine that says what it is told: the double for tests of everything around one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from asymrl.engines.rollout import fingerprint
from asymrl.types import Request, Rollout, Sampling

Script = Callable[[Request, int], Sequence[int]]


class ScriptedEngine:
    """`script(request, sample)` gives the token ids of one response, its stop token included.

    What is longer than max_tokens is cut there. Its logprobs are zeros and not exact. It keeps the
    fingerprints of the weights it was given.
    """

    exact_logprobs = False
    weight_dtype = torch.float32

    def __init__(self, script: Script, decode: Callable[[Sequence[int]], str]) -> None:
        self.script = script
        self.decode = decode
        self.weights: dict[str, float] = {}

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        for request in requests:
            for sample in range(request.samples):
                ids = tuple(self.script(request, sample))[: sampling.max_tokens]
                truncated = ids[-1] not in sampling.stop_ids
                yield Rollout(
                    draw=request.draw,
                    sample=sample,
                    token_ids=ids,
                    text=self.decode(ids if truncated else ids[:-1]),
                    truncated=truncated,
                    engine_logprobs=(0.0,) * len(ids),
                    engine_entropy=None,
                )

    def load_weights(self, named: Iterator[tuple[str, Tensor]]) -> None:
        self.weights = {name: fingerprint(tensor) for name, tensor in named}

    def fingerprint(self, names: Sequence[str]) -> dict[str, float]:
        return {name: self.weights[name] for name in names}

    def sleep(self) -> None: ...
