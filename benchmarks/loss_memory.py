"""Measures memory and time of log-probs and entropy, forward and backward, for a real vocabulary.

Compares our kernel with full logits and with TRL's chunked kernel, called as in its GRPOTrainer:
fp32, both outputs differentiated, gradients for hidden states and head. Every run has its own
process. Memory is the peak in addition to the inputs: Linux's VmHWM, reset before the forward pass,
minus the resident memory at that point. It includes both gradients; at the default width, the
head's takes 148 MiB. Time is processor seconds, which other processes do not affect;
with one thread they equal the wall time on an idle machine. The kernels alternate, and medians are
compared. Linux only.

    python benchmarks/loss_memory.py [--quick] [--rounds 3] [--threads 1] [--width 256]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from asymrl.algo.logprobs import logprobs_and_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.process_memory import resident_bytes

VOCABULARY = 151_936
SIZES, QUICK = (2_048, 4_096, 8_192, 16_384, 32_768), (2_048, 8_192)
FULL_TOKENS = 2_048  # full logits take 6 GB there
EXACT = 1e-5  # relative norm; above the fp32 rounding of sums of 256 to 2,560 terms
RESET = Path("/proc/self/clear_refs")
GOALS = {"full": 0.1, "trl": 1 / 3}

Kernel = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def main() -> None:
    arguments = read_arguments()
    if arguments.one:
        name, tokens = arguments.one.split(":")
        print(json.dumps(measure(name, int(tokens), arguments)))
        return
    exact = check(arguments.width)
    print(f"exact: relative norm of the difference from fp64 {exact:.1e} (limit {EXACT:.0e})")
    sizes = QUICK if arguments.quick else SIZES
    print(f"{'tokens':>7} {'kernel':>6} {'peak MiB':>9} {'forward s':>10} {'backward s':>11}")
    results = {}
    for tokens in sizes:
        kernels = [name for name in KERNELS if name != "full" or tokens == FULL_TOKENS]
        results[tokens] = alternate(kernels, tokens, arguments)
        for name, (mib, forward, backward) in results[tokens].items():
            print(f"{tokens:7,} {name:>6} {mib:9,.0f} {forward:10.2f} {backward:11.2f}", flush=True)
    print("; ".join(ratio(results[tokens], tokens) for tokens in sizes))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK} tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # kernel:tokens, for a child process
    return parser.parse_args()


def alternate(
    kernels: list[str], tokens: int, arguments: argparse.Namespace
) -> dict[str, tuple[float, ...]]:
    """kernel -> median peak MiB, forward seconds and backward seconds. Sizes other than FULL_TOKENS
    run once."""
    rounds = arguments.rounds if tokens == FULL_TOKENS else 1
    runs: dict[str, list[list[float]]] = {name: [] for name in kernels}
    options = ["--threads", str(arguments.threads), "--width", str(arguments.width)]
    for _ in range(rounds):
        for name in kernels:
            command = [sys.executable, __file__, *options, "--one", f"{name}:{tokens}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {n: tuple(map(statistics.median, zip(*r, strict=True))) for n, r in runs.items()}


def ratio(results: dict[str, tuple[float, ...]], tokens: int) -> str:
    """Our kernel divided by each other one: memory, and seconds of forward plus backward."""
    mib, *seconds = results["ours"]
    parts = []
    for name in results.keys() - {"ours"}:
        their_mib, *their_seconds = results[name]
        memory, pace = mib / their_mib, sum(seconds) / sum(their_seconds)
        goal = GOALS[name] if name == "full" or tokens >= 8_192 else 1.0
        met = "met" if memory <= goal and pace <= 1 else "not met"
        parts.append(f"ours / {name}: memory {memory:.3f}, time {pace:.2f} ({met})")
    return f"ratio at {tokens:,}: " + ", ".join(sorted(parts))


def ours(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return logprobs_and_entropy(hidden, head, targets, temperature=1.0)


def full(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logp = torch.log_softmax(hidden @ head.T, dim=1)
    return logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(1)


def trl(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    from trl.kernels import ChunkedLogProbFunction  # pyright: ignore
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as SIZE  # pyright: ignore

    outputs = ("log_probs", "entropy")  # as GRPOTrainer requests from add_fused_lm_head
    values = ChunkedLogProbFunction.apply(
        hidden, head, None, targets, 1.0, SIZE, None, 1.0, outputs
    )
    return values[0], values[1]


KERNELS: dict[str, Kernel] = {"ours": ours, "full": full, "trl": trl}


def example(tokens: int, vocabulary: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """hidden, head, targets; the logits have a standard deviation of 1."""
    torch.manual_seed(0)
    hidden, head = torch.randn(tokens, width), torch.randn(vocabulary, width).div_(width**0.5)
    return hidden, head, torch.randint(vocabulary, (tokens,))


def backward(outputs: Sequence[Tensor]) -> None:
    weights = torch.linspace(-1, 1, len(outputs[0])).to(outputs[0])
    (weights @ outputs[0] + 0.1 * (weights**2 @ outputs[1])).backward()


def measure(name: str, tokens: int, arguments: argparse.Namespace) -> list[float]:
    """Peak MiB in addition to the inputs, forward seconds, backward seconds. A small call comes
    first, so that libraries are loaded and threads started."""
    torch.set_num_threads(arguments.threads)
    kernel = KERNELS[name]
    for size, vocabulary in ((64, 4_096), (tokens, VOCABULARY)):
        hidden, head, targets = example(size, vocabulary, arguments.width)
        inputs = hidden.requires_grad_(), head.requires_grad_()
        RESET.write_text("5")
        before, start = resident_bytes("self"), time.process_time()
        outputs = kernel(*inputs, targets)
        middle = time.process_time()
        backward(outputs)
        end = time.process_time()
    return [(resident_bytes("self", peak=True) - before) / 2**20, middle - start, end - middle]


def check(width: int) -> float:
    """The largest relative norm of the difference from full logits in fp64, over both outputs and
    both gradients, for 64 tokens and the full vocabulary."""
    hidden, head, targets = example(64, VOCABULARY, width)
    results = []
    for kernel, dtype in ((ours, torch.float32), (full, torch.float64)):
        inputs = [x.detach().to(dtype).requires_grad_() for x in (hidden, head)]
        outputs = kernel(inputs[0], inputs[1], targets)
        backward(outputs)
        results.append([*(x.detach() for x in outputs), *(x.grad for x in inputs)])
    worst = max(((a - b).norm() / b.norm()).item() for a, b in zip(*results, strict=True))
    assert worst <= EXACT, f"our kernel differs by {worst:.1e} from full logits in fp64"
    return worst


if __name__ == "__main__":
    main()
