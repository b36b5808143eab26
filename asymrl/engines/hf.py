"""Rollouts with a plain transformers model: the engine for laptops and tests.

Each prompt is prefilled once for its G samples, and finished rows leave the batch at once. Every
sample is drawn by inverse CDF from its own stream of uniform numbers, so its tokens do not depend
on the rest of the batch, up to floating point. The engine returns log-probs and entropy with the
tokens; in fp32 they count as exact. Independent of training.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from asymrl.engines import kv_cache
from asymrl.engines.kv_cache import GrowingCache
from asymrl.engines.rollout import StopRequested, fingerprint, make_rollout, never, uniforms
from asymrl.errors import UserError
from asymrl.types import Request, Rollout, Sampling

VOCABULARY_BLOCK = 512  # tokens that `inverse_cdf` sums into one block
CPU_LOGITS = 2**20  # logits that a CPU processes at a time: 4 MiB, which stay in its cache


class HFEngine:
    """`model` is a causal LM of the engine's own, or the one that a policy in this process trains:
    then there is one copy of the weights, and loading them copies nothing. `decode` turns token ids
    into text.

    max_rows: samples generated at a time. UserError if the model caches more than keys and values.
    """

    def __init__(self, model: Any, decode: Callable[[Sequence[int]], str], max_rows: int) -> None:
        if not kv_cache.supports(model):
            raise UserError(
                f"rollout.engine=hf does not support {model.config.model_type} models: their "
                "layers cache more than keys and values"
            )
        self.model = model.eval()
        self.weights = {name: weight.detach() for name, weight in model.named_parameters()}
        self.decode = decode
        self.max_rows = max_rows
        self.weight_dtype: torch.dtype = model.dtype
        self.exact_logprobs = model.dtype == torch.float32

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop_requested: StopRequested = never,
    ) -> Iterator[Rollout]:
        """Batches requests of similar prompt length, up to `max_rows` samples in a batch. A request
        with more samples than `max_rows` is a batch by itself."""
        self.model.eval()  # in training mode, layer checkpointing would ignore the cache
        waiting = sorted(requests, key=lambda request: len(request.problem.prompt_ids))
        while waiting and not stop_requested():
            rows = list(accumulate(request.samples for request in waiting))
            count = max(1, bisect_right(rows, self.max_rows))
            yield from self._generate_batch(waiting[:count], sampling, stop_requested)
            waiting = waiting[count:]

    @torch.inference_mode()
    def _generate_batch(
        self, requests: Sequence[Request], sampling: Sampling, stop_requested: StopRequested
    ) -> Iterator[Rollout]:
        device = self.model.device
        owners = [(r, i) for r in requests for i in range(r.samples)]  # of all rows
        index = torch.repeat_interleave(torch.tensor([r.samples for r in requests])).to(device)
        mask, positions, cache, logits = self._prefill(requests, sampling.max_tokens)
        cache.repeat_rows(index)
        mask = None if mask is None else mask[index]
        positions, logits = positions[index], logits[index]
        streams = torch.stack([uniforms(r.seed, i, sampling.max_tokens) for r, i in owners])
        streams = streams.to(device)
        running = torch.arange(len(owners), device=device)
        tokens = torch.zeros(len(owners), sampling.max_tokens, dtype=torch.long, device=device)
        values = torch.zeros(len(owners), sampling.max_tokens, 2, device=device)
        stop_ids = torch.tensor(sampling.stop_ids, device=device)
        for length in range(1, sampling.max_tokens + 1):
            token, values[running, length - 1] = sample_tokens(
                logits, streams[running, length - 1], sampling
            )
            tokens[running, length - 1] = token
            finished = torch.isin(token, stop_ids) | (length == sampling.max_tokens)
            if bool(finished.any()):
                for row in running[finished].tolist():
                    request, sample = owners[row]
                    logprobs, entropy = values[row, :length].T.tolist()
                    yield make_rollout(
                        request,
                        sample,
                        tokens[row, :length].tolist(),
                        sampling,
                        self.decode,
                        logprobs=logprobs,
                        entropy=entropy,
                    )
                order = cache.drop_rows(finished)
                if not len(order):
                    return
                running, token, positions = running[order], token[order], positions[order]
                mask = None if mask is None else mask[order]
            if stop_requested():  # a large model on a CPU takes seconds for a token
                return
            mask_so_far = None if mask is None else mask[:, : cache.get_seq_length() + 1]
            logits = self._forward(token[:, None], mask_so_far, positions, cache)
            positions = positions + 1

    def _prefill(
        self, requests: Sequence[Request], max_tokens: int
    ) -> tuple[Tensor | None, Tensor, GrowingCache, Tensor]:
        """Run each prompt once, padded on the left to P tokens.

        Returns the mask (N, P + max_tokens), None without padding; the position (N, 1) of the
        next token; the cache; and the next token's logits (N, V).
        """
        prompts, device = [request.problem.prompt_ids for request in requests], self.model.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]
        width = int(lengths.max())
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        positions = torch.arange(width, device=device) - (width - lengths)
        mask = None
        if int(lengths.min()) < width:
            mask = torch.ones(len(prompts), width + max_tokens, dtype=torch.bool, device=device)
            mask[:, :width] = positions >= 0
        cache = GrowingCache()
        prompt_mask = None if mask is None else mask[:, :width]
        logits = self._forward(ids, prompt_mask, positions.clamp(min=0), cache)
        return mask, lengths, cache, logits

    def _forward(self, ids: Tensor, mask: Any, positions: Tensor, cache: GrowingCache) -> Tensor:
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

    def load_weights(self, named: Iterator[tuple[str, Tensor]]) -> None:
        missing = set(self.weights)
        for name, tensor in named:
            missing.remove(name)
            if self.weights[name].data_ptr() != tensor.data_ptr():
                self.weights[name].copy_(tensor)
        assert not missing, f"the policy did not send these weights: {sorted(missing)}"

    def fingerprint(self, names: Sequence[str]) -> dict[str, float]:
        return {name: fingerprint(self.weights[name]) for name in names}

    def sleep(self) -> None:
        """Frees nothing: the engine holds at most a copy of the weights, no cache between calls."""


def sample_tokens(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """logits (R, V), uniform (R,) fp64 in [0, 1) -> tokens (R,) and (R, 2): log-prob and entropy.

    Log-prob and entropy, in nats, are those of softmax(logits / temperature) before top-k and
    top-p; greedy sampling (temperature 0) counts as temperature 1. A CPU processes a few rows at a
    time, so that intermediate results stay in its cache.
    """
    rows = max(1, CPU_LOGITS // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
    parts = zip(logits.split(rows), uniform.split(rows), strict=True)
    token, values = zip(*(_sample_rows(*part, sampling) for part in parts), strict=True)
    return torch.cat(token), torch.cat(values)


def _sample_rows(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    scaled = logits if sampling.temperature in (0, 1) else logits / sampling.temperature
    scaled = scaled - scaled.amax(-1, keepdim=True)
    weights = scaled.exp()
    total = weights.sum(-1)
    entropy = total.log() - torch.linalg.vecdot(weights, scaled) / total  # logits are finite
    if sampling.temperature == 0:
        token = logits.argmax(-1)
    else:
        token = inverse_cdf(filter_top_k_top_p(weights, sampling), uniform)
    logprobs = scaled.gather(-1, token[:, None])[:, 0] - total.log()
    return token, torch.stack([logprobs, entropy], dim=-1)


def inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """weights (R, V), uniform (R,) fp64 in [0, 1) -> tokens (R,).

    Returns the first token whose cumulative share of the weights, summed in fp64, exceeds the
    uniform number; its weight is never 0. Weights are non-negative, not all 0, and need not sum
    to 1. In a large vocabulary it first finds a block of VOCABULARY_BLOCK tokens and then a token
    in that block. This takes one fp64 sum per block instead of one per token.
    """
    vocabulary = weights.shape[-1]
    if vocabulary <= VOCABULARY_BLOCK:
        return first_above(weights.double(), uniform[:, None])[0][:, 0]
    whole = vocabulary // VOCABULARY_BLOCK * VOCABULARY_BLOCK
    blocks = weights[:, :whole].unflatten(-1, (-1, VOCABULARY_BLOCK)).sum(-1, dtype=torch.float64)
    rest = weights[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)
    block, share = first_above(torch.cat([blocks, rest], dim=-1), uniform[:, None])
    candidates = block * VOCABULARY_BLOCK + torch.arange(VOCABULARY_BLOCK, device=weights.device)
    masses = weights.gather(-1, candidates.clamp(max=vocabulary - 1)).double()
    offset, _ = first_above(masses.masked_fill_(candidates >= vocabulary, 0), share)
    return (block * VOCABULARY_BLOCK + offset)[:, 0]


def first_above(masses: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """masses (R, K), share (R, 1) in [0, 1] -> index (R, 1) and the share within it (R, 1).

    The target is share x total mass. The index is the first whose cumulative mass exceeds the
    target. The second result says how far into that entry's own mass the target lies, in [0, 1]. A
    target that rounding puts at the total or above it counts as just below the total.
    """
    cdf = masses.cumsum(-1)
    total = cdf[:, -1:]
    target = torch.minimum(share * total, total.nextafter(torch.zeros_like(total)))
    index = torch.searchsorted(cdf, target, right=True)
    mass = masses.gather(-1, index)
    within = (target - cdf.gather(-1, index) + mass) / mass
    return index, within.clamp(0, 1)


def filter_top_k_top_p(probs: Tensor, sampling: Sampling) -> Tensor:
    """probs (R, V), unnormalised -> the same with 0 for tokens that top-k, then top-p exclude."""
    if sampling.top_k:
        least = probs.topk(min(sampling.top_k, probs.shape[-1])).values[:, -1:]
        probs = probs.where(probs >= least, 0)
    if sampling.top_p < 1:
        ranked, order = probs.sort(descending=True)
        mass_above = ranked.cumsum(-1) - ranked
        nucleus = ranked.where(mass_above < sampling.top_p * probs.sum(-1, keepdim=True), 0)
        probs = torch.zeros_like(probs).scatter(-1, order, nucleus)
    return probs
