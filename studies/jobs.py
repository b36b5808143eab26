"""Arms (a config with overrides) and jobs (an arm on a mix with a seed). Knows configs by name; no
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asymrl.config.load import Config, load_config
from asymrl.types import frozen

MIXES = {"facts": "pocket_train"}
NEVER = 1_000_000  # an interval; the last step is always due
# Checkpoint, evaluate and save rollouts at the last step only; metrics are logged every step.
LEAN = (
    f"eval.every={NEVER}",
    f"checkpoint.every={NEVER}",
    f"tracking.rollouts_every={NEVER}",
    "tracking.logprob_gain_every=5",
)


@frozen
class Arm:
    """One line of a study. config: a bare name in configs/, or a path; overrides: key.sub=value."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()


@frozen
class Job:
    """One run. overrides: all of them, in order; steps, benchmarks: from its config."""

    name: str
    arm: Arm
    mix: str
    seed: int
    folder: Path
    overrides: tuple[str, ...]
    steps: int
    benchmarks: tuple[str, ...]

    def config(self) -> Config:
        return load_config(self.arm.config, self.overrides)


def row(name: str) -> Arm:
    """A row of the paper's table: configs/pocket_<name>.yaml."""
    return Arm(name=name, config=f"pocket_{name}")


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
        config="pocket_grpo",
        overrides=(f"advantage.beta_pos={beta_pos}", f"advantage.beta_neg={beta_neg}"),
    )


# One step with learning rate 0: the untrained policy, evaluated like all other arms.
BASE = Arm(name="base", config="pocket_grpo", overrides=("optim.lr=0.0", "steps=1"))
TABLE_ROWS = (
    *(row(name) for name in ("reinforce", "reinforce_ent", "grpo", "grpo_ent", "grpo_clip_higher")),
    *(row(name) for name in ("dr_grpo", "pos_only", "neg_only", "asym_sym", "asym")),
    *(row(name) for name in ("asym_clip_higher", "ent_increase", "ent_decrease")),
    *(row(name) for name in ("cw_grpo", "eapo", "quad_phr", "quad_plr", "quad_nhr", "quad_nlr")),
)
# Schedules that start from the fixed betas (0.9, 0.4).
SCHEDULED = (
    Arm(name="peak_tracking", config="pocket_asym", overrides=("schedule.name=peak_tracking",)),
    Arm(
        name="entropy_steering",
        config="pocket_asym",
        overrides=("schedule={name: entropy_steering, entropy_low: 0.45, entropy_high: 0.65}",),
    ),
)
GRID = (0.1, 0.3, 0.5, 0.7, 0.9)
GRID_ARMS = tuple(betas(pos, neg) for pos in GRID for neg in GRID)


def jobs(
    arms: Sequence[Arm],
    mixes: Sequence[str],
    seeds: int,
    out: Path,
    steps: int | None = None,
) -> list[Job]:
    """Every arm on every mix with the seeds 0, 1, ..., ordered by seed, so that a stopped study has
    complete seeds. Invalid configs raise UserError here, before any run.

    steps: replaces the configs' own. The run folder is out/<mix>/<arm>/seed-<n>.
    """
    steps_override = (f"steps={steps}",) if steps else ()
    jobs = []
    for mix in mixes:
        for arm in arms:
            shared = (f"data.train={MIXES[mix]}", *LEAN, *steps_override, *arm.overrides)
            config = load_config(arm.config, shared)
            jobs += [
                Job(
                    name=f"{mix}/{arm.name}/seed-{seed}",
                    arm=arm,
                    mix=mix,
                    seed=seed,
                    folder=out / mix / arm.name / f"seed-{seed}",
                    overrides=(*shared, f"seed={seed}"),
                    steps=config.steps,
                    benchmarks=tuple(config.eval.benchmarks),
                )
                for seed in range(seeds)
            ]
    return sorted(jobs, key=lambda job: job.seed)
