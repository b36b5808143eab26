"""The model card of a checkpoint: base model, method, settings, results, and licences of the data.

Knows a config and the summary of an evaluation; no model and no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from asymrl.config.schema import Config
from asymrl.data.readers import short_name
from asymrl.data.sources import SOURCES, Source, source_of_file
from asymrl.files import read_json

CARD_SECTIONS = ("advantage", "reweight", "schedule", "loss", "rollout", "optim")


def card(config: Config, run: Path, step: int) -> str:
    """README.md of a checkpoint: Markdown with the front matter of a Hugging Face model card."""
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
    """In words, how the checkpoint that represents the run is chosen."""
    best_on = config.checkpoint.best_on
    if best_on is None:
        return "the last one (checkpoint.select: last)"
    return f"the best on {best_on}, linked as `best` (checkpoint.select: best_on)"


def results(run: Path, step: int) -> Iterator[str]:
    """Markdown with the evaluation of this step; nothing if it was not evaluated."""
    summary = run / "eval" / f"step-{step:06d}" / "summary.json"
    if not summary.is_file():
        return
    evaluation = read_json(summary)
    yield f"## Results during training, temperature {evaluation['sampling']['temperature']:g}"
    yield ""
    yield "| benchmark | avg@k, 95% interval | k | problems |"
    yield "|---|---|---|---|"
    for name, scores in evaluation["benchmarks"].items():
        ends = [end for end in scores["interval"] or () if end is not None]
        interval = " to ".join(f"{100 * end:.2f}" for end in ends) or "-"
        yield (
            f"| {escape_bars(name)} | {100 * scores['avg']:.2f} ({interval}) | {scores['samples']} "
            f"| {scores['problems']} |"
        )
    yield ""
    yield "Intervals are Student's t over problems."
    yield ""


def settings(config: Config) -> Iterator[str]:
    """A Markdown table of the settings in CARD_SECTIONS."""
    yield "| setting | value |"
    yield "|---|---|"
    for section in CARD_SECTIONS:
        for key, value in getattr(config, section).model_dump().items():
            yield f"| {section}.{key} | {escape_bars(str(value))} |"


def escape_bars(text: str) -> str:
    """Text for a cell of a Markdown table. Stop tokens such as <|im_end|> hold bars."""
    return text.replace("|", "\\|")


def sources(config: Config) -> list[Source]:
    """The known data sets that the config trains and evaluates on."""
    names = (config.data.train, *config.eval.benchmarks)
    return [SOURCES[name] for name in names if name in SOURCES]


def licences(config: Config) -> Iterator[str]:
    """A line for the training data, one for each benchmark, and one for the weights."""
    data = [("trained on", config.data.train)]
    data += [("evaluated on", name) for name in config.eval.benchmarks]
    for verb, name in data:
        known = source_of_file(short_name(name))
        source = SOURCES[known] if known else None
        copy = "" if known == name else "local data, by its name a copy of "
        yield f"{verb} {name}: {f'{copy}{source.id}, {source.licence}' if source else 'local data'}"
    yield f"the weights are under the licence of {config.model.path}"
