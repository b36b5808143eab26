"""The quantities that the probe measures, and the prompts that it uses."""

import pytest
from rich.console import Console

from asymrl.algo.batch import make_groups
from asymrl.config.load import load_config
from asymrl.types import Problem, Rollout, Verdict
from studies import probe
from tests.helpers.probe import (
    DEFAULT_ESTIMATORS,
    REWARDS,
    STOP,
    policy,
    random_tokens,
    rollout_batch,
    tiny_trial,
)

__all__ = ["policy"]


def test_the_gain_is_over_the_batchs_correct_rollouts(policy) -> None:
    """Compared with a step taken by hand."""
    batch = rollout_batch(policy, random_tokens(0), REWARDS)
    groups = make_groups(batch.tokens, batch.scored, batch.rewards, batch.valid)
    done = tiny_trial(policy, step_size=1e-3)
    effect = done.effects[probe.REINFORCE.label]
    weights = {name: weight.clone() for name, weight in policy.named_weights()}
    probe.backward(policy, batch, groups, probe.REINFORCE, "token_mean")
    probe.step(policy, weights, done.lr)
    change = policy.score(batch.tokens)[0] - batch.scored[0]
    probe.step(policy, weights, 0.0)
    is_correct = (batch.rewards == 1)[batch.tokens.row]
    assert effect.gain == pytest.approx(change[is_correct].double().mean().item(), rel=1e-3)
    assert abs(effect.gain - change.double().mean().item()) > 0.1 * abs(effect.gain)


def test_no_prompt_is_used_both_for_steps_and_for_measurements(policy) -> None:
    """The problem ids in the two halves of every batch do not overlap."""
    halves: list[set[str]] = []

    def generate(requests, progress):
        halves.append({request.problem.id for request in requests})
        rollouts = [
            Rollout(
                draw=request.draw,
                sample=i,
                token_ids=(1 + i, STOP),
                text="",
                truncated=False,
                engine_logprobs=(-1.0, -1.0),
                engine_entropy=(1.0, 1.0),
            )
            for request in requests
            for i in range(request.samples)
        ]
        verdicts = [
            Verdict(reason="correct" if r.sample else "wrong", answer=None, seconds=0.0)
            for r in rollouts
        ]
        return rollouts, verdicts

    problems = [
        Problem(id=str(n), prompt_ids=(1 + n, 2), prompt_text="", gold="", source="")
        for n in range(8)
    ]
    arguments = probe.parse(["x", "--batches", "5", "--prompts", "3", "--group-size", "2"])
    console = Console(quiet=True)
    settings = {"policy": policy, "generate": generate, "console": console}
    config = load_config("pocket")
    trials = probe.trials(problems, DEFAULT_ESTIMATORS[:2], arguments, config, **settings)
    assert len(list(trials)) == 5
    stepped, measured = set().union(*halves[::2]), set().union(*halves[1::2])
    assert stepped and measured and not stepped & measured
