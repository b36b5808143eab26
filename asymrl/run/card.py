"""The model card of a checkpoint: base model, method, settings, results, and licences of the data.

Knows a config and the summary of an evaluation; no model and no engine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from asymrl.config.schema import Config
from asymrl.data.sources import SOURCES, Subset, hub_source, is_hub_source, source_of_file
from asymrl.files import read_json, short_name

CARD_SECTIONS = ("advantage", "reweight", "schedule", "loss", "rollout", "optim")


def card(config: Config, run: Path, step: int) -> str:
    """README.md of a checkpoint: Markdown with the front matter of a Hugging Face model card."""
    names = (config.data.train, *config.eval.benchmarks)
    front = {
        "library_name": "transformers",
        "base_model": config.model.path,
        "datasets": sorted({known for name in names if (known := hub_id(name))}),
        "tags": ["reinforcement-learning", "rlvr", "asymrl", config.advantage.name],
    }
    data = "\n".join(f"- {line}" for line in licences(config))
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---
# {run.name}, step {step}

{config.model.path} after {step} of {config.steps} steps of reinforcement learning with
verifiable rewards, trained with AsymRL. Prompt, sampling, stop tokens and verifier are in
asymrl.json; the trainer's state is in trainer/.

Which checkpoint: {rule(config)}. Seed {config.seed}.

{adapters(config)}{results(run, step)}## Method and settings

{settings(config)}

## Data and licences

{data}
"""


def adapters(config: Config) -> str:
    """Markdown that says what of the model was trained; empty if it was all weights."""
    lora = config.policy.lora
    if lora is None:
        return ""
    beside = (
        "The weights beside them have the adapters merged into them."
        if config.checkpoint.merged
        else f"They need the weights of {config.model.path}, which are not in this folder."
    )
    targets = lora.targets if isinstance(lora.targets, str) else ", ".join(lora.targets)
    return f"""LoRA adapters of rank {lora.rank} and alpha {lora.alpha:g} were trained on {targets}.
They are in `adapter/`, as peft opens them. {beside}

"""


def rule(config: Config) -> str:
    """In words, how the checkpoint that represents the run is chosen."""
    best_on = config.checkpoint.best_on
    if best_on is None:
        return "the last one (checkpoint.select: last)"
    return f"the best on {best_on}, linked as `best` (checkpoint.select: best_on)"


def results(run: Path, step: int) -> str:
    """Markdown with the evaluation of this step, beside the untrained policy's; empty if it was not
    evaluated."""
    rows = []
    for summary in sorted((run / "eval" / f"step-{step:06d}").glob("*/summary.json")):
        evaluation, setting = read_json(summary), summary.parent.name
        untrained = run / "eval" / "step-000000" / setting / "summary.json"
        before = read_json(untrained)["benchmarks"] if untrained.is_file() else {}
        for name, scores in evaluation["benchmarks"].items():
            first = average(before[name]) if name in before else "-"
            counts = [scores["samples"], scores["problems"]]
            rows.append([name, setting, first, average(scores), *counts])
    if not rows:
        return ""
    header = ["benchmark", "sampling", "untrained", f"step {step}", "samples", "problems"]
    return f"""## Results during training

avg@k in percent, with 95% intervals (Student's t over problems).

{markdown_table(rows, header)}

"""


def average(scores: Mapping[str, Any]) -> str:
    ends = [end for end in scores["interval"] or () if end is not None]
    interval = " to ".join(f"{100 * end:.2f}" for end in ends) or "-"
    return f"{100 * scores['avg']:.2f} ({interval})"


def settings(config: Config) -> str:
    """A Markdown table of the settings in CARD_SECTIONS."""
    sections = {name: getattr(config, name).model_dump() for name in CARD_SECTIONS}
    rows = [[f"{name}.{k}", v] for name, section in sections.items() for k, v in section.items()]
    return markdown_table(rows, ["setting", "value"])


def markdown_table(rows: list[list[Any]], header: list[str]) -> str:
    # stop tokens such as <|im_end|> hold bars, which separate the cells of a table
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(cells, header, tablefmt="pipe", disable_numparse=True)


def hub_id(name: str) -> str | None:
    """The id of a source on the hub; None for local files and folders and generated data."""
    if name in SOURCES:
        return SOURCES[name].id
    return name if is_hub_source(name) and not os.path.isdir(name) else None


def licences(config: Config) -> Iterator[str]:
    """A line for the training data, one for each benchmark, and one for the weights."""
    data = [("trained on", config.data.train)]
    data += [("evaluated on", name) for name in config.eval.benchmarks]
    for verb, name in data:
        if name not in SOURCES and hub_id(name):
            yield f"{verb} {name}: {hub_source(name, Subset()).licence}"
            continue
        known = source_of_file(short_name(name))
        source = SOURCES[known] if known else None
        copy = "" if known == name else "local data, by its name a copy of "
        yield f"{verb} {name}: {f'{copy}{source.id}, {source.licence}' if source else 'local data'}"
    yield f"the weights are under the licence of {config.model.path}"
