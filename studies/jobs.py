"""What a study runs: tasks, arms (a row with overrides), and jobs (an arm on a task with a seed).

Knows configs by name; no training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from asymrl.config.load import load_config
from asymrl.config.read import flatten
from asymrl.pocket import DATA
from asymrl.pocket.model import Recipe
from asymrl.pocket.modular_sums import VARIANTS
from asymrl.types import frozen

NEVER = 1_000_000  # an interval; the last step is always due


@frozen
class Task:
    """A model and its problems. config: a model in configs/. samples: temperature -> responses per
    held-out problem, in the evaluation after training."""

    config: str
    steps: int
    samples: Mapping[float, int]


TASKS = {
    "pocket": Task(config="pocket", steps=100, samples={0.4: 4, 1.0: 64}),
    "pocket_short": Task(config="pocket_short", steps=100, samples={0.4: 4, 1.0: 64}),
    "sums": Task(config="smollm2_135m", steps=40, samples={0.4: 1, 1.0: 8}),
}
EVALUATIONS = 5  # greedy, at equal intervals during training, and one before it


@frozen
class Arm:
    """One line of a study. row: a file in configs/rows/; overrides: key.sub=value."""

    name: str
    row: str
    overrides: tuple[str, ...] = ()


@frozen
class Job:
    """One run. config, overrides: the arguments of train.py. settings: the digest of the resolved
    config without the seed; a result with another digest belongs to another job."""

    task: str
    arm: Arm
    seed: int
    config: str
    overrides: tuple[str, ...]
    settings: str
    benchmark: str

    @property
    def name(self) -> str:
        return f"{self.task}/{self.arm.name}/seed-{self.seed}"


def row(name: str) -> Arm:
    return Arm(name=name, row=name)


NAMED = {
    (0.0, 0.0): row("reinforce"),
    (0.5, 0.0): row("pos_only"),
    (0.0, 0.5): row("neg_only"),
    (0.5, 0.5): row("grpo"),
    (0.7, 0.7): row("asym_sym"),
    (0.9, 0.4): row("asym"),
}


def betas(beta_pos: float, beta_neg: float) -> Arm:
    """The arm with these betas. A row of the paper's table is returned if it has them, so that
    studies share its runs."""
    return NAMED.get((beta_pos, beta_neg)) or Arm(
        name=f"pos{beta_pos:g}_neg{beta_neg:g}",
        row="grpo",
        overrides=(f"advantage.beta_pos={beta_pos}", f"advantage.beta_neg={beta_neg}"),
    )


# One step with learning rate 0: the untrained policy, evaluated like all other arms.
UNTRAINED = Arm(name="untrained", row="grpo", overrides=("optim.lr=0.0", "steps=1"))
PAPER_ROWS = (
    *(row(name) for name in ("reinforce", "reinforce_ent", "grpo", "grpo_ent", "grpo_clip_higher")),
    *(row(name) for name in ("dr_grpo", "pos_only", "neg_only", "asym_sym", "asym")),
    *(row(name) for name in ("asym_clip_higher", "ent_increase", "ent_decrease")),
)
RIVAL_ROWS = tuple(
    row(name) for name in ("cw_grpo", "eapo", "quad_phr", "quad_plr", "quad_nhr", "quad_nlr")
)
# A beta of 1e-6 gives all-solved and none-solved groups no gradient and changes no other advantage
# by more than 1e-5, so these are REINFORCE and the single channels on mixed groups only.
ON_MIXED = {
    name: Arm(
        name=name,
        row="grpo",
        overrides=(f"advantage.beta_pos={pos}", f"advantage.beta_neg={neg}"),
    )
    for name, (pos, neg) in {
        "reinforce_mixed": (1e-6, 1e-6),
        "pos_only_mixed": (0.5, 1e-6),
        "neg_only_mixed": (1e-6, 0.5),
    }.items()
}
# Candidates for the entropy bonus of the rows reinforce_ent and grpo_ent, on seeds of their own.
BONUSES = (0.002, 0.005, 0.01, 0.02)
BONUS_ARMS = tuple(
    Arm(name=f"{name}_bonus{bonus:g}", row=name, overrides=(f"loss.entropy_bonus={bonus}",))
    for name in ("reinforce", "grpo")
    for bonus in BONUSES
)
CALIBRATION_SEED = 100  # the first one that no other study uses
SINGLE_BETAS = (betas(0.25, 0.0), betas(0.75, 0.0), betas(0.0, 0.25), betas(0.0, 0.75))
SCHEDULED = (row("peak_tracking"), row("entropy_steering"))
GRID_POS, GRID_NEG = (0.1, 0.3, 0.5, 0.7, 0.9), (0.1, 0.3, 0.4, 0.5, 0.7, 0.9)
GRID_ARMS = tuple(betas(pos, neg) for pos in GRID_POS for neg in GRID_NEG)


def make_job(task: str, arm: Arm, seed: int) -> Job:
    """UserError if the arm's config is not valid."""
    overrides, config = overrides_of(task, arm), f"{TASKS[task].config}_{arm.row}"
    settings, benchmark = settings_of(config, overrides, tuple(TASKS[task].samples.items()))
    return Job(
        task=task,
        arm=arm,
        seed=seed,
        config=config,
        overrides=(*overrides, f"seed={seed}"),
        settings=settings,
        benchmark=benchmark,
    )


