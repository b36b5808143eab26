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
from transformers.cache_utils import Cache

from asymrl.engines import kv_cache
from asymrl.engines.rollout import fingerprint, uniforms
from asymrl.errors import UserError
from asymrl.types import Request, Rollout, Sampling

BLOCK = 512  # tokens of the vocabulary
CPU_LOGITS = 2**20  # that are looked at together: 4 MiB


class HFEngine:
    """`model` is a causal LM in eval mode, owned by the engine; `decode` turns ids into text.
    UserError for one whose cache is not keys and values alone."""

    def __init__(self, model: Any, decode: Callable[[Sequence[int]], str], max_rows: int) -> None:
        if not kv_cache.suits(model):
            raise UserError(
                f"{model.config.model_type} models keep more of what they read than keys and "
                "values, which the hf engine does not know"
            )
        self.model = model.eval()
        self.weights = {name: weight.detach() for name, weight in model.named_parameters()}
        self.decode = decode
        self.max_rows = max_rows
        self.weight_dtype: torch.dtype = model.dtype
        self.exact_logprobs = model.dtype == torch.float32

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Requests of like prompt length go together, as many as have `max_rows` samples; one that
        has more goes alone and whole."""
        self.model.eval()  # layers that checkpoint in training would go without the cache
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
        mask, positions, cache, logits = self._prefill(requests, sampling.max_tokens)
        kv_cache.repeat(cache, index)
        mask, positions, logits = (
            None if mask is None else mask[index],
            positions[index],
            logits[index],
        )
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
                order = kv_cache.drop(cache, done)
                if not len(order):
                    return
                alive, token, positions = alive[order], token[order], positions[order]
                mask = None if mask is None else mask[order]
            seen = None if mask is None else mask[:, : cache.get_seq_length() + 1]
            logits = self._forward(token[:, None], seen, positions, cache)
            positions = positions + 1

    def _prefill(
        self, requests: Sequence[Request], more: int
    ) -> tuple[Tensor | None, Tensor, Cache, Tensor]:
        """Left-padded prompts, once each -> mask (N, P + more), None if there is no padding; the
        next token's position (N, 1), cache, logits (N, V)."""
        prompts, device = [request.problem.prompt_ids for request in requests], self.model.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]
        width = int(lengths.max())
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        positions = torch.arange(width, device=device) - (width - lengths)
        mask = None
        if int(lengths.min()) < width:
            mask = torch.ones(len(prompts), width + more, dtype=torch.bool, device=device)
            mask[:, :width] = positions >= 0
        cache = kv_cache.new()
        seen = None if mask is None else mask[:, :width]
        logits = self._forward(ids, seen, positions.clamp(min=0), cache)
        return mask, lengths, cache, logits

    def _forward(self, ids: Tensor, mask: Any, positions: Tensor, cache: Cache) -> Tensor:
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
        missing = set(self.weights)
        for name, tensor in named:
            missing.remove(name)
            self.weights[name].copy_(tensor)
        assert not missing, f"weights that the policy did not send: {sorted(missing)}"

    def fingerprint(self, names: Sequence[str]) -> dict[str, float]:
        return {name: fingerprint(self.weights[name]) for name in names}

    def sleep(self) -> None:
        """Nothing to give back: the engine is one copy of the weights."""


def sample(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """logits (R, V), uniform (R,) fp64 -> tokens (R,), and (R, 2): their logprob and the entropy.

    Both are of softmax(logits / temperature), before top-p and top-k, at temperature 1 when
    greedy. A few rows at a time on a CPU, so that what is made of them stays in its cache.
    """
    rows = max(1, CPU_LOGITS // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
    parts = zip(logits.split(rows), uniform.split(rows), strict=True)
    token, values = zip(*(_sample(*part, sampling) for part in parts), strict=True)
    return torch.cat(token), torch.cat(values)


def _sample(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    scaled = logits if sampling.temperature in (0, 1) else logits / sampling.temperature
    scaled = scaled - scaled.amax(-1, keepdim=True)
    weights = scaled.exp()
    total = weights.sum(-1)
    entropy = total.log() - torch.linalg.vecdot(weights, scaled) / total  # logits are finite
    if sampling.temperature == 0:
        token = logits.argmax(-1)
    else:
        token = inverse_cdf(nucleus(weights, sampling), uniform)
    logprobs = scaled.gather(-1, token[:, None])[:, 0] - total.log()
    return token, torch.stack([logprobs, entropy], dim=-1)


def inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """weights (R, V), not negative, not all 0, of any sum; uniform (R,) fp64 in [0, 1) -> (R,): the
    first token whose cumulative share, summed in fp64, is above the uniform; its weight is not 0.

    Of a large vocabulary first a block of BLOCK tokens, then one in it: one fp64 number a block
    instead of one a token.
    """
    vocabulary = weights.shape[-1]
    if vocabulary <= BLOCK:
        return first_above(weights.double(), uniform[:, None])[0][:, 0]
    whole = vocabulary // BLOCK * BLOCK
    blocks = weights[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1, dtype=torch.float64)
    rest = weights[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)
    block, share = first_above(torch.cat([blocks, rest], dim=-1), uniform[:, None])
    places = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(-1, places.clamp(max=vocabulary - 1)).double()
    place, _ = first_above(inside.masked_fill_(places >= vocabulary, 0), share)
    return (block * BLOCK + place)[:, 0]


def first_above(masses: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """masses (R, K), share (R, 1) in [0, 1] -> (R, 1): the first place where the running share of
    the masses is above it, and how far into that place it is, in [0, 1].

    What rounding puts at or above the whole sum is just below it.
    """
    cdf = masses.cumsum(-1)
    whole = cdf[:, -1:]
    wanted = torch.minimum(share * whole, whole.nextafter(torch.zeros_like(whole)))
    place = torch.searchsorted(cdf, wanted, right=True)
    mass = masses.gather(-1, place)
    into = (wanted - cdf.gather(-1, place) + mass) / mass
    return place, into.clamp(0, 1)


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
