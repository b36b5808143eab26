"""A rollout batch and its updates: AsymRL beside TRL's GRPOTrainer, taking turns on the same work.

The same model, prompts, G, response lengths (subject.py), mini-batches, optimizer and threads;
rewards fixed by their place in the batch. TRL runs in a virtual environment of its own, which
`make bench-step` makes. A batch of 32 prompts at the large vocabulary takes minutes: there it is 8,
in as many mini-batches. The last line is the ratio of the medians at the small vocabulary.

    python benchmarks/step.py [--rounds 9] [--large-rounds 2] [--large-prompts 8] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import subject
from turns import RESULTS, Worker, keep, ratio_of_medians, spread, table

SHARES = (1.0, 0.5)
TRL_PYTHON = RESULTS / "venv/bin/python"


def asked(prompts: int) -> dict[str, Any]:
    """What TRL's side is to do; rewards by share, in the order of prompts and samples."""
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
    """Side -> share -> what each round gave, after one that does not count."""
    folder = subject.folder(vocabulary)
    common = ["--threads", str(threads)]
    ours = [sys.executable, "benchmarks/step_ours.py", "--vocabulary", str(vocabulary), *common]
    ours += ["--prompts", str(prompts)]
    theirs = [str(TRL_PYTHON), "benchmarks/step_trl.py", "--folder", str(folder), *common]
    theirs += ["--asked", json.dumps(asked(prompts))]
    workers = {
        "ours": Worker(ours, RESULTS / "ours.log"),
        "trl": Worker(theirs, RESULTS / "trl.log"),
    }
    found: dict[str, dict[float, list]] = {side: {s: [] for s in SHARES} for side in workers}
    for worker in workers.values():
        worker.turn("1.0")
    for number in range(rounds):
        for share in SHARES:
            for side, worker in workers.items():
                found[side][share].append(worker.turn(str(share)))
            now = " ".join(f"{side} {found[side][share][-1]['wall']:.2f}" for side in workers)
            print(f"V {vocabulary}, {share:.0%} mixed, round {number + 1}: {now} s", flush=True)
    for worker in workers.values():
        worker.stop()
    return found


def row(
    vocabulary: int, prompts: int, share: float, found: dict[str, dict[float, list]]
) -> list[Any]:
    def of(side: str, what: str) -> list[float]:
        return [batch[what] for batch in found[side][share]]

    ours, theirs = of("ours", "wall"), of("trl", "wall")
    return [
        f"{vocabulary:,}",
        prompts,
        f"{share:.0%}",
        f"{statistics.mean(of('ours', 'length')):.1f}",
        f"{statistics.mean(of('trl', 'length')):.1f}",
        f"{statistics.median(ours):.2f}",
        f"{statistics.median(theirs):.2f}",
        f"{ratio_of_medians(ours, theirs):.2f}",
        spread(ours, theirs),
        f"{ratio_of_medians(of('ours', 'cpu'), of('trl', 'cpu')):.2f}",
        len(ours),
    ]


HEADER = [
    "vocabulary",
    "prompts",
    "mixed",
    "our tokens",
    "TRL's tokens",
    "ours, s",
    "TRL, s",
    "ratio",
]
HEADER += ["of the rounds", "of processor time", "rounds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--large-rounds", type=int, default=2)
    parser.add_argument("--large-prompts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if not TRL_PYTHON.is_file():
        sys.exit(f"there is no {TRL_PYTHON}: `make bench-step` makes it")
    sizes = {
        subject.SMALL: (subject.PROMPTS, arguments.rounds),
        subject.LARGE: (arguments.large_prompts, arguments.large_rounds),
    }
    found = {
        vocabulary: measure(vocabulary, prompts, rounds, arguments.threads)
        for vocabulary, (prompts, rounds) in sizes.items()
        if rounds
    }
    rows = [row(v, sizes[v][0], share, found[v]) for v in found for share in SHARES]
    text = table(HEADER, rows)
    text += f"\n\nThreads: {arguments.threads} each. Tokens: the mean length of a response."
    keep("step", text, {"threads": arguments.threads, "rounds": found})
    ours, theirs = (
        [batch["wall"] for batch in found[subject.SMALL][side][1.0]] for side in ("ours", "trl")
    )
    print(f"ratio {ratio_of_medians(ours, theirs):.2f} (ours / TRL, all groups mixed)")


if __name__ == "__main__":
    main()
