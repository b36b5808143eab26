"""Runs of train.py on the tiny model, and what can be compared of two of them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import train
from asymrl.config.load import load_config
from asymrl.engines import pretrained
from asymrl.engines.hf import HFEngine
from asymrl.run import checkpoint


def run(config_file: Path, folder: Path, *overrides: str) -> Path:
    arguments = ["--config", str(config_file), "--output-dir", str(folder), *overrides]
    assert train.main(arguments) == 0
    return folder


def engine_of(config_file: Path, engine: type[HFEngine] = HFEngine, **settings: Any) -> HFEngine:
    """An engine of this class with the config's model, to hand in to train.run."""
    config = load_config(str(config_file))
    model = pretrained.load_model(config.model, torch.float32)
    tokenizer = pretrained.load_tokenizer(config.model)
    return engine(model, tokenizer.decode, config.rollout.max_rows, **settings)


def run_with(config_file: Path, folder: Path, *overrides: str, **parts: Any) -> Path:
    """train.run in `folder`, with an engine or a policy handed in."""
    train.run(load_config(str(config_file), overrides), folder, **parts)
    return folder


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def comparable(folder: Path) -> list[dict[str, Any]]:
    """Everything but times and speeds."""
    return [
        {k: v for k, v in row.items() if not k.startswith(("time/", "perf/rollout", "perf/update"))}
        for row in metrics(folder)
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "latest" / checkpoint.state_file(0, 1))


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
