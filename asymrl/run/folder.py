"""Run folders: which checkpoint a run in one begins from, and the folder ready for it.

What was logged after that checkpoint is cut off: those steps run again. Knows files and configs; no
model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asymrl.config.load import differing_keys, dump_config, load_config
from asymrl.config.schema import Config
from asymrl.errors import UserError
from asymrl.files import locked, write_atomically
from asymrl.run.checkpoint import checkpoints, latest, load_position, remove
from asymrl.types import Position

ORIGIN = "begun_from"  # the --resume DIR that a run began with
RUN_FILES = ("config.yaml", "metrics.jsonl", "rollouts", "eval", "checkpoints")


def find_checkpoint(run: Path, config: Config, resume: str) -> Path | None:
    """The checkpoint that a run in folder `run` begins from, or None. Reads only.

    resume: `auto` goes on from checkpoints/latest, or begins anew where there is none; `never`
    refuses a folder that holds a run; a folder is a checkpoint that a *new* run begins from, and
    which the run that began from it goes on with, as `auto` would.
    """
    began = run / ORIGIN
    if began.is_file() and began.read_text(errors="replace") == os.path.abspath(resume):
        resume = "auto"  # the command that began this run, once more
    if resume not in ("auto", "never"):
        checkpoint = Path(resume)
        if not (checkpoint / "trainer.json").is_file():
            raise UserError(
                f"--resume {resume}: no checkpoint there (a folder with trainer.json); valid are "
                "auto, never and a folder such as runs/NAME/checkpoints/latest"
            )
        position, _ = load_position(checkpoint)
        if position.step >= config.steps:
            raise UserError(
                f"--resume {resume} is at step {position.step}, so steps = {config.steps} leaves "
                "nothing to do"
            )
    if run.exists() and not run.is_dir():
        raise UserError(f"--output-dir {run} is a file; valid is a folder, new or of a run")
    traces = [name for name in RUN_FILES if (run / name).exists()]
    if traces == ["checkpoints"] and only_begun(run / "checkpoints"):
        traces = []  # killed, or out of space, in the first save of a run from another's checkpoint
    if not traces:
        return None if resume in ("auto", "never") else Path(resume).resolve()
    if "config.yaml" not in traces:
        raise UserError(
            f"{run} holds {traces[0]} but no config.yaml, so there is no run to go on with; move "
            "that away, or give another --output-dir"
        )
    if resume != "auto":
        raise UserError(
            f"{run} already holds a run; --resume auto goes on with it, another --output-dir "
            "leaves it as it is"
        )
    differing = differing_keys(load_config(str(run / "config.yaml")), config)
    if differing:
        raise UserError(
            f"{run} holds a run with another config, which differs in {', '.join(differing)}; "
            "give the same config or another --output-dir"
        )
    return latest(run)


def only_begun(folder: Path) -> bool:
    """Nothing is there but what was half-written, which `opened` removes."""
    held = folder.glob("*")
    return folder.is_dir() and all(re.fullmatch(r"\..*\.tmp", path.name) for path in held)


@contextmanager
def open_run_folder(run: Path, found: Path | None, start: Position) -> Iterator[None]:
    """The run folder, ready and ours alone: what it logged after `start` is cut off.

    found: what `find` gave. UserError where another process trains there.
    """
    refused = f"run folder {run} cannot be written"
    with locked(run, refused=refused, busy=f"another process is training in {run}"):
        if latest(run) not in (None, found):
            raise UserError(f"{run} went on while this process was loading; start it again")
        cut_back(run, start.step if found else -1)
        yield


def write_config(run: Path, config: Config) -> None:
    """What makes a folder a run."""
    write_atomically(run / "config.yaml", dump_config(config))


def write_origin(run: Path, resume: str) -> None:
    write_atomically(run / ORIGIN, os.path.abspath(resume))


def cut_back(run: Path, step: int) -> None:
    """Drop what was logged after `step`: those steps run again. step -1 drops all.

    Leftovers of a kill go too: half-written files, and checkpoints that were not yet named.
    """
    metrics = run / "metrics.jsonl"
    if metrics.is_file():
        write_atomically(metrics, "".join(lines_until(metrics, step)))
    logged = [*run.glob("rollouts/step-*.jsonl"), *run.glob("eval/step-*")]
    for path in [*logged, *checkpoints(run / "checkpoints")]:
        number = path.stem.removeprefix("step-").partition("-")[0]
        if number.isdecimal() and int(number) > step:
            remove(path)
    for folder in ("", "rollouts/", "eval/", "eval/*/", "checkpoints/"):
        for path in run.glob(f"{folder}.*.tmp"):
            remove(path)


def lines_until(metrics: Path, step: int) -> list[str]:
    """The lines of the steps up to `step`, none missing and none twice. A half-written last line is
    no line yet."""
    kept, before = [], None
    for number, line in enumerate(metrics.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            now = int(json.loads(line)["step"])
            if now <= step:
                kept.append(line.decode())
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise UserError(f"{metrics}:{number}: the line is damaged; mend or move it") from None
        if before is not None and now != before + 1:
            raise UserError(
                f"{metrics}:{number}: step {now} comes after step {before}: lines are missing or "
                "double; put them back as they were, or move the file away"
            )
        before = now
    return kept
