"""Requests, an hf engine with a tiny model, and reference values, for tests of rollout engines."""

import torch

from asymrl.engines.hf import HFEngine
from asymrl.types import Problem, Request, Rollout, Sampling, derive_seed
from tests.helpers.models import tiny_model

VOCABULARY, STOP = 20, 7
SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=12, stop_ids=(STOP, 8))


def decode(ids) -> str:
    return " ".join(map(str, ids))


def hf(max_rows: int = 64, seed: int = 0) -> HFEngine:
    return HFEngine(tiny_model(VOCABULARY, STOP, seed), decode, max_rows)


def requests(count: int = 5, samples: int = 6) -> list[Request]:
    """Prompts of 1, 3, 5, ... tokens; draws count from 40."""
    return [
        Request(
            problem=Problem(
                id=str(n),
                prompt_ids=tuple((n * 3 + k) % VOCABULARY for k in range(1 + 2 * n)),
                prompt_text="",
                gold="",
                source="",
            ),
            draw=40 + n,
            samples=samples,
            seed=derive_seed("test", n),
        )
        for n in range(count)
    ]


def by_key(rollouts) -> dict[tuple[int, int], Rollout]:
    return {(rollout.draw, rollout.sample): rollout for rollout in rollouts}


def dense_values(model, rollout: Rollout, request: Request, temperature: float):
    """Log-probs and entropy of the response, from one plain forward pass over all tokens."""
    ids = torch.tensor([request.problem.prompt_ids + rollout.token_ids])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(request.problem.prompt_ids) - 1 : -1]
    logprobs = (logits / temperature).log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0], entropy
