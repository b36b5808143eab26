"""A rollout batch and its updates on a real model, in AsymRL, in TRL's GRPOTrainer and bare.

SmolLM2-135M on graded sums, as in configs/smollm2_135m.yaml: 16 prompts of some 50 tokens, 8
samples each, at most 8 new tokens, 2 optimizer steps. Rewards are fixed by position in the batch,
so the same groups are mixed everywhere; all sides have one thread and fp32 weights. The three
programs take turns. TRL runs in its own virtual environment, with the micro-batch and the memory
setting that `--search` found best (docs/results/trl_search.json). "Bare" is transformers' generate
on each prompt 8 times, then a forward and a backward pass over full logits, and no optimizer.
`--long` generates 96 tokens, without a stop token, from the same prompts.

    python benchmarks/real.py [--rounds 3] [--threads 1] [--long] [--search]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import real_subject
import subject
from step import SHARES, TRL_PYTHON
from turns import RESULTS, Worker, ratio_of_medians, save_results, spread, table

SEARCH = Path("docs/results/trl_search.json")
SIDES = ("ours", "trl", "bare")
Facts = dict[str, dict[float, list[dict[str, float]]]]
"""Side -> share of mixed groups -> the facts of each turn (turns.Gate)."""


def trl_work(long: bool, micro_batch: int, checkpointing: bool) -> dict[str, Any]:
    """The work of step_trl.py."""
    config = real_subject.config(long)
    prompts, samples = config.rollout.prompts, config.rollout.group_size
    places = [(n, i) for n in range(prompts) for i in range(samples)]
    problems = real_subject.problems(config)
    return {
        "prompts": prompts,
        "samples": samples,
        "updates": prompts // config.optim.minibatch_prompts,
        "max_tokens": config.rollout.max_tokens,
        "lr": config.optim.lr,
        "texts": [problem.prompt_text for problem in problems],
        "rewards": {str(s): [subject.reward(n, i, s) for n, i in places] for s in SHARES},
        "stop_ids": real_subject.stop_ids(config),
        "micro_batch": micro_batch,
        "gradient_checkpointing": checkpointing,
    }


def trl_worker(arguments: argparse.Namespace, micro_batch: int, checkpointing: bool) -> Worker:
    work = trl_work(arguments.long, micro_batch, checkpointing)
    folder = real_subject.folder(real_subject.config(arguments.long))
    command = [str(TRL_PYTHON), "benchmarks/step_trl.py", "--folder", str(folder)]
    command += ["--threads", str(arguments.threads), "--work", json.dumps(work)]
    return Worker(command, RESULTS / "trl.log")


def own_worker(arguments: argparse.Namespace, side: str) -> Worker:
    command = [sys.executable, "benchmarks/real_ours.py", side]
    command += ["--threads", str(arguments.threads), *(["--long"] if arguments.long else [])]
    return Worker(command, RESULTS / f"{side}.log")


def search(arguments: argparse.Namespace) -> None:
    """TRL's time and memory of one batch by its settings, after a warm-up; writes SEARCH."""
    found = read_search()
    length = "long" if arguments.long else "sums"
    rows = []
    for checkpointing in (False, True):
        for micro_batch in (64, 32, 16, 8):
            worker = trl_worker(arguments, micro_batch, checkpointing)
            worker.turn("1.0")
            facts = worker.turn("1.0")
            worker.stop()
            rows.append(
                {"micro_batch": micro_batch, "gradient_checkpointing": checkpointing} | facts
            )
            print(rows[-1], flush=True)
    found[length] = {
        "tried": rows,
        "fastest": min(rows, key=lambda row: row["wall"]),
        "smallest": min(rows, key=lambda row: row["peak"]),
    }
    SEARCH.write_text(json.dumps(found, indent=1) + "\n")


def read_search() -> dict[str, Any]:
    return json.loads(SEARCH.read_text()) if SEARCH.is_file() else {}


def measure(arguments: argparse.Namespace, workers: Mapping[str, Worker]) -> Facts:
    """After one warm-up turn of each."""
    facts: Facts = {side: {share: [] for share in SHARES} for side in workers}
    for worker in workers.values():
        worker.turn("1.0")
    for number in range(arguments.rounds):
        for share in SHARES:
            for side, worker in workers.items():
                facts[side][share].append(worker.turn(str(share)))
            now = " ".join(f"{side} {facts[side][share][-1]['wall']:.1f}" for side in workers)
            print(f"{share:.0%} mixed, round {number + 1}: {now} s", flush=True)
    for worker in workers.values():
        worker.stop()
    return facts


def table_rows(facts: Facts) -> list[list[Any]]:
    return [table_row(facts, side, share) for share in SHARES for side in facts]


def table_row(facts: Facts, side: str, share: float) -> list[Any]:
    def numbers(fact: str, side: str = side) -> list[float]:
        return [turn[fact] for turn in facts[side][share]]

    ours = numbers("wall", "ours")
    return [
        f"{share:.0%}",
        side,
        f"{statistics.mean(numbers('length')):.1f}",
        f"{statistics.median(numbers('wall')):.1f}",
        f"{statistics.median(numbers('cpu')):.1f}",
        f"{max(numbers('peak')):.2f}",
        f"{ratio_of_medians(ours, numbers('wall')):.2f}",
        spread(ours, numbers("wall")),
        f"{max(numbers('peak', 'ours')) / max(numbers('peak')):.2f}",
    ]


HEADER = ["mixed", "program", "tokens", "wall s", "CPU s", "peak GB", "ours / it, wall"]
HEADER += ["range over rounds", "ours / it, peak"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--search", action="store_true", help="TRL's settings; takes an hour")
    arguments = parser.parse_args(argv)
    if not TRL_PYTHON.is_file():
        sys.exit(f"{TRL_PYTHON} does not exist; run `make bench-real`, which creates it")
    if arguments.search:
        search(arguments)
        return
    name = "long" if arguments.long else "sums"
    best = read_search().get(name, {}).get("fastest")
    best = best or {"micro_batch": 16, "gradient_checkpointing": False}
    workers = {
        "ours": own_worker(arguments, "ours"),
        "trl": trl_worker(arguments, best["micro_batch"], best["gradient_checkpointing"]),
        "bare": own_worker(arguments, "bare"),
    }
    facts = measure(arguments, workers)
    text = table(HEADER, table_rows(facts))
    checkpointing = "on" if best["gradient_checkpointing"] else "off"
    text += (
        f"\n\nThreads: {arguments.threads} each; rounds: {arguments.rounds}. Tokens: mean "
        f"length of responses. TRL: micro-batches of {best['micro_batch']} rows, gradient "
        f"checkpointing {checkpointing}. Peak: resident memory of a turn."
    )
    save_results(f"real-{name}", text, {"threads": arguments.threads, "rounds": facts})
    ours, theirs = ([turn["wall"] for turn in facts[side][1.0]] for side in ("ours", "trl"))
    print(f"ratio {ratio_of_medians(ours, theirs):.2f} (ours / TRL, {name}, all groups mixed)")


if __name__ == "__main__":
    main()
