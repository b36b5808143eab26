"""A rollout batch and its updates in AsymRL and in TRL's GRPOTrainer, in alternating turns.

Both use the same model, prompts, G, response lengths (subject.py), mini-batches, optimizer and
threads. Rewards are fixed by position in the batch. TRL runs in its own virtual environment, which
`make bench-step` creates. With the large vocabulary a batch of 32 prompts takes minutes, so it has
8 prompts there, in the same number of mini-batches. The last line is the ratio of the medians at
the small vocabulary.

    python benchmarks/step.py [--rounds 9] [--large-rounds 2] [--large-prompts 8] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import subject
from turns import RESULTS, Worker, ratio_of_medians, save_results, spread, table

SHARES = (1.0, 0.5)
TRL_PYTHON = RESULTS / "venv/bin/python"


def trl_work(prompts: int) -> dict[str, Any]:
    """The work of TRL's side. Rewards by share of mixed groups, in order of prompts and samples."""
    places = [(n, i) for n in range(prompts) for i in range(subject.SAMPLES)]
    return {
        "prompts": prompts,
        "samples": subject.SAMPLES,
        "updates": subject.UPDATES,
        "max_tokens": subject.MAX_TOKENS,
        "lr": subject.LR,
        "texts": subject.prompts(),
        "rewards": {str(s): [subject.reward(n, i, s) for n, i in places] for s in SHARES},
    }


def measure(
    vocabulary: int, prompts: int, rounds: int, threads: int
) -> dict[str, dict[float, list]]:
    """Side -> share of mixed groups -> the facts of each round, after one warm-up turn."""
    folder = subject.folder(vocabulary)
    common = ["--threads", str(threads)]
    ours = [sys.executable, "benchmarks/step_ours.py", "--vocabulary", str(vocabulary), *common]
    ours += ["--prompts", str(prompts)]
    theirs = [str(TRL_PYTHON), "benchmarks/step_trl.py", "--folder", str(folder), *common]
    theirs += ["--work", json.dumps(trl_work(prompts))]
    workers = {
        "ours": Worker(ours, RESULTS / "ours.log"),
        "trl": Worker(theirs, RESULTS / "trl.log"),
    }
    facts: dict[str, dict[float, list]] = {side: {s: [] for s in SHARES} for side in workers}
    for worker in workers.values():
        worker.turn("1.0")
    for number in range(rounds):
        for share in SHARES:
            for side, worker in workers.items():
                facts[side][share].append(worker.turn(str(share)))
            now = " ".join(f"{side} {facts[side][share][-1]['wall']:.2f}" for side in workers)
            print(f"V {vocabulary}, {share:.0%} mixed, round {number + 1}: {now} s", flush=True)
    for worker in workers.values():
        worker.stop()
    return facts


def table_row(
    vocabulary: int, prompts: int, share: float, facts: dict[str, dict[float, list]]
) -> list[Any]:
    def numbers(side: str, fact: str) -> list[float]:
        return [turn[fact] for turn in facts[side][share]]

    ours, theirs = numbers("ours", "wall"), numbers("trl", "wall")
    return [
        f"{vocabulary:,}",
        prompts,
        f"{share:.0%}",
        f"{statistics.mean(numbers('ours', 'length')):.1f}",
        f"{statistics.mean(numbers('trl', 'length')):.1f}",
        f"{statistics.median(ours):.2f}",
        f"{statistics.median(theirs):.2f}",
        f"{ratio_of_medians(ours, theirs):.2f}",
        spread(ours, theirs),
        f"{ratio_of_medians(numbers('ours', 'cpu'), numbers('trl', 'cpu')):.2f}",
        len(ours),
    ]


HEADER = ["vocabulary", "prompts", "mixed", "our tokens", "TRL's tokens", "ours, s", "TRL, s"]
HEADER += ["ratio", "range over rounds", "ratio of CPU time", "rounds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--large-rounds", type=int, default=2)
    parser.add_argument("--large-prompts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if not TRL_PYTHON.is_file():
        sys.exit(f"{TRL_PYTHON} does not exist; run `make bench-step`, which creates it")
    sizes = {
        subject.SMALL: (subject.PROMPTS, arguments.rounds),
        subject.LARGE: (arguments.large_prompts, arguments.large_rounds),
    }
    results = {
        vocabulary: measure(vocabulary, prompts, rounds, arguments.threads)
        for vocabulary, (prompts, rounds) in sizes.items()
        if rounds
    }
    rows = [table_row(v, sizes[v][0], share, results[v]) for v in results for share in SHARES]
    text = table(HEADER, rows)
    text += f"\n\nThreads: {arguments.threads} each. Tokens: mean length of a response."
    save_results("step", text, {"threads": arguments.threads, "rounds": results})
    ours, theirs = (
        [turn["wall"] for turn in results[subject.SMALL][side][1.0]] for side in ("ours", "trl")
    )
    print(f"ratio {ratio_of_medians(ours, theirs):.2f} (ours / TRL, all groups mixed)")


if __name__ == "__main__":
    main()
