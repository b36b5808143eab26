"""Step metrics by hand-computed numbers."""

import pytest
import torch

from asymrl.training.metrics import rollout_metrics, update_metrics
from asymrl.types import UpdateStats
from tests.helpers.batches import experience_of, requests_and_rollouts

LENGTHS = [[2, 1], [1, 3]]


def test_rollout_metrics_by_hand() -> None:
    requests, rollouts = requests_and_rollouts(LENGTHS)
    entropy = torch.tensor([1.0, 2, 3, 4, 5, 6, 7])
    logprobs = torch.tensor([-1.0, -1, -3, -2, -4, -4, -4])
    experience = experience_of(
        requests,
        rollouts,
        (logprobs, entropy),
        rewards=[1.0, 0, 0, 0],
        advantages=lambda groups: torch.tensor([1.0, -2, -1, -1]),
        reasons=("correct", "wrong", "no_answer", "timeout"),
    )
    expected = {
        "reward/mean": 0.25,
        "policy/entropy": 4.0,
        "policy/entropy_positive": 1.5,
        "policy/entropy_negative": 5.0,
        "groups/all_solved": 0.0,
        "groups/none_solved": 0.5,
        "diag/kappa": 0.0,  # log(p / (1 - p)) = 0 at p = 1/2
        "diag/mass_positive": 0.25,
        "diag/mass_negative": 1.0,
        "groups/accuracy/0.0": 0.5,
        "groups/accuracy/0.5": 0.5,
        "pressure/positive_defined/0.0": 0.0,
        "pressure/positive_defined/0.5": 0.25,
        "pressure/negative_defined/0.0": 0.5,
        "pressure/negative_defined/0.5": 0.5,
        "rollout/length_mean": 7 / 4,
        "rollout/truncated": 0.0,
        "rollout/logprob_mismatch_mean": 19 / 7,  # the engine said 0 everywhere
        "rollout/logprob_mismatch_max": 4.0,
        "rollout/mismatch_kl": 19 / 7,
        "verdict/correct": 0.25,
        "verdict/wrong": 0.25,
        "verdict/no_answer": 0.25,
        "verdict/unparseable": 0.0,
        "verdict/timeout": 0.25,
        "verdict/crashed": 0.0,
    }
    assert rollout_metrics(experience) == pytest.approx(expected)


def test_a_masked_rollout_is_in_no_channel() -> None:
    requests, rollouts = requests_and_rollouts(LENGTHS)
    scored = torch.zeros(7), torch.arange(7.0)
    valid = [True, True, True, False]
    found = rollout_metrics(experience_of(requests, rollouts, scored, [1.0, 0, 0, 0], valid))
    assert found["policy/entropy"] == 3.0  # all tokens
    assert found["policy/entropy_negative"] == 2.5  # tokens 2 and 3, not those of the last row


def test_update_metrics_are_means_but_for_the_largest_ratio() -> None:
    updates = [
        UpdateStats(
            metrics={"loss/total": loss, "loss/ratio_max": ratio},
            by_accuracy_bin={"pressure": [0.0] * 4 + [loss] + [0.0] * 24 + [3.0] + [0.0] * 4},
            grad_norm=loss,
            lr=0.1 * number,
            updates=number,
            skipped_rows=3,
            non_finite="the loss (nan)" if number == 2 else None,
        )
        for number, loss, ratio in ((1, 1.0, 2.0), (2, 3.0, 1.5))
    ]
    seconds = {"time/generate": 2.0, "time/update": 4.0}
    assert update_metrics(updates, seconds, 200, 100) == pytest.approx(
        {
            "loss/total": 2.0,
            "loss/ratio_max": 2.0,
            "diag/gradient_negative": 2.0,
            "diag/gradient_positive": 3.0,
            "pressure/negative/0.25": 2.0,
            "pressure/positive/0.75": 3.0,
            "optim/grad_norm": 2.0,
            "optim/lr": 0.2,
            "optim/updates": 2,
            "optim/skipped_updates": 1,
            "perf/skipped_rows": 6,
            "perf/rollout_tokens_per_s": 100,
            "perf/update_tokens_per_s": 25,
            **seconds,
        }
    )
