"""Tiny run folders for tests of the report: real files with made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIG = """
model: {path: tiny}
advantage: {name: asym, beta_pos: 0.7, beta_neg: 0.3}
rollout: {group_size: 8}
loss: {aggregation: token_mean}
optim: {lr: 0.0005}
steps: 3
seed: 11
"""


def step_row(step: int, **changed: Any) -> dict[str, Any]:
    """One line of metrics.jsonl with every metric that the report shows."""
    row = {
        "step": step,
        "reward/mean": 0.25 * step,
        "policy/entropy": 1.0 - 0.1 * step,
        "policy/entropy_positive": 0.9 - 0.1 * step,
        "policy/entropy_negative": 1.1 - 0.1 * step,
        "groups/all_solved": 0.1 * step,
        "groups/none_solved": 0.4 - 0.1 * step,
        "diag/kappa": 0.01 * step,
        "diag/logprob_gain_positive": 0.02 * step,
        "groups/accuracy/0.25": 0.5,
        "pressure/positive/0.25": 0.125 * step,
        "pressure/negative/0.25": 0.25,
        "time/generate": 2.0,
        "time/update": 1.0,
    }
    return row | changed


def evaluation(step: int, avg: float) -> dict[str, Any]:
    return {"step": step, "eval/held/greedy/avg": avg, "eval/held/greedy/stderr": 0.02}


FULL = (evaluation(0, 0.25), step_row(1), step_row(2), step_row(3) | evaluation(3, 0.625))
SHORT = ({"step": 1, "reward/mean": 0.25}, {"step": 2, "reward/mean": 0.5})


def rollout(draw: int, sample: int, **changed: Any) -> dict[str, Any]:
    """One line of a rollouts file: a wrong response, unless `changed` makes it correct."""
    row = {
        "step": 1,
        "draw": draw,
        "sample": sample,
        "problem_id": f"p{draw}",
        "problem": f"What is {draw} + 1?",
        "prompt": "unseen",
        "gold": str(draw + 1),
        "response": f"response {draw}.{sample}",
        "answer": "7",
        "reason": "wrong",
        "reward": 0.0,
        "truncated": False,
        "tokens": 5,
        "advantage": -1.25,
    }
    return row | changed


def config(seed: int = 11, **advantage: Any) -> str:
    """CONFIG with another seed and other settings of the estimator."""
    estimator = json.dumps({"name": "asym", "beta_pos": 0.7, "beta_neg": 0.3} | advantage)
    text = CONFIG.replace("seed: 11", f"seed: {seed}")
    return text.replace("{name: asym, beta_pos: 0.7, beta_neg: 0.3}", estimator)


def write_run(
    folder: Path,
    rows: Sequence[Mapping[str, Any]] = SHORT,
    rollouts: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    config: str = CONFIG,
) -> Path:
    """A run folder with these metrics, step -> rollouts, and settings."""
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "environment.json").write_text('{"python": "3.11"}')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, step_rollouts in (rollouts or {}).items():
        lines = "".join(json.dumps(row) + "\n" for row in step_rollouts)
        (folder / f"rollouts/step-{step:06d}.jsonl").write_text(lines)
    return folder
