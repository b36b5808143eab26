"""Times the weight sync from policy to engine, compared with a memcpy of as many bytes.

Measures `loop.sync_weights` without its check, into hf and, if installed, vLLM. The memcpy is one
`copy_` of all weights as one flat tensor, with as many threads. The two alternate; times are in
seconds of processor time. The last lines are the ratios.

    python benchmarks/sync.py [--rounds 15] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import subject
import torch
from transformers import AutoTokenizer
from turns import ratio_of_medians, save_results, table

from asymrl.engines.distributed import World
from asymrl.training.loop import sync_weights


def seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def vllm_engine(path: Path, tokenizer: Any) -> Any:
    from asymrl.engines.vllm import VLLMEngine, open_llm

    settings: dict[str, Any] = {"dtype": torch.float32, "max_model_len": 64, "max_rows": 64}
    return VLLMEngine(open_llm(str(path), world=World(), **settings), tokenizer.decode)


def measure(vocabulary: int, kind: str, rounds: int) -> tuple[int, list[float], list[float]]:
    """Bytes of the weights, and by round the seconds of a sync and of a memcpy."""
    path = subject.folder(vocabulary)
    tokenizer, policy = AutoTokenizer.from_pretrained(path), subject.policy(path)
    engine = (vllm_engine if kind == "vllm" else subject.engine)(path, tokenizer)
    source = torch.cat([tensor.flatten() for _, tensor in policy.named_weights()])
    target = torch.empty_like(source)
    syncs, copies = [], []
    for _ in range(rounds + 1):  # the first one warms up
        engine.sleep()
        syncs.append(seconds(lambda: sync_weights(policy, engine, check=False)))
        copies.append(seconds(lambda: target.copy_(source)))
    return source.nbytes, syncs[1:], copies[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kinds = ["hf", *(["vllm"] if find_spec("vllm") else [])]
    rows, lines, numbers = [], [], {}
    for kind in kinds:
        for vocabulary in (subject.SMALL, subject.LARGE):
            size, syncs, copies = measure(vocabulary, kind, arguments.rounds)
            ratio = ratio_of_medians(syncs, copies)
            times = [f"{1000 * statistics.median(x):.2f}" for x in (syncs, copies)]
            rows.append([kind, f"{vocabulary:,}", f"{size / 2**20:.1f}", *times, f"{ratio:.2f}"])
            lines.append(f"ratio {ratio:.2f} ({kind} / memcpy, {size / 2**20:.0f} MiB)")
            numbers[f"{kind} {vocabulary}"] = {"bytes": size, "sync": syncs, "memcpy": copies}
    header = ["engine", "vocabulary", "MiB", "sync, ms", "memcpy, ms", "ratio"]
    text = f"{table(header, rows)}\n\nThreads: {arguments.threads}; medians of {arguments.rounds}."
    save_results("sync", text, numbers)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
