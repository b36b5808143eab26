"""Update time (forward and backward) by share of mixed groups; gradients with and without skipping.

Rows of all-solved and none-solved groups have advantage 0 under GRPO and are skipped. The gradient
is compared with that of all rows. Times are CPU seconds. The last line is the ratio with half of
the groups mixed.

    python benchmarks/skip.py [--rounds 9] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import subject
import torch
from transformers import AutoTokenizer
from turns import ratio_of_medians, save_results, table

from asymrl.engines.local import LocalPolicy
from asymrl.types import Batch, LossFn

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TOLERANCE = 1e-5  # relative norm of the difference: fp32 sums in a different order


def seconds(policy: LocalPolicy, batches: Sequence[Batch], loss: LossFn) -> float:
    start = time.process_time()
    for batch in batches:
        policy.backward(batch, loss)
    return time.process_time() - start


def gradient(policy: LocalPolicy, batch: Batch, loss: LossFn) -> torch.Tensor:
    policy.backward(batch, loss)
    grads = [p.grad for p in policy.module.parameters() if p.grad is not None]
    return torch.cat([grad.flatten() for grad in grads])


def difference(policy: LocalPolicy, batches: Sequence[Batch], loss: LossFn) -> float:
    """Largest over mini-batches of |skipped - full| / |full|, or |skipped| where full is 0."""
    differences = []
    for batch in batches:
        skipped = gradient(policy, batch, loss)
        all_rows = replace(batch, has_gradient=torch.ones_like(batch.has_gradient))
        full = gradient(policy, all_rows, loss)
        differences.append(float((skipped - full).norm() / (full.norm() or 1.0)))
    return max(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = subject.folder(subject.SMALL)
    tokenizer, cfg = AutoTokenizer.from_pretrained(path), subject.config(1, path)
    requests = subject.requests(cfg, subject.problems(tokenizer))
    rollouts = subject.generated(subject.engine(path, tokenizer), requests, subject.sampling())
    policy = subject.policy(path)
    work = {share: subject.cut(cfg, requests, rollouts, share) for share in SHARES}
    seconds(policy, *work[1.0])
    times: dict[float, list[float]] = {share: [] for share in SHARES}
    for _ in range(arguments.rounds):
        for share in SHARES:
            times[share].append(seconds(policy, *work[share]))
    rows = []
    for share in SHARES:
        error = difference(policy, *work[share])
        assert error <= TOLERANCE, f"with {share:.0%} mixed, the gradients differ by {error}"
        ratio = ratio_of_medians(times[share], times[1.0])
        median = statistics.median(times[share])
        rows.append([f"{share:.0%}", f"{median:.3f}", f"{ratio:.2f}", f"{error:.0e}"])
    text = table(["mixed", "seconds", "relative to 100%", "gradient difference"], rows)
    text += f"\n\nThreads: {arguments.threads}; rounds: {arguments.rounds}; medians."
    save_results("skip", text, {"threads": arguments.threads, "seconds": times})
    print(f"ratio {ratio_of_medians(times[0.5], times[1.0]):.2f} (half mixed / all mixed)")


if __name__ == "__main__":
    main()
