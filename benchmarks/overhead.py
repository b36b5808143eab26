"""A step of the training loop compared with the bare work in it, on the same tokens.

Bare work: `engine.generate` without a verifier, then for the same mini-batches the forward pass,
the PPO-clip loss as one expression, and the backward pass. It has no metrics, no bookkeeping and no
optimizer, and its micro-batches are built in advance. hf needs no score pass. The two alternate
step by step and are measured in CPU seconds, on which other programs on the machine have less
influence. The last line is the ratio of the medians.

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
from turns import ratio_of_medians, save_results, spread, table

from asymrl.engines.hf import HFEngine
from asymrl.engines.local import CPU_TOKENS, LocalPolicy
from asymrl.engines.micro_batches import forward_micro_batch, loss_inputs, micro_batches
from asymrl.run.tracking import Tracker
from asymrl.types import LossInputs, Request, Rollout


class Turns(Tracker):
    """Times each step of the loop and, after it, the bare work of the same step."""

    def __init__(self, cfg: Any, engine: HFEngine, policy: LocalPolicy) -> None:
        self.cfg, self.engine, self.policy = cfg, engine, policy
        self.last_batch: tuple[Sequence[Request], list[Rollout]] = ((), [])
        self.steps: list[dict[str, float]] = []
        self.start = 0.0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        whole = time.process_time() - self.start
        if step:
            generate, update = self.bare()
            self.steps.append({"step": whole, "generate": generate, "update": update})
            print(f"step {step}: {whole:.3f} s, bare {generate + update:.3f} s", flush=True)
        self.start = time.process_time()

    def bare(self) -> tuple[float, float]:
        """CPU seconds of bare generation and of bare forward and backward."""
        requests, rollouts = self.last_batch
        start = time.process_time()
        for _ in self.engine.generate(requests, subject.sampling()):
            pass
        generate = time.process_time() - start
        parts, module = [], self.policy.module
        for batch in subject.cut(self.cfg, requests, rollouts, 1.0)[0]:
            rows = range(len(batch.sequences))
            parts += [(batch, micro) for micro in micro_batches(batch, rows, CPU_TOKENS)]
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
    """CPU seconds of each step except the first."""
    path = subject.folder(subject.SMALL)
    tokenizer, cfg = AutoTokenizer.from_pretrained(path), subject.config(rounds + 1, path)
    tracker = Turns(cfg, subject.engine(path, tokenizer), subject.policy(path))

    def on_batch(requests: Sequence[Request], rollouts: list[Rollout]) -> None:
        tracker.last_batch = requests, rollouts

    parts = {"engine": tracker.engine, "policy": tracker.policy, "tracker": tracker}
    subject.train(cfg, path, share=lambda: 1.0, seen=on_batch, **parts)
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
    text = table(["work", "CPU seconds"], rows)
    text += f"\n\nThreads: {arguments.threads}; steps: {len(steps)}; "
    text += f"ratios of single steps {spread(whole, bare)}."
    save_results("overhead", text, {"threads": arguments.threads, "steps": steps})
    print(f"ratio {ratio_of_medians(whole, bare):.3f} (our step / bare work)")


if __name__ == "__main__":
    main()
