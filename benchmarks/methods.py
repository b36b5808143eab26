"""What each row costs: advantages, mini-batches, forward and backward passes of one rollout batch,
relative to GRPO.

All rows get the same rollouts, half of the groups mixed, and take turns in random order. Times are
CPU seconds, on which other programs have less influence; the ratio is that of the medians. Rollouts
are not in it, so dynamic sampling costs nothing here. A KL penalty includes the reference's pass.

    python benchmarks/methods.py [--rounds 7] [--threads 1] [--out docs/results/cost.json]
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import subject
import torch
from transformers import AutoTokenizer
from turns import ratio_of_medians, save_results, table

from asymrl.config.load import ROW_DIR, load_config
from asymrl.config.schema import METHOD_SECTIONS, Config
from asymrl.engines.local import LocalPolicy
from asymrl.files import write_atomically
from asymrl.training.algorithm import build_algorithm
from asymrl.types import Request, Rollout

ROWS = [path.stem for path in sorted(ROW_DIR.glob("*.yaml"))]
ANCHOR, SHARE = "grpo", 0.5


def config_of(row: str, base: Config) -> Config:
    """The benchmark's sizes with the row's method."""
    method = load_config(f"pocket_{row}")
    return base.model_copy(update={key: getattr(method, key) for key in METHOD_SECTIONS})


def seconds(
    cfg: Config, policy: LocalPolicy, asked: Sequence[Request], rollouts: Sequence[Rollout]
) -> float:
    start = time.process_time()
    algorithm = build_algorithm(cfg, [request.problem for request in asked])
    experience = subject.experience(cfg, asked, rollouts, SHARE)
    if cfg.loss.kl_coef:
        reference = policy.score_reference(experience.tokens)
        experience = replace(experience, reference_logprobs=reference)
    batches, loss = algorithm.to_minibatches(
        experience, algorithm.to_token_advantages(experience), algorithm.init_schedule
    )
    for batch in batches:
        policy.backward(batch, loss)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = subject.folder(subject.SMALL)
    tokenizer = AutoTokenizer.from_pretrained(path)
    base = subject.config(1, path)
    asked = subject.requests(base, subject.problems(tokenizer))
    engine, policy = subject.engine(path, tokenizer), subject.policy(path)
    policy.reference = copy.deepcopy(policy.module).eval()
    rollouts = subject.generated(engine, asked, subject.sampling())
    configs = {row: config_of(row, base) for row in ROWS}
    times: dict[str, list[float]] = {row: [] for row in ROWS}
    for round_ in range(arguments.rounds + 1):  # the first one warms up
        for row in random.Random(round_).sample(ROWS, len(ROWS)):
            spent = seconds(configs[row], policy, asked, rollouts)
            if round_:
                times[row].append(spent)
        print(f"round {round_} of {arguments.rounds}", flush=True)
    ratios = {row: round(ratio_of_medians(times[row], times[ANCHOR]), 3) for row in ROWS}
    medians = {row: statistics.median(times[row]) for row in ROWS}
    lines = [[row, f"{medians[row]:.3f}", f"{ratios[row]:.2f}"] for row in sorted(ROWS)]
    text = table(["row", "CPU s", "ratio to GRPO"], lines)
    save_results("methods", text, {"seconds": times, "ratios": ratios})
    if arguments.out:
        facts = {"date": date.today().isoformat(), "rounds": arguments.rounds, "ratios": ratios}
        write_atomically(arguments.out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
