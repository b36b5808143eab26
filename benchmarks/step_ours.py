"""AsymRL's side of step.py: the training loop with the hf engine and the local policy.

Responses are verified, and the verdicts are then replaced by fixed ones. One turn is one step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

import subject
import torch
from transformers import AutoTokenizer
from turns import Gate

from asymrl.run.tracking import Tracker


class GateTracker(Tracker):
    """Ends a turn at each logged step; the command is the next step's share of mixed groups."""

    def __init__(self) -> None:
        self.gate, self.share = Gate(), 1.0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        length = metrics.get("rollout/length_mean", 0.0)
        command = self.gate.end_turn(length=length, **times(metrics))
        if command is None:
            sys.exit()
        self.share = float(command)


def times(metrics: Mapping[str, float]) -> dict[str, float]:
    return {n.removeprefix("time/"): x for n, x in metrics.items() if n.startswith("time/")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = subject.folder(arguments.vocabulary)
    tracker = GateTracker()
    subject.train(
        subject.config(10**6, path, prompts=arguments.prompts),
        path,
        engine=subject.engine(path, AutoTokenizer.from_pretrained(path)),
        policy=subject.policy(path),
        tracker=tracker,
        share=lambda: tracker.share,
    )


if __name__ == "__main__":
    main()