def overrides_of(task: str, arm: Arm) -> tuple[str, ...]:
    steps = TASKS[task].steps
    return (
        f"steps={steps}",
        f"eval.every={steps // EVALUATIONS}",
        "eval.sampling={greedy: {temperature: 0.0, samples: 1}, t0.4: null, t1: null}",
        f"checkpoint.every={NEVER}",
        f"tracking.rollouts_every={NEVER}",
        "tracking.logprob_gain_every=5",
        *arm.overrides,
    )


# Keys that the schema got after the first results, with the value that changes nothing.
LATER_KEYS: Mapping[str, Any] = {
    "data.config": None,
    "data.split": None,
    "data.problem_field": None,
    "data.answer_field": None,
    "eval.config": None,
    "eval.split": "test",
    "policy.offload_during_rollouts": "auto",
    "loss.name": "ppo_clip",
    "loss.dual_clip": 0.0,
    "loss.kl_coef": 0.0,
    "loss.kl_estimator": "k3",
    "loss.entropy_control": None,
    "policy.lora": None,
    "policy.liger_kernel": False,
    "policy.micro_batch_cost": 0,
    "policy.score_all_rows": True,
    "checkpoint.merged": True,
    "optim.lr_schedule": "constant",
    "optim.lr_floor": 0.0,
    "optim.warmup_share": 0.0,
    "rollout.overlong": None,
    "rollout.dynamic_sampling": None,
    "data.reasoning_gym": None,
}
# Keys whose value changed after the first results, but not what a run on a CPU does: now, then.
FORMER_VALUES: Mapping[str, tuple[Any, Any]] = {
    "rollout.engine": ("hf", "auto"),
    "policy.backend": ("local", "auto"),
    "rollout.per_sample_seeds": (None, False),
}
# Keys whose value changed after the first results, but not what a run on a CPU does: now, then.
FORMER_VALUES: Mapping[str, tuple[Any, Any]] = {
    "rollout.engine": ("hf", "auto"),
    "policy.backend": ("local", "auto"),
    "rollout.per_sample_seeds": (None, False),
}
NOT_IN_RESULTS = ("deadlines", "tracking", "warn", "seed")


@cache
def settings_of(
    config: str, overrides: tuple[str, ...], samples: tuple[tuple[float, int], ...]
) -> tuple[str, str]:
    """The digest of all that a result depends on apart from code and seed, and the benchmark.

    It covers the resolved config, the problems, and how a pocket policy is made.
    """
    resolved = load_config(config, overrides)
    (benchmark,) = resolved.eval.benchmarks
    flat = flatten(resolved.model_dump(mode="json"))
    former = {key: then for key, (now, then) in FORMER_VALUES.items() if flat[key] == now}
    chosen = {
        key: former.get(key, value)
        for key, value in flat.items()
        if key.partition(".")[0] not in NOT_IN_RESULTS
        and not (key in LATER_KEYS and value == LATER_KEYS[key])
    }
    problems = [[*DATA[name]()] for name in (resolved.data.train, benchmark) if name in DATA]
    variant = VARIANTS.get(resolved.model.path.partition(":")[0])
    recipe = Recipe(false_facts=variant.false_facts) if variant else None
    parts = [chosen, samples, problems, recipe and asdict(recipe)]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    return digest.hexdigest()[:16], benchmark


def folder_of(job: Job, out: Path) -> Path:
    """The digest is in the name, so that a run with other settings begins anew."""
    return out / f"{job.name}-{job.settings[:8]}"


def make_jobs(task: str, arms: Sequence[Arm], seeds: Sequence[int]) -> list[Job]:
    """Ordered by seed, so that a stopped study has complete seeds."""
    return [make_job(task, arm, seed) for seed in seeds for arm in dict.fromkeys(arms)]
