"""Where the milliseconds of a step go, as a chart: docs/performance.png.

Profiles one step with torch.profiler and one thread. The profiler slows small operations down, so
the CPU time is that of a step without it, split in the proportions that the profiler measured. Time
outside all operations is Python (transformers' and ours). Two steps are profiled: that of step.py
and one of the pocket policy.

    python benchmarks/profile_step.py [--rounds 7] [--out docs/performance.png]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import subject
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoTokenizer
from turns import save_results, table

from asymrl import verifiers
from asymrl.config.schema import ModelConfig, PolicyConfig
from asymrl.data import problems as data
from asymrl.engines import pretrained
from asymrl.engines.hf import HFEngine
from asymrl.engines.local import LocalPolicy
from asymrl.training.algorithm import build_algorithm
from asymrl.training.metrics import rollout_metrics
from asymrl.types import Request, Sampling

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "attention": ("scaled_dot_product",),
    "copies and gathers": (
        *("copy", "cat", "index", "gather", "scatter", "fill", "zero", "stack", "clone"),
        *("arange", "embedding", "repeat", "select", "nonzero", "empty", "to_copy"),
    ),
    "elementwise, sums and norms": ("",),
}
ALL_KINDS = [*KINDS, "Python and dispatch"]
COLOURS = ["#0072b2", "#56b4e9", "#e69f00", "#009e73", "#999999"]
PHASES = ("generate", "advantages and metrics", "forward", "backward", "optimizer step")


def kind_of(name: str) -> str:
    short = name.removeprefix("aten::").lstrip("_")
    return next(
        kind for kind, starts in KINDS.items() if any(short.startswith(start) for start in starts)
    )


def step(
    engine: HFEngine, policy: LocalPolicy, cfg: Any, asked: list[Request], how: Sampling
) -> None:
    """A step of the loop with its phases named; verdicts by place, as in step.py."""
    algorithm = build_algorithm(cfg, [])
    with record_function("phase generate"):
        rollouts = subject.generated(engine, asked, how)
    with record_function("phase advantages and metrics"):
        experience = subject.experience(cfg, asked, rollouts, 1.0)
        token_advantages = algorithm.to_token_advantages(experience)
        batches, loss = algorithm.to_minibatches(
            experience, token_advantages, algorithm.init_schedule
        )
        rollout_metrics(experience)
    for batch in batches:
        with record_function("phase update"):
            policy.update(batch, loss)


def phase_at(event: Any) -> str:
    """The phase of an operation, by the names of the events that contain it."""
    ancestor, names = event, []
    while ancestor is not None:
        names.append(ancestor.name)
        ancestor = ancestor.cpu_parent
    if any("Optimizer" in name for name in names):
        return "optimizer step"
    if any("evaluate_function" in name or "Backward" in name for name in names):
        return "backward"
    phase = next((name[6:] for name in names if name.startswith("phase ")), "")
    return "forward" if phase == "update" else phase


def profile_once(work: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Phase -> kind of operation -> milliseconds, as measured by the profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    times: dict[str, dict[str, float]] = {phase: defaultdict(float) for phase in PHASES}
    for event in profiler.events() or []:
        phase = phase_at(event)
        if phase not in times:
            continue
        outside = not event.name.startswith("aten::") and "Head" not in event.name
        kind = "Python and dispatch" if outside else kind_of(event.name)
        times[phase][kind] += event.self_cpu_time_total / 1000
    return times


def measure(work: Callable[[], None], rounds: int) -> dict[str, dict[str, float]]:
    """`profile_once`, scaled to the CPU time of the whole step without the profiler.

    The profiler measures wall time, which includes time when other programs have the core, so each
    number is the minimum over the rounds.
    """
    work()
    step_times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        step_times.append(1000 * (time.process_time() - start))
    profiles = [profile_once(work) for _ in range(rounds)]
    least = {
        phase: {kind: min(p[phase][kind] for p in profiles) for kind in profiles[0][phase]}
        for phase in PHASES
    }
    whole = sum(sum(kinds.values()) for kinds in least.values())
    scale = statistics.median(step_times) / whole
    return {p: {k: scale * ms for k, ms in kinds.items()} for p, kinds in least.items()}


def bench_step() -> Callable[[], None]:
    path = subject.folder(subject.SMALL)
    tokenizer, cfg = AutoTokenizer.from_pretrained(path), subject.config(1, path)
    requests = subject.requests(cfg, subject.problems(tokenizer))
    engine, policy = subject.engine(path, tokenizer), subject.policy(path)
    return lambda: step(engine, policy, cfg, requests, subject.sampling())


def pocket_step() -> Callable[[], None]:
    model = ModelConfig(path="pocket")
    tokenizer = pretrained.load_tokenizer(model)
    cfg = subject.config(1, Path("pocket"), max_tokens=32)
    with verifiers.make("exact") as verifier:
        loader = data.ProblemLoader(
            tokenizer=tokenizer, prompt=cfg.data.prompt, max_prompt_tokens=64, verifier=verifier
        )
        problems = loader.load("pocket_train").problems
    requests = subject.requests(cfg, problems)
    load = pretrained.load_model
    engine = HFEngine(load(model, torch.float32), tokenizer.decode, 512)
    policy = LocalPolicy(load(model, torch.float32), settings=PolicyConfig(), **subject.OPTIMIZER)
    sampling = replace(subject.sampling(32), stop_ids=pretrained.stop_ids(model, tokenizer, ()))
    return lambda: step(engine, policy, cfg, requests, sampling)


def draw(steps: dict[str, dict[str, dict[str, float]]], out: Path) -> None:
    figure, panels = plt.subplots(1, len(steps), figsize=(11, 3.6), layout="constrained")
    for panel, (name, phases) in zip(panels, steps.items(), strict=True):
        left = [0.0] * len(PHASES)
        for kind, colour in zip(ALL_KINDS, COLOURS, strict=True):
            widths = [phases[phase].get(kind, 0.0) for phase in PHASES]
            panel.barh(PHASES, widths, left=left, color=colour, label=kind)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for place, total in enumerate(left):
            panel.text(total, place, f" {total:.0f} ms", va="center", fontsize=9)
        panel.set(title=f"{name}: {sum(left):.0f} ms", xlabel="ms of one thread")
        panel.set_xlim(0, 1.18 * max(left))
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].set_yticklabels([])
    legend = panels[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=len(ALL_KINDS), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("docs/performance.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps = {"the step of bench-step": bench_step(), "a pocket step": pocket_step()}
    results = {name: measure(work, arguments.rounds) for name, work in steps.items()}
    texts = []
    for name, phases in results.items():
        rows = [[p, *(f"{ms.get(k, 0):.0f}" for k in ALL_KINDS)] for p, ms in phases.items()]
        texts.append(f"{name}, ms\n\n{table(['phase', *ALL_KINDS], rows)}")
    save_results("profile", "\n\n".join(texts), results)
    draw(results, arguments.out)


if __name__ == "__main__":
    main()
