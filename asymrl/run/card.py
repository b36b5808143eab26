"""A checkpoint's README.md: what it was made from, how, what it scored, and whose the data are.

Knows a config and the summary of an evaluation; no model and no engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from asymrl.config.schema import Config
from asymrl.data.readers import short_name
from asymrl.data.sources import SOURCES, Source, source_of_file

SETTINGS = ("advantage", "reweight", "schedule", "loss", "rollout", "optim")


def card(config: Config, run: Path, step: int) -> str:
    """Markdown with the front matter of a Hugging Face model card."""
    front = {
        "library_name": "transformers",
        "base_model": config.model.path,
        "datasets": sorted({source.id for source in sources(config)}),
        "tags": ["reinforcement-learning", "rlvr", "asymrl", config.advantage.name],
    }
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            f"# {run.name}, step {step}",
            "",
            f"{config.model.path} after {step} of {config.steps} steps of reinforcement learning "
            "with verifiable rewards, trained with AsymRL. Prompt, sampling, stop tokens and "
            "verifier are in asymrl.json; the trainer's state is in trainer/.",
            "",
            f"Which checkpoint: {rule(config)}. Seed {config.seed}.",
            "",
            *results(run, step),
            "## Method and settings",
            "",
            *settings(config),
            "",
            "## Data and licences",
            "",
            *(f"- {line}" for line in licences(config)),
            "",
        ]
    )


def rule(config: Config) -> str:
    """How the checkpoint that counts is chosen, in words."""
    best_on = config.checkpoint.best_on
    if best_on is None:
        return "the last one counts (checkpoint.select: last)"
    return f"the best on {best_on} counts, named `best` (checkpoint.select: best_on)"


def results(run: Path, step: int) -> Iterator[str]:
    """The evaluation of this step, where there was one."""
    summary = run / "eval" / f"step-{step:06d}" / "summary.json"
    if not summary.is_file():
        return
    found: Mapping[str, Any] = json.loads(summary.read_text())
    yield f"## Results during training, temperature {found['sampling']['temperature']:g}"
    yield ""
    yield "| benchmark | avg@k, 95% interval | k | problems |"
    yield "|---|---|---|---|"
    for name, scores in found["benchmarks"].items():
        ends = [end for end in scores["interval"] or () if end is not None]
        within = " to ".join(f"{100 * end:.2f}" for end in ends) or "-"
        yield (
            f"| {in_cell(name)} | {100 * scores['avg']:.2f} ({within}) | {scores['samples']} "
            f"| {scores['problems']} |"
        )
    yield ""
    yield "Intervals are Student's t over problems."
    yield ""


def settings(config: Config) -> Iterator[str]:
    yield "| setting | value |"
    yield "|---|---|"
    for section in SETTINGS:
        for key, value in getattr(config, section).model_dump().items():
            yield f"| {section}.{key} | {in_cell(str(value))} |"


def in_cell(plain: str) -> str:
    """Stop tokens have bars, <|im_end|>, and so may names."""
    return plain.replace("|", "\\|")


def sources(config: Config) -> list[Source]:
    names = (config.data.train, *config.eval.benchmarks)
    return [SOURCES[name] for name in names if name in SOURCES]


def licences(config: Config) -> Iterator[str]:
    """Of the training data first, then of what it was evaluated on."""
    used = [("trained on", config.data.train)]
    used += [("evaluated on", name) for name in config.eval.benchmarks]
    for verb, name in used:
        known = source_of_file(short_name(name))
        source = SOURCES[known] if known else None
        copy = "" if known == name else "local data, by its name a copy of "
        yield f"{verb} {name}: {f'{copy}{source.id}, {source.licence}' if source else 'local data'}"
    yield f"the weights are under the licence of {config.model.path}"
