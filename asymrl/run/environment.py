"""What a run ran on: versions, machine, command. No environment variables and no passwords, so no
secrets."""

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

from asymrl.errors import UserError, redact
from asymrl.files import write_atomically

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


def write_environment(folder: Path, processes: int, chosen: str) -> None:
    """environment.json: a list, one entry each time that the run was started."""
    file = folder / "environment.json"
    gpus = range(torch.cuda.device_count())
    facts = {
        "command": [redact(argument) for argument in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "engines": chosen,
        "gpus": [torch.cuda.get_device_name(index) for index in gpus],
        "packages": {name: version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }
    write_atomically(file, json.dumps([*earlier(file), facts], indent=2) + "\n")


def earlier(file: Path) -> list[Any]:
    """The entries of the starts before this one."""
    if not file.is_file():
        return []
    try:
        entries = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}; mend it or move it away") from None
    if not isinstance(entries, list):
        raise UserError(f"{file} is damaged: it holds no list; mend it or move it away")
    return entries


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The project's commit, with `+` where its files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + "+" * bool(changed.stdout.strip())
