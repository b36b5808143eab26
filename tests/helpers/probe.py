"""Tiny policies, tokens and trials for the tests of the probe."""

from typing import Any

import pytest
import torch

from asymrl.algo.batch import tokenise
from asymrl.engines.local import LocalPolicy
from asymrl.types import Problem, Request, Rollout, Tokens
from studies import probe
from studies.probe import RolloutBatch, estimator, trial
from studies.probe_report import Trial
from tests.helpers import policies

VOCABULARY, STOP = 20, 7
DEFAULT_ESTIMATORS = [estimator(text) for text in probe.ESTIMATORS]


def make_tokens(prompts: list[tuple[int, ...]], responses: list[list[tuple[int, ...]]]) -> Tokens:
    """Prompts with their responses, as Tokens."""
    requests, rollouts = [], []
    for n, (prompt, answers) in enumerate(zip(prompts, responses, strict=True)):
        problem = Problem(id=str(n), prompt_ids=prompt, prompt_text="", gold="", source="")
        requests.append(Request(problem=problem, draw=n, samples=len(answers), seed=0))
        rollouts += [
            Rollout(
                draw=n,
                sample=i,
                token_ids=ids,
                text="",
                truncated=False,
                engine_logprobs=(),
                engine_entropy=None,
            )
            for i, ids in enumerate(answers)
        ]
    return tokenise(requests, rollouts)


def rollout_batch(policy: LocalPolicy, tokens: Tokens, rewards: list[float]) -> RolloutBatch:
    return RolloutBatch(
        tokens=tokens,
        scored=policy.score(tokens),
        rewards=torch.tensor(rewards).double(),
        valid=torch.ones(len(rewards), dtype=torch.bool),
    )


def random_tokens(seed: int) -> Tokens:
    """3 prompts x 4 responses of different lengths, without token 0: as the tiny model's padding it
    has the embedding 0, where the normalisation is not differentiable."""
    generator = torch.Generator().manual_seed(seed)

    def random_ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, VOCABULARY, (count,), generator=generator).tolist())

    responses = [[random_ids(1 + (5 * n + 3 * i) % 7) for i in range(4)] for n in range(3)]
    return make_tokens([random_ids(2 + n) for n in range(3)], responses)


@pytest.fixture(scope="module")
def policy() -> LocalPolicy:
    return policies.policy()


REWARDS = [1.0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]  # the last group is all correct


def tiny_trial(policy: LocalPolicy, **changed: Any) -> Trial:
    batch = rollout_batch(policy, random_tokens(0), REWARDS)
    settings: dict[str, Any] = {"step_size": 1e-4, "aggregation": "token_mean"} | changed
    return trial(policy, batch, random_tokens(1), DEFAULT_ESTIMATORS, **settings)
