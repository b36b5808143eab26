"""Executes one run of a sweep, in a worker process: what train.py does in one process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from asymrl.config.load import differing_keys, load_config
from asymrl.config.schema import Config
from asymrl.errors import UserError
from asymrl.evaluation.evaluate import evaluate_step
from asymrl.run.early_stop import read_eval_scores
from asymrl.run.exit_codes import exit_code
from asymrl.run.workers import Task
from asymrl.training.setup import run_training


def execute(
    config: str, overrides: Sequence[str], row: str | None, planned: Config, folder: Path
) -> int:
    """Train, or resume, in `folder`. Returns the exit code. planned: the config as it was when the
    sweep began."""
    return exit_code(partial(train, config, overrides, row, planned, folder))


def train(
    config: str, overrides: Sequence[str], row: str | None, planned: Config, folder: Path
) -> int:
    loaded = load_config(config, overrides, row)
    if changed := differing_keys(planned, loaded):
        raise UserError(f"{config} has changed since the sweep began, in {', '.join(changed)}")
    stopped = run_training(loaded, folder, evaluate_step)
    if stopped:
        print(f"stopped: {stopped.why}", flush=True)
    return stopped.code if stopped else 0


def describe_end(task: Task, seconds: float) -> str:
    """The greedy accuracy before and after training, if evaluated, and the number of warnings."""
    scores = [*read_eval_scores(task.log.parent, None).values()]
    lines = task.log.read_text(encoding="utf-8", errors="replace").split("\n")
    warnings = sum(line.startswith("warning: ") for line in lines)
    accuracy = f", greedy {scores[0]:.3f} -> {scores[-1]:.3f}" if scores else ""
    return accuracy + (f", {warnings} warnings in {task.log}" if warnings else "")
