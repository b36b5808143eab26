"""Checkpoints that are whole or not there, and runs that go on as if never stopped.

A checkpoint is a Hugging Face model folder (weights, tokenizer) plus `asymrl.json` (prompt,
sampling and stop definitions), `trainer.json` (where the run is) and `trainer.safetensors` (named
fp32 weights and AdamW moments, the same for every policy). Knows files, and no model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from asymrl import config as configs
from asymrl.config import Config
from asymrl.engines.policy import Policy
from asymrl.files import sync_folder, write_atomically
from asymrl.types import TrainerState, UserError, value

FORMAT = 1
SECTIONS = ("weights", "exp_avg", "exp_avg_sq")


@value
class Position:
    """Where a run is: steps done, and prompt draws taken."""

    step: int = 0
    draws: int = 0


def save(
    run: Path,
    position: Position,
    *,
    policy: Policy,
    tokenizer: Any,
    definitions: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write checkpoints/step-N beside its place, rename it in, point `latest` at it, prune."""
    folder = run / "checkpoints"
    final = folder / f"step-{position.step:06d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    policy.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    state = policy.state()
    save_file(
        {f"{s}/{name}": t for s in SECTIONS for name, t in getattr(state, s).items()},
        temporary / "trainer.safetensors",
    )
    trainer = {
        "format": FORMAT,
        "step": position.step,
        "draws": position.draws,
        "updates": state.updates,
    }
    write_atomically(temporary / "trainer.json", json.dumps(trainer) + "\n")
    write_atomically(temporary / "asymrl.json", json.dumps(definitions, indent=2) + "\n")
    sync_folder(temporary)
    shutil.rmtree(final, ignore_errors=True)  # only ever an orphan that `latest` does not name
    os.replace(temporary, final)
    point_latest(folder, final.name)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old.name != final.name:
            shutil.rmtree(old)
    return final


def point_latest(folder: Path, name: str) -> None:
    temporary = folder / ".latest.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, folder / "latest")
    sync_folder_entry(folder)


def sync_folder_entry(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(folder: Path) -> tuple[Position, TrainerState]:
    """The state in a checkpoint folder. Raises UserError that names the missing or broken file."""
    try:
        trainer = json.loads((folder / "trainer.json").read_text())
        tensors = load_file(folder / "trainer.safetensors")
        parts: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for key, tensor in tensors.items():
            section, name = key.split("/", 1)
            parts[section][name] = tensor
        state = TrainerState(**parts, updates=trainer["updates"])
        return Position(step=trainer["step"], draws=trainer["draws"]), state
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a checkpoint: {error.filename} is missing") from None
    except (json.JSONDecodeError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"checkpoint {folder} is damaged and cannot be read: {error}") from None


def definitions(folder: Path) -> dict[str, Any] | None:
    """asymrl.json of a checkpoint; None for a plain Hugging Face folder."""
    file = folder / "asymrl.json"
    return json.loads(file.read_text()) if file.is_file() else None


def find(run: Path, config: Config, resume: str) -> Path | None:
    """The checkpoint that a run in folder `run` begins from, or None. Reads only.

    resume: `auto` goes on from checkpoints/latest, or begins anew where there is none; `never`
    refuses a folder that holds a run; a folder is a checkpoint that a *new* run begins from.
    """
    holds_a_run = (run / "config.yaml").is_file()
    if resume not in ("auto", "never") and not (Path(resume) / "trainer.json").is_file():
        raise UserError(
            f"--resume {resume}: no checkpoint there (a folder with trainer.json); valid are "
            "auto, never and a folder such as runs/NAME/checkpoints/latest"
        )
    if holds_a_run and resume != "auto":
        raise UserError(
            f"{run} already holds a run; --resume auto goes on with it, another --output-dir "
            "leaves it as it is"
        )
    if run.exists() and not run.is_dir():
        raise UserError(f"--output-dir {run} is a file; valid is a folder, new or of a run")
    if not holds_a_run:
        return None if resume in ("auto", "never") else Path(resume).resolve()
    differing = configs.differing_keys(configs.load(str(run / "config.yaml")), config)
    if differing:
        raise UserError(
            f"{run} holds a run with another config, which differs in {', '.join(differing)}; "
            "give the same config or another --output-dir"
        )
    latest = run / "checkpoints" / "latest"
    return latest.resolve() if latest.exists() else None


def begin(run: Path, config: Config, step: int | None) -> None:
    """Make the run folder ready; what it logged after `step` is cut off, all of it for None."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        cut_back(run, -1 if step is None else step)
        write_atomically(run / "config.yaml", configs.dump(config))
    except OSError as error:
        raise UserError(f"run folder {run} cannot be written: {error.strerror}") from None


def cut_back(run: Path, step: int) -> None:
    """Drop what was logged after `step`: those steps run again. step -1 drops all."""
    metrics = run / "metrics.jsonl"
    if metrics.is_file():
        lines = metrics.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_atomically(metrics, "".join(kept))
    for path in [*run.glob("rollouts/step-*"), *run.glob("eval/step-*")]:
        if int(path.stem.removeprefix("step-")) > step:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
