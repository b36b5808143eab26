"""Where the milliseconds of a step go, as a picture: docs/performance.png.

One step's work under torch.profiler, at one thread. Of each phase: the processor time of a run
without the profiler (which slows small operations down), split in the proportions that the
profiler saw; what no operation accounts for is Python, transformers' and ours. Two subjects: the
step of step.py and the pocket policy's.

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
from turns import keep, table

from asymrl import verifiers
from asymrl.config.schema import ModelConfig
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
        batches = algorithm.to_minibatches(experience, token_advantages)
        rollout_metrics(experience)
    for batch in batches:
        with record_function("phase update"):
            policy.update(batch, algorithm.loss)


def phase_at(event: Any) -> str:
    """The phase that an operation ran in: by the names above it."""
    place, names = event, []
    while place is not None:
        names.append(place.name)
        place = place.cpu_parent
    if any("Optimizer" in name for name in names):
        return "optimizer step"
    if any("evaluate_function" in name or "Backward" in name for name in names):
        return "backward"
    phase = next((name[6:] for name in names if name.startswith("phase ")), "")
    return "forward" if phase == "update" else phase


def seen(work: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Phase -> kind of operation -> milliseconds, as the profiler saw them."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    found: dict[str, dict[str, float]] = {phase: defaultdict(float) for phase in PHASES}
    for event in profiler.events() or []:
        phase = phase_at(event)
        if phase not in found:
            continue
        own = event.self_cpu_time_total / 1000
        outside = not event.name.startswith("aten::") and "Head" not in event.name
        found[phase]["Python and dispatch" if outside else kind_of(event.name)] += own
    return found


def measure(work: Callable[[], None], rounds: int) -> dict[str, dict[str, float]]:
    """`seen`, scaled to the processor time of the whole step without the profiler.

    The profiler's clock runs on while others have the core, so of each number the least of the
    rounds counts.
    """
    work()
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(1000 * (time.process_time() - began))
    profiles = [seen(work) for _ in range(rounds)]
    found = {
        phase: {kind: min(p[phase][kind] for p in profiles) for kind in profiles[0][phase]}
        for phase in PHASES
    }
    whole = sum(sum(kinds.values()) for kinds in found.values())
    scale = statistics.median(times) / whole
    return {p: {k: scale * ms for k, ms in kinds.items()} for p, kinds in found.items()}


def bench_step() -> Callable[[], None]:
    path = subject.folder(subject.SMALL)
    tokenizer, cfg = AutoTokenizer.from_pretrained(path), subject.config(1, path)
    asked = subject.requests(cfg, subject.problems(tokenizer))
    engine, policy = subject.engine(path, tokenizer), subject.policy(path)
    return lambda: step(engine, policy, cfg, asked, subject.sampling())


def pocket_step() -> Callable[[], None]:
    model = ModelConfig(path=pretrained.POCKET)
    tokenizer = pretrained.load_tokenizer(model)
    cfg = subject.config(1, Path("pocket"), max_tokens=32)
    with verifiers.make("exact") as verifier:
        problems = data.load_problems(
            "pocket_easy",
            tokenizer=tokenizer,
            prompt=cfg.data.prompt,
            max_prompt_tokens=64,
            verifier=verifier,
        ).problems
    asked = subject.requests(cfg, problems)
    load = pretrained.load_model
    engine = HFEngine(load(model, torch.float32), tokenizer.decode, 512)
    policy = LocalPolicy(load(model, torch.float32), token_budget=16384, **subject.OPTIMIZER)
    how = replace(subject.sampling(32), stop_ids=pretrained.stop_ids(model, tokenizer, ()))
    return lambda: step(engine, policy, cfg, asked, how)


def draw(found: dict[str, dict[str, dict[str, float]]], out: Path) -> None:
    figure, panels = plt.subplots(1, len(found), figsize=(11, 3.6), layout="constrained")
    for panel, (name, phases) in zip(panels, found.items(), strict=True):
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
    shown = panels[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside lower center", ncols=len(ALL_KINDS), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("docs/performance.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps = {"the step of bench-step": bench_step(), "a pocket step": pocket_step()}
    found = {name: measure(work, arguments.rounds) for name, work in steps.items()}
    texts = []
    for name, phases in found.items():
        rows = [[p, *(f"{of.get(k, 0):.0f}" for k in ALL_KINDS)] for p, of in phases.items()]
        texts.append(f"{name}, ms\n\n{table(['phase', *ALL_KINDS], rows)}")
    keep("profile", "\n\n".join(texts), found)
    draw(found, arguments.out)


if __name__ == "__main__":
    main()
