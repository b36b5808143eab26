"""Runs of train.py on the tiny model, and what can be compared of two of them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import train
from asymrl.run import checkpoint


def run(config_file: Path, folder: Path, *overrides: str) -> Path:
    arguments = ["--config", str(config_file), "--output-dir", str(folder), *overrides]
    assert train.main(arguments) == 0
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
    return load_file(folder / "checkpoints" / "latest" / checkpoint.STATE)


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
