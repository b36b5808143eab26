"""Run folders: which checkpoint a run starts from, and opening the folder for it.

Metrics and rollouts later than that checkpoint are removed, because those steps run again. Handles
files and configs; independent of models.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from asymrl.config.load import differing_keys, dump_config, load_config
from asymrl.config.read import read_config
from asymrl.config.schema import Config
from asymrl.engines.distributed import World
from asymrl.errors import ReportedByRankZero, UserError, short_repr
from asymrl.files import check_unused, locked, read_jsonl, write_atomically
from asymrl.run.checkpoint import checkpoints, latest, link_best, load_position, remove
from asymrl.run.environment import write_environment
from asymrl.types import Position

ORIGIN = "begun_from"  # contains the --resume DIR that the run started from
RUN_FILES = ("config.yaml", "metrics.jsonl", "rollouts", "eval", "checkpoints")
# What a run that was killed, moved or cleaned up may leave beside them.
LEFT_OVER = (ORIGIN, "checkpoints", "environment.json", "report.html", "figures")


def default_folder(config: str, row: str | None = None) -> Path:
    """runs/<config>[_<row>], of a config and a row by path or by name."""
    parts = [config, *([row] if row else [])]
    return Path("runs") / "_".join(Path(part).name.removesuffix(".yaml") for part in parts)


def check_shared(folder: Path, world: World, option: str) -> None:
    """Raise UserError unless all nodes see the same files in `folder`, which need not exist yet.

    Rank 0 writes a file into it, or into the nearest parent that exists, and deletes it again.
    option: that names the folder on the command line. Collective.
    """
    parents = (folder.absolute(), *folder.absolute().parents)
    here = next(path for path in parents if os.path.isdir(path))
    name, problem = f".shared-by-all-nodes.{os.getpid()}.tmp", None
    if world.first:
        try:
            (here / name).touch()
        except OSError as error:
            problem = f"{option} {folder} cannot be written: {error.strerror}"
    (name, problem), *_ = world.gather((name, problem))
    seen = world.gather(os.path.exists(here / name))
    if world.first:
        (here / name).unlink(missing_ok=True)
    if not problem and not all(seen):
        problem = (
            f"{option} {folder} is not the same folder on all {world.nodes} nodes: node "
            f"{seen.index(False) // world.local_size} does not see the files of node 0; give a "
            "folder on a file system that all nodes share"
        )
    if problem:
        raise UserError(problem) if world.first else ReportedByRankZero(problem)


def find_checkpoint(run: Path, config: Config, resume: str) -> Path | None:
    """The checkpoint that a run in folder `run` starts from; None for a new run. Changes no file.

    resume: `auto` resumes from checkpoints/latest, or starts a new run in an empty folder; `never`
    requires a folder without a run; a checkpoint folder starts a *new* run from that checkpoint.
    To resume such a run, the same command works again: it then acts like `auto`.

    The config of a run that resumes must be the recorded one. A run with neither a checkpoint nor a
    finished step has nothing to lose but the evaluation of the untrained policy, so it starts anew,
    with any config: its user has mended what stopped it, such as a function of their own.
    UserError for any other folder that is neither empty nor a run.
    """
    origin = run / ORIGIN
    if origin.is_file() and origin.read_text(errors="replace") == os.path.abspath(resume):
        resume = "auto"
    if resume not in ("auto", "never"):
        checkpoint = Path(resume)
        if not (checkpoint / "trainer.json").is_file():
            raise UserError(
                f"--resume {resume} is not a checkpoint (a folder with trainer.json); valid are "
                "auto, never and a folder such as runs/NAME/checkpoints/latest"
            )
        position = load_position(checkpoint)
        if position.step >= config.steps:
            raise UserError(
                f"--resume {resume} is at step {position.step}, so steps = {config.steps} leaves "
                "nothing to do"
            )
    traces = [name for name in RUN_FILES if (run / name).exists()]
    saves = run / "checkpoints"
    unfinished = all(re.fullmatch(r"\..*\.tmp", path.name) for path in saves.glob("*"))
    if traces == ["checkpoints"] and saves.is_dir() and unfinished:
        traces = []  # a run from --resume DIR whose first save was killed or met a full disk
    if not traces:
        check_unused(run, "--output-dir", lambda path: path.name in LEFT_OVER)
        return None if resume in ("auto", "never") else Path(resume).resolve()
    if "config.yaml" not in traces:
        raise UserError(
            f"{run} holds {traces[0]} but no config.yaml, so it is not the folder of a run; use "
            "another --output-dir"
        )
    if resume != "auto":
        raise UserError(
            f"{run} already holds a run; use --resume auto to resume it, or another --output-dir "
            "to keep it as it is"
        )
    if is_unstarted(run):
        return None
    differing = differing_keys(load_config(str(run / "config.yaml")), config)
    if differing:
        raise UserError(
            f"{run} holds a run with another config, which differs in {', '.join(differing)}; "
            "use the same config or another --output-dir"
        )
    return latest(run)


def is_unstarted(run: Path) -> bool:
    """Whether `run` has neither a checkpoint nor a finished step, and its config.yaml is ours."""
    metrics = run / "metrics.jsonl"
    rows = rows_until(metrics, sys.maxsize) if metrics.is_file() else []
    if latest(run) or any(row["step"] > 0 for row in rows):
        return False
    return {*Config.model_fields} <= {*read_config(run / "config.yaml")}


@contextmanager
def open_for_training(
    config: Config,
    run_dir: Path,
    checkpoint_dir: Path | None,
    start: Position,
    world: World,
    engines: str,
    first_save: Callable[[], object] | None = None,
    resume: str = "auto",
) -> Iterator[None]:
    """Lock and prepare the run folder, and write config.yaml and environment.json. Collective.

    checkpoint_dir: from find_checkpoint. engines: for environment.json. For a run that starts from
    another run's checkpoint: first_save saves the starting point, so that the run can be resumed
    even if that checkpoint is deleted (collective); resume is its --resume argument, by which the
    same command is recognised later.
    """
    with ExitStack() as stack:
        with world.rank_zero_first():
            if world.first:
                stack.enter_context(open_run_folder(run_dir, checkpoint_dir, start))
                link_best(run_dir, config.checkpoint.best_on)
        if first_save:
            first_save()
        with world.rank_zero_first():
            if world.first:
                if first_save:
                    write_atomically(run_dir / ORIGIN, os.path.abspath(resume))
                # this file marks a folder as a run
                write_atomically(run_dir / "config.yaml", dump_config(config))
                write_environment(run_dir, world.size, engines)
        yield


@contextmanager
def open_run_folder(run: Path, checkpoint_dir: Path | None, start: Position) -> Iterator[None]:
    """Create and lock the run folder, and remove everything logged later than `start`.

    UserError if another process trains in it, or did so after find_checkpoint returned.
    """
    refused = f"run folder {run} cannot be written"
    with locked(run, refused=refused, busy=f"another process is training in {run}"):
        if latest(run) not in (None, checkpoint_dir):
            raise UserError(
                f"another process trained in {run} while this one was loading; start it again"
            )
        cut_back(run, start.step if checkpoint_dir else -1)
        yield


def describe_saved(run_dir: Path, checkpoint_dir: Path | None) -> str:
    """In words, what a stopped run has saved since checkpoint_dir, where it started."""
    if latest(run_dir) == checkpoint_dir:
        return "no step was finished since the start"
    return f"all finished steps are saved in {run_dir}"


def cut_back(run: Path, step: int) -> None:
    """Remove everything later than `step`, because those steps run again. Step -1: everything.

    This also removes what a killed process left behind: temporary files, and a checkpoint that
    `latest` does not point to yet.
    """
    metrics = run / "metrics.jsonl"
    if metrics.is_file():
        rows = rows_until(metrics, step)
        write_atomically(metrics, "".join(json.dumps(row) + "\n" for row in rows))
    logged = [*run.glob("rollouts/step-*.jsonl"), *run.glob("eval/step-*")]
    for path in [*logged, *checkpoints(run / "checkpoints")]:
        number = path.stem.removeprefix("step-").partition("-")[0]
        if number.isdecimal() and int(number) > step:
            remove(path)
    for folder in ("", "rollouts/", "eval/", "eval/*/", "checkpoints/"):
        for path in run.glob(f"{folder}.*.tmp"):
            remove(path)


def rows_until(metrics: Path, step: int) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to `step`. UserError if a step is missing or occurs twice.

    The last line is ignored if a killed process left it incomplete.
    """
    rows, previous = [], None
    for where, row in read_jsonl(metrics, drop_partial=True):
        current = row.get("step")
        if not isinstance(current, int):
            raise UserError(f"{where}: step must be an integer, got {short_repr(current)}")
        if previous is not None and current != previous + 1:
            raise UserError(
                f"{where}: step {current} follows step {previous}, so lines are missing or "
                "duplicated; restore the file, or move it away"
            )
        if current <= step:
            rows.append(row)
        previous = current
    return rows
