"""environment.json: what a run ran on. Versions, machine and command line, but no environment
variables and no passwords, so that it holds no secrets."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from asymrl.errors import redact
from asymrl.files import read_json, write_atomically

PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "accelerate",
    "deepspeed",
    "datasets",
    "math-verify",
    "sympy",
    "wandb",
    "numpy",
)


def write_environment(folder: Path, processes: int, engines: str) -> None:
    """Add an entry to the list in environment.json: one for each start of the run.

    engines: which rollout engine and policy run, and why.
    """
    file = folder / "environment.json"
    gpus = range(torch.cuda.device_count())
    entry = {
        "command": [redact(argument) for argument in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "engines": engines,
        "gpus": [torch.cuda.get_device_name(index) for index in gpus],
        "packages": {name: version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }
    write_atomically(file, json.dumps([*previous_starts(file), entry], indent=2) + "\n")


def previous_starts(file: Path) -> list[Any]:
    """The entries of environment.json; none if the file does not exist."""
    return read_json(file, list) if file.is_file() else []


def version(package: str) -> str | None:
    """The installed version; None if the package is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of this checkout, with `+` if files differ from it; None outside a checkout."""
    git, outputs = ["git", "-C", str(Path(__file__).resolve().parent)], []
    try:
        for command in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
            done = subprocess.run([*git, *command], capture_output=True, text=True, check=True)
            outputs.append(done.stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return None
    commit, changes = outputs
    return f"{commit}+" if changes else commit
