"""The probe: weights that come back, exact references, a table whose signs are known, the CLI."""

from typing import Any

import pytest
import torch

from asymrl.algo.batch import tokenise
from asymrl.engines.local import LocalPolicy
from asymrl.types import Problem, Request, Rollout, Tokens
from studies import probe
from studies.probe import Sample, estimator, trial
from studies.probe_report import Trial
from tests.helpers.models import tiny_model
from tests.helpers.policies import DEFAULTS

VOCABULARY, STOP = 20, 7
DEFAULT_ESTIMATORS = [estimator(text) for text in probe.ESTIMATORS]


def lay(prompts: list[tuple[int, ...]], responses: list[list[tuple[int, ...]]]) -> Tokens:
    """Prompts and the responses to each, as tokens."""
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


def judged(policy: LocalPolicy, tokens: Tokens, rewards: list[float]) -> Sample:
    return Sample(
        tokens=tokens,
        scored=policy.score(tokens),
        rewards=torch.tensor(rewards).double(),
        valid=torch.ones(len(rewards), dtype=torch.bool),
    )


def random_tokens(seed: int) -> Tokens:
    """3 prompts x 4 responses of many lengths. Token 0 is the tiny model's padding: its embedding
    is 0, and what a norm makes of that is beyond any first order."""
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, VOCABULARY, (count,), generator=generator).tolist())

    responses = [[some(1 + (5 * n + 3 * i) % 7) for i in range(4)] for n in range(3)]
    return lay([some(2 + n) for n in range(3)], responses)


@pytest.fixture(scope="module")
def policy() -> LocalPolicy:
    return LocalPolicy(tiny_model(VOCABULARY, STOP), **DEFAULTS)


REWARDS = [1.0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]  # the last group is all right


def tiny_trial(policy: LocalPolicy, **changed: Any) -> Trial:
    sample = judged(policy, random_tokens(0), REWARDS)
    asked: dict[str, Any] = {"step_size": 1e-4, "aggregation": "token_mean"}
    return trial(policy, sample, random_tokens(1), DEFAULT_ESTIMATORS, **(asked | changed))
