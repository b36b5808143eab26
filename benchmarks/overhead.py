"""A step of the real loop against the bare work in it, on the same tokens.

Bare: `engine.generate` consumed with no verifier, and for the same mini-batches the forward pass
of the module, the PPO-clip loss as one expression, and the backward pass: no metrics, no
bookkeeping, no optimizer, micro-batches laid out beforehand. hf needs no score pass. The two take
turns, step by step, in seconds of processor time, which other programs on the machine change less.
The last line is the ratio of the medians.

    python benchmarks/overhead.py [--rounds 15] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import subject
import torch
from transformers import AutoTokenizer
from turns import keep, ratio_of_medians, spread, table

from asymrl.engines.hf import HFEngine
from asymrl.engines.local import LocalPolicy
from asymrl.engines.policy import forward_micro_batch, loss_inputs
from asymrl.run.tracking import NullTracker
from asymrl.types import LossInputs, Request, Rollout


class Turns(NullTracker):
    """Times each step of the loop and, between two, the bare work of the one that ended."""

    def __init__(self, cfg: Any, engine: HFEngine, policy: LocalPolicy) -> None:
        self.cfg, self.engine, self.policy = cfg, engine, policy
        self.drawn: tuple[Sequence[Request], list[Rollout]] = ((), [])
        self.steps: list[dict[str, float]] = []
        self.began = 0.0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        whole = time.process_time() - self.began
        if step:
            generate, update = self.bare()
            self.steps.append({"step": whole, "generate": generate, "update": update})
            print(f"step {step}: {whole:.3f} s, bare {generate + update:.3f} s", flush=True)
        self.began = time.process_time()

    def bare(self) -> tuple[float, float]:
        asked, rollouts = self.drawn
        began = time.process_time()
        for _ in self.engine.generate(asked, subject.sampling()):
            pass
        generate = time.process_time() - began
        parts, module = [], self.policy.module
        for batch in subject.cut(self.cfg, asked, rollouts, 1.0)[0]:
            rows = range(len(batch.sequences))
            parts += [(batch, micro) for micro in self.policy._micro_batches(batch, rows)]
        parts = [(m, loss_inputs(b, m.tokens, torch.empty(0), torch.empty(0))) for b, m in parts]
        began = time.process_time()
        for micro, inputs in parts:
            logprobs, _ = forward_micro_batch(module, micro, torch.device("cpu"))
            plain_loss(logprobs, inputs).backward()
        return generate, time.process_time() - began


def plain_loss(logprobs: torch.Tensor, inputs: LossInputs) -> torch.Tensor:
    ratio, advantages = (logprobs - inputs.old_logprobs).exp(), inputs.advantages
    gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    return -(gain / inputs.loss_denominators).sum()


def measure(rounds: int) -> list[dict[str, float]]:
    """Of each step but the first."""
    path = subject.folder(subject.SMALL)
    tokenizer, cfg = AutoTokenizer.from_pretrained(path), subject.config(rounds + 1, path)
    tracker = Turns(cfg, subject.engine(path, tokenizer), subject.policy(path))

    def seen(asked: Sequence[Request], rollouts: list[Rollout]) -> None:
        tracker.drawn = asked, rollouts

    own = {"engine": tracker.engine, "policy": tracker.policy, "tracker": tracker}
    subject.train(cfg, path, share=lambda: 1.0, seen=seen, **own)
    return tracker.steps[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = measure(arguments.rounds)

    def median(name: str) -> float:
        return statistics.median(step[name] for step in steps)

    whole = [step["step"] for step in steps]
    bare = [step["generate"] + step["update"] for step in steps]
    rows = [
        ["bare generate", f"{median('generate'):.3f}"],
        ["bare forward and backward", f"{median('update'):.3f}"],
        ["both", f"{statistics.median(bare):.3f}"],
        ["a step of the loop", f"{median('step'):.3f}"],
    ]
    text = table(["what", "seconds"], rows)
    text += f"\n\nThreads: {arguments.threads}; steps: {len(steps)}; "
    text += f"ratios of the steps {spread(whole, bare)}."
    keep("overhead", text, {"threads": arguments.threads, "steps": steps})
    print(f"ratio {ratio_of_medians(whole, bare):.3f} (our step / bare work)")


if __name__ == "__main__":
    main()
