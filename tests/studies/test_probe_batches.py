"""What a probe measures, and on which prompts."""

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
    judged,
    policy,
    random_tokens,
    tiny_trial,
)

__all__ = ["policy"]


def test_the_gain_is_of_the_batchs_correct_rollouts(policy) -> None:
    """Against a step made by hand."""
    sample = judged(policy, random_tokens(0), REWARDS)
    groups = make_groups(sample.tokens, sample.scored, sample.rewards, sample.valid)
    made = tiny_trial(policy, step_size=1e-3)
    done = made.moved[probe.REINFORCE.label]
    kept = {name: weight.clone() for name, weight in policy.named_weights()}
    probe.backward(policy, sample, groups, probe.REINFORCE, "token_mean")
    probe.step(policy, kept, made.lr)
    change = policy.score(sample.tokens)[0] - sample.scored[0]
    probe.step(policy, kept, 0.0)
    of_correct = (sample.rewards == 1)[sample.tokens.row]
    assert done.gain == pytest.approx(change[of_correct].double().mean().item(), rel=1e-3)
    assert abs(done.gain - change.double().mean().item()) > 0.1 * abs(done.gain)


def test_no_prompt_is_both_stepped_and_measured_on(policy) -> None:
    """What is generated in the two halves of every batch, by the ids of its problems."""
    asked: list[set[str]] = []

    def roll(requests, progress):
        asked.append({request.problem.id for request in requests})
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
    settings = {"policy": policy, "roll": roll, "console": console}
    config = load_config("pocket")
    made = probe.trials(problems, DEFAULT_ESTIMATORS[:2], arguments, config, **settings)
    assert len(list(made)) == 5
    stepped, measured = set().union(*asked[::2]), set().union(*asked[1::2])
    assert stepped and measured and not stepped & measured
