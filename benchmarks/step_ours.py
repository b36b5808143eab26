"""AsymRL's side of step.py: the real loop, hf + local, its own exact verifier.

Verdicts are made and then replaced by the script's rewards. One line from the gate is one step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

import subject
import torch
from transformers import AutoTokenizer
from turns import Gate

from asymrl.run.tracking import NullTracker


class AtTheGate(NullTracker):
    """Each logged step is a turn; what the gate says is the next one's share of mixed groups."""

    def __init__(self) -> None:
        self.gate, self.share = Gate(), 1.0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        length = metrics.get("rollout/length_mean", 0.0)
        told = self.gate.between(length=length, **times(metrics))
        if told is None:
            sys.exit()
        self.share = float(told)


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
    tracker = AtTheGate()
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
