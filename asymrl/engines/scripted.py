"""A rollout engine that returns responses from a script: the test double for the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from asymrl.engines.rollout import StopRequested, fingerprint, make_rollout, never
from asymrl.types import Request, Rollout, Sampling

Script = Callable[[Request, int], Sequence[int]]


class ScriptedEngine:
    """`script(request, sample)` returns the token ids of one response, stop token included.

    Responses longer than max_tokens are cut. Log-probs are zeros and declared not exact. Of the
    weights it receives, the engine keeps the fingerprints only.
    """

    exact_logprobs = False
    weight_dtype = torch.float32

    def __init__(self, script: Script, decode: Callable[[Sequence[int]], str]) -> None:
        self.script = script
        self.decode = decode
        self.fingerprints: dict[str, float] = {}

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop_requested: StopRequested = never,
    ) -> Iterator[Rollout]:
        for request in requests:
            for sample in range(request.samples):
                if stop_requested():
                    return
                ids = self.script(request, sample)[: sampling.max_tokens]
                zeros = [0.0] * len(ids)
                yield make_rollout(request, sample, ids, sampling, self.decode, logprobs=zeros)

    def load_weights(self, named: Iterator[tuple[str, Tensor]]) -> None:
        self.fingerprints = {name: fingerprint(tensor) for name, tensor in named}

    def fingerprint(self, names: Sequence[str]) -> dict[str, float]:
        return {name: self.fingerprints[name] for name in names}

    def sleep(self) -> None: ...
