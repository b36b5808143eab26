"""Update time (forward and backward) against the share of mixed groups, and the same gradients.

Rows of groups that are all right or all wrong have advantage 0 under GRPO: they are skipped. The
gradient is compared with that of all rows. Seconds of processor time. The last line is the ratio
at half.

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
from turns import keep, ratio_of_medians, table

from asymrl.engines.local import LocalPolicy
from asymrl.types import Batch, LossFn

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TOLERANCE = 1e-5  # of the norm of the difference against the norm: fp32 sums in another order


def seconds(policy: LocalPolicy, batches: Sequence[Batch], loss: LossFn) -> float:
    began = time.process_time()
    for batch in batches:
        policy.backward(batch, loss)
    return time.process_time() - began


def gradient(policy: LocalPolicy, batch: Batch, loss: LossFn) -> torch.Tensor:
    policy.backward(batch, loss)
    grads = [p.grad for p in policy.module.parameters() if p.grad is not None]
    return torch.cat([grad.flatten() for grad in grads])


def difference(policy: LocalPolicy, batches: Sequence[Batch], loss: LossFn) -> float:
    """Largest over mini-batches: |skipped - whole| / |whole|; |skipped| where the whole is 0."""
    found = []
    for batch in batches:
        mine = gradient(policy, batch, loss)
        whole = gradient(
            policy, replace(batch, has_gradient=torch.ones_like(batch.has_gradient)), loss
        )
        found.append(float((mine - whole).norm() / (whole.norm() or 1.0)))
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = subject.folder(subject.SMALL)
    tokenizer, cfg = AutoTokenizer.from_pretrained(path), subject.config(1, path)
    asked = subject.requests(cfg, subject.problems(tokenizer))
    rollouts = subject.generated(subject.engine(path, tokenizer), asked, subject.sampling())
    policy, work = subject.policy(path), {}
    for share in SHARES:
        work[share] = subject.cut(cfg, asked, rollouts, share)
    seconds(policy, *work[1.0])
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    for _ in range(arguments.rounds):
        for share in SHARES:
            found[share].append(seconds(policy, *work[share]))
    rows = []
    for share in SHARES:
        apart = difference(policy, *work[share])
        assert apart <= TOLERANCE, f"at {share} the gradients are {apart} apart"
        ratio = ratio_of_medians(found[share], found[1.0])
        middle = statistics.median(found[share])
        rows.append([f"{share:.0%}", f"{middle:.3f}", f"{ratio:.2f}", f"{apart:.0e}"])
    text = table(["mixed", "seconds", "of all mixed", "gradient apart"], rows)
    text += f"\n\nThreads: {arguments.threads}; rounds: {arguments.rounds}; medians."
    keep("skip", text, {"threads": arguments.threads, "seconds": found})
    print(f"ratio {ratio_of_medians(found[0.5], found[1.0]):.2f} (half mixed / all mixed)")


if __name__ == "__main__":
    main()
