"""Rollouts with a plain transformers model: the engine of laptops and tests.

A prompt is prefilled once for its G samples, finished rows leave the batch at once, and every
sample reads its own stream of uniforms (inverse CDF), so its tokens do not depend on what is
sampled beside it, up to floating point. Logprobs and entropy come with the tokens; in fp32 they
are declared exact. Knows nothing of training.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from asymrl.engines.rollout import fingerprint, uniforms
from asymrl.types import Request, Rollout, Sampling


class HFEngine:
    """`model` is a causal LM in eval mode, owned by the engine; `decode` turns ids into text."""

    def __init__(self, model: Any, decode: Callable[[Sequence[int]], str], max_rows: int) -> None:
        self.model = model.eval()
        self.decode = decode
        self.max_rows = max_rows
        self.weight_dtype: torch.dtype = model.dtype
        self.exact_logprobs = model.dtype == torch.float32

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Requests of like prompt length go together, as many as have `max_rows` samples; one that
        has more goes alone and whole."""
        waiting = sorted(requests, key=lambda request: len(request.problem.prompt_ids))
        while waiting:
            rows = list(accumulate(request.samples for request in waiting))
            taken = max(1, bisect_right(rows, self.max_rows))
            yield from self._generate(waiting[:taken], sampling)
            waiting = waiting[taken:]

    @torch.inference_mode()
    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        device = self.model.device
        owners = [(r, i) for r in requests for i in range(r.samples)]  # by row, never dropped
        index = torch.repeat_interleave(torch.tensor([r.samples for r in requests])).to(device)
        mask, cache, logits = self._prefill(requests, device)
        cache.batch_select_indices(index)
        mask, logits = mask[index], logits[index]
        streams = torch.stack([uniforms(r.seed, i, sampling.max_tokens) for r, i in owners])
        streams = streams.to(device)
        alive = torch.arange(len(owners), device=device)
        tokens = torch.zeros(len(owners), sampling.max_tokens, dtype=torch.long, device=device)
        values = torch.zeros(len(owners), sampling.max_tokens, 2, device=device)
        stop_ids = torch.tensor(sampling.stop_ids, device=device)
        for length in range(1, sampling.max_tokens + 1):
            token, values[alive, length - 1] = sample(logits, streams[alive, length - 1], sampling)
            tokens[alive, length - 1] = token
            stopped = torch.isin(token, stop_ids)
            done = stopped | (length == sampling.max_tokens)
            if bool(done.any()):
                for row, stop in zip(alive[done].tolist(), stopped[done].tolist(), strict=True):
                    request, i = owners[row]
                    ids = tokens[row, :length].tolist()
                    yield self._rollout(request, i, ids, values[row, :length].tolist(), not stop)
                keep = torch.nonzero(~done)[:, 0]
                if not len(keep):
                    return
                cache.batch_select_indices(keep)
                alive, token, mask = alive[keep], token[keep], mask[keep]
            positions = mask.sum(1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._forward(token[:, None], mask, positions, cache)

    def _prefill(self, requests: Sequence[Request], device: Any) -> tuple[Tensor, Any, Tensor]:
        """Left-padded prompts, once each -> mask (N, P), cache, logits (N, V)."""
        prompts = [request.problem.prompt_ids for request in requests]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        cache = DynamicCache()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return mask, cache, self._forward(ids, mask, positions, cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """fp32 logits (rows, V) of the next token."""
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _rollout(self, request: Request, i: int, ids: list, values: list, cut: bool) -> Rollout:
        return Rollout(
            draw=request.draw,
            sample=i,
            token_ids=tuple(ids),
            text=self.decode(ids if cut else ids[:-1]),
            truncated=cut,
            engine_logprobs=tuple(logprob for logprob, _ in values),
            engine_entropy=tuple(entropy for _, entropy in values),
        )

    def load_weights(self, named: Iterator[tuple[str, Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in named:
                own.pop(name).copy_(tensor)
        assert not own, f"weights that the policy did not send: {sorted(own)}"

    def fingerprint(self, names: Sequence[str]) -> dict[str, float]:
        own = dict(self.model.named_parameters())
        return {name: fingerprint(own[name]) for name in names}

    def sleep(self) -> None:
        """Nothing to give back: the engine is one copy of the weights."""


def sample(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """logits (R, V), uniform (R,) fp64 -> tokens (R,), and (R, 2): their logprob and the entropy.

    Both are of softmax(logits / temperature), before top-p and top-k, at temperature 1 when
    greedy.
    """
    logprobs = (logits / (sampling.temperature or 1.0)).log_softmax(-1)
    probs = logprobs.exp()
    entropy = -(probs * logprobs).sum(-1)  # no -inf: logits are finite
    if sampling.temperature == 0:
        token = logits.argmax(-1)
    else:
        cdf = nucleus(probs.double(), sampling).cumsum(-1)
        token = torch.searchsorted(cdf, (uniform * cdf[:, -1])[:, None], right=True)[:, 0]
        token = token.clamp(max=logits.shape[-1] - 1)
    return token, torch.stack([logprobs.gather(-1, token[:, None])[:, 0], entropy], dim=-1)


def nucleus(probs: Tensor, sampling: Sampling) -> Tensor:
    """Zero what top-k, then top-p leave out; unnormalised."""
    if sampling.top_k:
        least = probs.topk(min(sampling.top_k, probs.shape[-1])).values[:, -1:]
        probs = probs.where(probs >= least, 0)
    if sampling.top_p < 1:
        ranked, order = probs.sort(descending=True)
        before = ranked.cumsum(-1) - ranked
        kept = ranked.where(before < sampling.top_p * probs.sum(-1, keepdim=True), 0)
        probs = torch.zeros_like(probs).scatter(-1, order, kept)
    return probs
