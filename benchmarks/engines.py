"""vLLM's CPU build beside hf as the engine of the same step, in alternating turns.

The training loop with the local policy, one thread each: the pocket model and SmolLM2-135M, with
the settings of their configs and with longer responses that no token ends (SmolLM2 then with 4
prompts, not 16). hf samples with the
policy's own weights and knows exact log-probs; vLLM has its own weights, which a sync packs again,
and its rollouts need a score pass. Times are seconds of processor time: medians of the rounds. For
the longer responses of SmolLM2 no group is mixed, so the update, which is the same for both, takes
no time.

    python benchmarks/engines.py [--rounds 3] [--threads 1]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import real_subject
import subject
import torch
from step_ours import GateTracker
from turns import RESULTS, Worker, ratio_of_medians, save_results, table

from asymrl.config.load import load_config
from asymrl.config.schema import Config
from asymrl.engines import build, memory, pretrained
from asymrl.engines.distributed import World
from asymrl.training.setup import training_sampling

ENGINES = ("hf", "vllm")
LONGER = {"pocket": 256, "smollm2_135m": real_subject.LONG}
CASES = {  # case -> model, prompts, responses that no token ends, share of mixed groups
    "pocket": ("pocket", 32, False, 1.0),
    "pocket, longer": ("pocket", 32, True, 1.0),
    "smollm2_135m": ("smollm2_135m", 16, False, 1.0),
    "smollm2_135m, longer": ("smollm2_135m", 4, True, 0.0),
}
PHASES = ("generate", "score", "update", "sync")


def make_config(case: str, engine: str) -> Config:
    model, prompts, longer, _ = CASES[case]
    sizes = [f"rollout.prompts={prompts}", f"rollout.engine={engine}"]
    if longer:
        sizes += [f"rollout.max_tokens={LONGER[model]}", "optim.minibatch_prompts=4"]
    return load_config(f"{model}_grpo", [*real_subject.LEAN, *sizes])


class PhaseTracker(GateTracker):
    """A GateTracker that also reports seconds of processor time by phase."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.start = "", time.process_time()
        self.seconds: dict[str, float] = {}

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        now = time.process_time()
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + now - self.start
        self.name, self.start = name, now

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.phase("")
        cpu = {f"cpu_{phase}": self.seconds.get(phase, 0.0) for phase in PHASES}
        super().log(step, {"rollout/length_mean": 0.0, **metrics} | as_times(cpu))
        self.seconds, self.start = {}, time.process_time()


def as_times(facts: Mapping[str, float]) -> dict[str, float]:
    return {f"time/{name}": seconds for name, seconds in facts.items()}


def side(case: str, name: str, threads: int) -> None:
    """A worker: engine and policy as train.py builds them."""
    torch.set_num_threads(threads)
    tracker, config = PhaseTracker(), make_config(case, name)
    tokenizer = real_subject.tokenizer(config)
    engine = build.build_engine(
        name,
        config.model,
        tokenizer,
        world=World(),
        dtype=torch.float32,
        max_rows=config.rollout.max_rows,
        vllm=build.VLLMSettings(
            max_model_len=memory.tokens_per_row(config), gpu_memory_utilization=0.7
        ),
    )
    torch.set_num_threads(threads)
    how = training_sampling(config, tokenizer)
    longer = CASES[case][2]
    subject.train(
        config,
        Path(pretrained.locate(config.model.path)),
        engine=engine,
        policy=build.build_policy(config, World(), build.model_to_share(engine, config)),
        tracker=tracker,
        share=lambda: tracker.share,
        asked_problems=real_subject.problems(config),
        how=replace(how, stop_ids=()) if longer else how,
    )


def measure(case: str, rounds: int, threads: int) -> dict[str, list[dict[str, float]]]:
    """Engine -> the facts of each turn, after one that warms up."""
    command = [sys.executable, __file__, "--threads", str(threads), "--case", case, "--engine"]
    share = str(CASES[case][3])
    workers = {name: Worker([*command, name], RESULTS / f"engine-{name}.log") for name in ENGINES}
    for worker in workers.values():
        worker.turn(share)
    facts: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
    for number in range(rounds):
        for name, worker in workers.items():
            facts[name].append(worker.turn(share))
        now = " ".join(f"{name} {facts[name][-1]['cpu']:.2f}" for name in ENGINES)
        print(f"{case}, round {number + 1}: {now} s", flush=True)
    for worker in workers.values():
        worker.stop()
    return facts


def table_rows(case: str, facts: Mapping[str, Sequence[Mapping[str, float]]]) -> list[list[Any]]:
    def numbers(name: str, fact: str) -> list[float]:
        return [turn[fact] for turn in facts[name]]

    def ratio(fact: str) -> str:
        return f"{ratio_of_medians(numbers('vllm', fact), numbers('hf', fact)):.2f}"

    rows: list[list[Any]] = []
    for name in ENGINES:
        phases = [statistics.median(numbers(name, f"cpu_{phase}")) for phase in PHASES]
        rows.append([case, f"{statistics.mean(numbers(name, 'length')):.1f}", name])
        rows[-1] += [statistics.median(numbers(name, "cpu")), *phases, max(numbers(name, "peak"))]
    peak = max(numbers("vllm", "peak")) / max(numbers("hf", "peak"))
    rows.append([case, "", "vllm / hf", ratio("cpu"), ratio("cpu_generate"), "", ""])
    rows[-1] += ["", f"{peak:.2f}"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        return side(arguments.case, arguments.engine, arguments.threads)
    if not find_spec("vllm"):
        sys.exit("vLLM is not installed; `make stack` installs it")
    cases = [arguments.case] if arguments.case else [*CASES]
    header = ["case", "tokens", "engine", "step, CPU s", *PHASES, "peak GB"]
    facts, rows = {}, []
    for case in cases:
        facts[case] = measure(case, arguments.rounds, arguments.threads)
        rows += table_rows(case, facts[case])
        text = table(header, rows)
        text += f"\n\nThreads: {arguments.threads} each; rounds: {arguments.rounds}."
        save_results("engines", text, facts)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
