"""Measures how the time of a step grows with response length, G, vocabulary, prompts, parameters
and ranks.

Changes one size at a time, from a base of 8 prompts x 8 samples x 48 tokens; for the parameters, 4
prompts x 4 samples x 24 tokens, a vocabulary of 327, and one copy of the weights for sampling and
training, as in a run of one process. No response stops early, and every group has correct and wrong
responses. Times are seconds of processor time of generating and of updating (4 optimizer steps):
the best of the rounds, because other processes only add time. The exponent is the slope of log
seconds over log size, by least squares; for the parameters, also of the largest three. Ranks: wall
time of a ZeRO-3 update on 1 and 2 processes, one thread each.

    python benchmarks/scaling.py [--rounds 3] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import subject
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM
from turns import save_results, table

from asymrl.config.schema import Config, PolicyConfig
from asymrl.engines.hf import HFEngine
from asymrl.engines.local import LocalPolicy
from asymrl.types import Request, Sampling

SIZES = {
    "max_tokens": (24, 48, 96),
    "group_size": (4, 8, 16),
    "vocabulary": (2_048, 8_192, 32_768),
    "prompts": (4, 8, 16),
}
MODELS = (  # from the size of the pocket model to that of SmolLM2-135M
    {"layers": 2, "hidden": 96, "intermediate": 320, "heads": 3},
    {"layers": 4, "hidden": 128, "intermediate": 448, "heads": 4},
    {"layers": 6, "hidden": 256, "intermediate": 768, "heads": 4},
    {"layers": 8, "hidden": 448, "intermediate": 1216, "heads": 7},
    {"layers": 18, "hidden": 768, "intermediate": 2304, "heads": 12},
)
FEW = {"max_tokens": 24, "group_size": 4, "prompts": 4}
BASE = {"max_tokens": 48, "group_size": 8, "vocabulary": subject.SMALL, "prompts": 8}


def work(vocabulary: int, **rollout: int) -> Any:
    """Folder of model and tokenizer, tokenizer, requests, sampling and config of one size."""
    path = subject.folder(vocabulary)
    tokenizer, cfg = AutoTokenizer.from_pretrained(path), subject.config(1, path, **rollout)
    sampling = Sampling(
        temperature=1.0, top_p=1.0, top_k=0, max_tokens=cfg.rollout.max_tokens, stop_ids=(-1,)
    )
    return path, tokenizer, subject.requests(cfg, subject.problems(tokenizer)), sampling, cfg


def seconds(vocabulary: int, rounds: int, **rollout: int) -> tuple[float, float]:
    """Seconds of generating and of updating, each the best of the rounds."""
    path, tokenizer, *asked = work(vocabulary, **rollout)
    return best(subject.engine(path, tokenizer), subject.policy(path), rounds, *asked)


def seconds_of_model(shape: Mapping[str, int], rounds: int) -> tuple[int, float, float]:
    """Parameters of a model of random weights, and its seconds."""
    _, tokenizer, *asked = work(subject.SMALL, **FEW)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(subject.make_config(subject.SMALL, **shape))
    policy = LocalPolicy(model, settings=PolicyConfig(token_budget=16_384), **subject.OPTIMIZER)
    engine = HFEngine(model, tokenizer.decode, 512)
    return model.num_parameters(), *best(engine, policy, rounds, *asked)


def best(
    engine: HFEngine,
    policy: LocalPolicy,
    rounds: int,
    requests: Sequence[Request],
    sampling: Sampling,
    cfg: Config,
) -> tuple[float, float]:
    """Seconds of generating and of updating, each the best of the rounds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        rollouts = subject.generated(engine, requests, sampling)
        generated = time.process_time()
        batches, loss = subject.cut(cfg, requests, rollouts, 1.0)
        update_start = time.process_time()
        for batch in batches:
            policy.update(batch, loss)
        times.append((generated - start, time.process_time() - update_start))
    generate, update = zip(*times, strict=True)
    return min(generate), min(update)


def exponent(sizes: Any, times: Any) -> float:
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def time_ranks(rounds: int, numbers: Sequence[int] = (1, 2), threads: int = 1) -> dict[int, float]:
    """Number of ranks -> seconds of a ZeRO-3 update; threads: of each rank."""
    results = {}
    for ranks in numbers:
        command = [
            "torchrun",
            "--standalone",
            "--nproc-per-node",
            str(ranks),
            __file__,
            "--rank",
        ]
        command[0] = os.path.join(os.path.dirname(sys.executable), command[0])
        quiet = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [*command, "--rounds", str(rounds), "--threads", str(threads)],
            env=quiet,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        results[ranks] = json.loads(done.stdout.splitlines()[-1])
    return results


def as_rank(rounds: int, threads: int) -> None:
    """A process of `time_ranks`; rank 0 prints the seconds."""
    from asymrl.engines.deepspeed import DeepSpeedPolicy
    from asymrl.engines.distributed import from_environment, join

    world = from_environment()
    join(world)
    torch.set_num_threads(threads)
    path, tokenizer, requests, sampling, cfg = work(subject.SMALL, prompts=16)
    engine = subject.engine(path, tokenizer)
    policy = DeepSpeedPolicy(
        lambda dtype: Qwen3ForCausalLM.from_pretrained(path, dtype=dtype),
        world=world,
        settings=PolicyConfig(token_budget=1024),
        **subject.OPTIMIZER,
    )
    batches, loss = subject.cut(cfg, requests, subject.generated(engine, requests, sampling), 1.0)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for batch in batches:
            policy.update(batch, loss)
        times.append(time.perf_counter() - start)
    if world.first:
        print(min(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        return as_rank(arguments.rounds, arguments.threads)
    torch.set_num_threads(arguments.threads)
    rows, numbers = [], {}
    for name, sizes in SIZES.items():
        times = [seconds(rounds=arguments.rounds, **(BASE | {name: size})) for size in sizes]
        numbers[name] = dict(zip(sizes, times, strict=True))
        for phase, part in zip(("generate", "update"), zip(*times, strict=True), strict=True):
            shown = ", ".join(f"{x:.2f}" for x in part)
            across = " ".join(f"{size:,}" for size in sizes)
            rows.append([name, across, phase, shown, f"{exponent(sizes, part):.2f}"])
    models = [seconds_of_model(shape, arguments.rounds) for shape in MODELS]
    counts, *phases = zip(*models, strict=True)
    numbers["parameters"] = {count: times for count, *times in models}
    across = " ".join(f"{count / 1e6:.1f}M" for count in counts)
    for phase, part in zip(("generate", "update"), phases, strict=True):
        shown = ", ".join(f"{x:.3g}" for x in part)
        slope = f"{exponent(counts, part):.2f}; {exponent(counts[-3:], part[-3:]):.2f}"
        rows.append(["parameters", across, phase, shown, slope])
    if find_spec("deepspeed"):
        ranks = time_ranks(arguments.rounds)
        numbers["ranks"] = ranks
        shown = ", ".join(f"{x:.2f}" for x in ranks.values())
        slope = f"{exponent(list(ranks), list(ranks.values())):.2f}"
        rows.append(["ranks", "1 2", "update, ZeRO-3", shown, slope])
    header = ["what grows", "sizes", "phase", "seconds", "exponent"]
    text = f"{table(header, rows)}\n\nThreads: {arguments.threads}; best of {arguments.rounds}."
    return save_results("scaling", text, numbers)


if __name__ == "__main__":
    main()
