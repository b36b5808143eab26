"""Train a policy with verifiable rewards: AsymGRPO and its relatives.

The objective, in words. Draw a batch of problems and sample G responses to each from the current
policy. A verifier decides whether a response is correct (reward 1) or wrong (reward 0). Let p be
the share of correct responses in a problem's group. A correct response gets the advantage
((1-p)/p)^beta_pos and a wrong one -(p/(1-p))^beta_neg. All tokens of a response share its
advantage. Maximize the PPO-clip surrogate, averaged over the tokens of each mini-batch, and repeat
with the new policy. (0, 0) is REINFORCE, (0.5, 0.5) is GRPO, (0.9, 0.4) is the paper's best (arXiv
2604.04894). Other estimators, losses, a KL penalty, dynamic sampling and LoRA are settings.

Left out on purpose: a critic, a reward model, multi-turn and asynchronous rollouts. The loop is
asymrl/training/loop.py; the mathematics is asymrl/algo/.

    accelerate launch train.py --config qwen3_4b_asym.yaml [key.sub=value ...]
        [--row ROW] [--dry-run] [--resume auto|never|DIR] [--output-dir DIR] [--max-minutes M]

Exit codes: 0 done; 2 invalid input, explained in one sentence; 75 stopped early and saved (SIGTERM,
Ctrl-C, --max-minutes): run the same command again to resume; 1 any other error. See
docs/reliability.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from asymrl.config.load import composition, load_config
from asymrl.config.mistakes import explain_option
from asymrl.config.schema import Config
from asymrl.errors import UserError
from asymrl.run.exit_codes import exit_code, is_first

if TYPE_CHECKING:  # torch and transformers load only once the config is valid
    from asymrl.engines.policy import Policy
    from asymrl.engines.rollout import RolloutEngine
    from asymrl.types import Stopped


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--config", required=True, help="a path, or a bare name in configs/")
    parser.add_argument("--row", help="a method to apply: a path, or a name in configs/rows/")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config and local paths, print whether the run fits; no model, no network",
    )
    parser.add_argument(
        "--resume",
        default="auto",
        help="auto (default): resume the run in the output folder, if there is one; never: fail if "
        "there is one; DIR: start a new run from that checkpoint in the output folder",
    )
    parser.add_argument("--output-dir", type=Path, help="default: runs/<config>[_<row>]")
    parser.add_argument(
        "--max-minutes", type=float, help="save and stop after M minutes; exit code 75"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    arguments, unknown = parser.parse_known_intermixed_args(argv)
    return argparse.Namespace(**vars(arguments), unknown=unknown)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(partial(execute, parse(argv)))


def execute(arguments: argparse.Namespace) -> int | None:
    """The exit code; None means 0."""
    if arguments.unknown:
        raise UserError(explain_option(arguments.unknown[0]))
    config = load_config(arguments.config, arguments.overrides, arguments.row)
    if arguments.dry_run:
        from asymrl.training.dry_run import dry_run

        print(dry_run(config, composition(arguments.config, arguments.row)))
        return None
    from asymrl.run.folder import default_folder

    run_dir = arguments.output_dir or default_folder(arguments.config, arguments.row)
    stopped = run(config, run_dir, arguments.resume, deadline(arguments.max_minutes))
    if not stopped:
        return None
    print(f"stopped: {stopped.why}", flush=True)
    return stopped.code if is_first() else None  # a launcher kills all ranks if one of them fails


def deadline(minutes: float | None) -> float:
    """The time.monotonic() value at which --max-minutes is over; infinity without a limit."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise UserError(f"--max-minutes {minutes:g} must be a positive number of minutes")
    return math.inf if minutes is None else time.monotonic() + 60 * minutes


def run(
    config: Config,
    run_dir: Path,
    resume: str = "auto",
    until: float = math.inf,
    engine: RolloutEngine | None = None,
    policy: Policy | None = None,
) -> Stopped | None:
    """Train, or resume, in `run_dir`. Returns why the run stopped early, or None.

    engine, policy: used instead of those in the config.
    """
    from asymrl.evaluation.evaluate import evaluate_step
    from asymrl.training.setup import run_training

    return run_training(
        config, run_dir, evaluate_step, resume=resume, until=until, engine=engine, policy=policy
    )


if __name__ == "__main__":
    sys.exit(main())
