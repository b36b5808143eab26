"""Reads run folders for the report: settings, metrics, and a sample of the saved rollouts.

Knows the files of a run folder and nothing about pages or drawings. A run may be unfinished, and it
may have no evaluations or rollouts. `read_runs` skips a folder that it cannot read and returns a
sentence that names the file and the line. A group is the rollouts of one prompt draw.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from asymrl.errors import UserError, short_repr
from asymrl.files import distinct_names, read_jsonl
from asymrl.pocket import SEEDED
from asymrl.statistics import finite_mean
from asymrl.types import frozen

RUN_FILES = ("config.yaml", "metrics.jsonl")
TIME_TOTALS = ("total", "step", "verify_wait")  # verify_wait is part of generate
GPU_MEMORY = "perf/gpu_memory_"
KAPPA_STEPS = 20
GREEDY = "greedy"  # as in asymrl.config.schema, which loads torch
MAX_MAGNITUDE = 1e100  # larger numbers are not measurements, and their squares overflow
MAX_STEP = 10**9
MAX_GROUPS = 240  # on one page, shared evenly among the runs, at least one per run
MAX_ROLLOUT_STEPS = 6  # per run
MAX_ROLLOUTS = 4  # per group
MAX_TEXT = 4000  # characters

JsonRow = Mapping[str, Any]
Metrics = Mapping[str, float]


@frozen
class Run:
    """One run folder. settings: those of config.yaml by dotted key; rows: the finite metrics of
    each step, by rising step; notes: sentences about what was skipped."""

    label: str
    folder: Path
    settings: Mapping[str, Any]
    rows: Sequence[Metrics]
    notes: Sequence[str]


@frozen
class Series:
    """One metric of a run, at the steps that have it. errors: standard errors, or empty."""

    steps: Sequence[int]
    values: Sequence[float]
    errors: Sequence[float] = ()


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs in the order given, each once, and a sentence for each folder that was skipped.

    A folder that is not a run stands for all run folders below it, sorted by path. UserError if a
    folder does not exist or if no run can be read.
    """
    distinct = list(dict.fromkeys(run for folder in folders for run in _runs_at(folder)))
    runs, skipped = [], []
    for folder, label in zip(distinct, distinct_names(distinct), strict=True):
        try:
            runs.append(read_run(folder, label))
        except UserError as error:
            skipped.append(str(error))
    if not runs:
        raise UserError("no run can be read: " + "; ".join(skipped[:3]))
    return runs, skipped


def as_number(value: Any) -> float:
    """`value` as a float. nan for anything but a finite number of at most MAX_MAGNITUDE."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) < MAX_MAGNITUDE else math.nan


def series(run: Run, metric: str) -> Series:
    """The steps that have `metric`, and its values there."""
    rows = [row for row in run.rows if metric in row]
    return Series(steps=[int(row["step"]) for row in rows], values=[row[metric] for row in rows])


def accuracy(run: Run, names: Sequence[str], measure: str = "avg") -> Series:
    """Mean of `eval/<name>/<measure>` over the named evaluations, at the steps that have them all.

    names: "<benchmark>/<sampling setting>". measure: avg or pass_at_k. Standard errors of avg are
    sqrt(sum se^2) / number of names, from `eval/<name>/stderr`: problems of different benchmarks
    are independent. Empty unless every such step has all of them.
    """
    rows = [row for row in run.rows if all(f"eval/{name}/{measure}" in row for name in names)]
    errors = [
        math.hypot(*(row.get(f"eval/{name}/stderr", math.nan) for name in names)) / len(names)
        for row in rows
    ]
    return Series(
        steps=[int(row["step"]) for row in rows],
        values=[sum(row[f"eval/{name}/{measure}"] for name in names) / len(names) for row in rows],
        errors=() if measure != "avg" or any(map(math.isnan, errors)) else errors,
    )


def evaluations(runs: Sequence[Run]) -> list[str]:
    """Every "<benchmark>/<sampling setting>" of some run, in order of first appearance."""
    keys = dict.fromkeys(key for run in runs for row in run.rows for key in row)
    parts = [key.split("/") for key in keys]
    return [
        "/".join(part[1:3]) for part in parts if len(part) == 4 and part[::3] == ["eval", "avg"]
    ]


def settings_of(names: Sequence[str]) -> list[str]:
    """The sampling settings of evaluations, each once, `greedy` first."""
    settings = dict.fromkeys(name.split("/")[1] for name in names)
    return sorted(settings, key=lambda setting: setting != GREEDY)


def evaluation_sets(runs: Sequence[Run]) -> list[list[str]]:
    """By sampling setting: each evaluation alone, after all of them together if some run has all
    of them at one step."""
    names, sets = evaluations(runs), []
    for setting in settings_of(names):
        same = [name for name in names if name.split("/")[1] == setting]
        together = len(same) > 1 and any(accuracy(run, same).values for run in runs)
        sets += [same] * together + [[name] for name in same]
    return sets


def untrained(runs: Sequence[Run]) -> list[Run]:
    """The runs' policies before training: each run with its evaluation at step 0 alone. Runs that
    start from the same model with the same seed count once."""
    first = {}
    for run in runs:
        rows = [row for row in run.rows if row["step"] == 0]
        if evaluations([replace(run, rows=rows)]):
            start = run.settings.get("model.path"), run.settings.get("seed")
            first.setdefault(start, replace(run, rows=rows))
    return list(first.values())


def phase_seconds(rows: Sequence[Metrics]) -> dict[str, float]:
    """Phase -> seconds over all rows, from `time/<phase>`, without the totals."""
    seconds = _sums(rows, "time/")
    return {k: spent for k, spent in seconds.items() if k not in TIME_TOTALS and spent > 0}


def minutes(run: Run) -> float:
    """Recorded time, evaluations included: the sum of `time/step`, or of all phases without it."""
    whole = sum(series(run, "time/step").values)
    return (whole or sum(phase_seconds(run.rows).values())) / 60


def gpu_memory(rows: Sequence[Metrics]) -> dict[str, dict[str, float]]:
    """Phase -> reserved, peak, free and estimate in GiB, from `perf/gpu_memory_<what>/<phase>`: the
    largest over all rows, of free the smallest. {} for a run without a GPU."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for name, gib in row.items():
            if name.startswith(GPU_MEMORY):
                what, _, phase = name.removeprefix(GPU_MEMORY).partition("/")
                values.setdefault(phase, {}).setdefault(what, []).append(gib)
    return {
        phase: {what: (min if what == "free" else max)(gib) for what, gib in by_what.items()}
        for phase, by_what in values.items()
    }


def kappa_hat(rows: Sequence[Metrics]) -> float:
    """Mean of diag/kappa over the first 20 steps, nats per token (the paper's Appendix E); nan
    without any."""
    early = [row for row in rows if row["step"] <= KAPPA_STEPS]
    return finite_mean([row.get("diag/kappa", math.nan) for row in early])


def gradient_mass(rows: Sequence[Metrics], channel: str) -> dict[float, float]:
    """Group accuracy p -> gradient mass per group of a channel ("positive" or "negative").

    `pressure/<channel>/<p>` over `groups/accuracy/<p>` (the fraction of groups at p), each summed
    over all rows. Clipping and response lengths are part of it. A p without pressure has mass 0.
    Empty if no row has a pressure of this channel.
    """
    mass = _sums(rows, f"pressure/{channel}/")
    groups = _sums(rows, "groups/accuracy/") if mass else {}
    return {
        float(p): mass.get(p, 0.0) / often
        for p, often in groups.items()
        if often > 0 and _is_fraction(p)
    }


def sample_rollouts(run: Run, num_groups: int) -> tuple[list[dict[str, Any]], list[str]]:
    """At most `num_groups` groups of the run, from at most MAX_ROLLOUT_STEPS of its saved steps,
    and notes about what was skipped.

    Steps are evenly spaced and include the first and the last. The groups of a step are evenly
    spaced in order of group accuracy, so that hard and easy ones both show. A group's rollouts
    alternate between correct, wrong and truncated ones, up to MAX_ROLLOUTS. So the sample is not
    proportional. A step that cannot be read is skipped with a note.
    """
    files = sorted((run.folder / "rollouts").glob("step-*.jsonl"))
    chosen = evenly(files, max(1, min(MAX_ROLLOUT_STEPS, num_groups // 2 or 1)))
    groups, notes = [], []
    for file in chosen:
        try:
            rows, partial = _read_rows(file)
        except UserError as error:
            notes.append(f"{run.label}: {error}; the rollouts of this step were skipped")
            continue
        if partial:
            notes.append(f"{run.label}: skipped the incomplete last line of {file.name}")
        step = file.stem.removeprefix("step-")
        step_groups = _groups(list(rows.values()), int(step) if step.isdecimal() else 0)
        groups += evenly(step_groups, max(1, num_groups // len(chosen)))
    if not groups:
        notes.append(f"{run.label}: no rollouts were saved")
    return sorted(groups, key=lambda group: (group["step"], group["draw"])), notes


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """`count` evenly spaced items, both ends included; all items if there are no more than that.

    A count of 1 gives the last item.
    """
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _groups(rows: Sequence[JsonRow], step: int) -> list[dict[str, Any]]:
    """The groups of a step by rising accuracy, then in order of their draws. As in training, a
    rollout that `truncation: mask` excluded counts neither as solved nor in the group's size."""
    by_draw: dict[str, list[JsonRow]] = {}
    for row in rows:
        by_draw.setdefault(str(row.get("draw", row.get("problem_id"))), []).append(row)
    groups = []
    for draw, members in enumerate(by_draw.values()):
        first, valid = members[0], [row for row in members if row.get("valid") is not False]
        problem = first.get("problem") or first.get("prompt") or first.get("problem_id")
        groups.append(
            {
                "step": step,
                "draw": draw,
                "problem": _excerpt(problem),
                "gold": _excerpt(first.get("gold")),
                "solved": sum(_rollout(row)["correct"] for row in valid),
                "size": len(valid),
                "rollouts": _alternating([_rollout(row) for row in members])[:MAX_ROLLOUTS],
            }
        )
    return sorted(groups, key=lambda group: group["solved"] / max(1, group["size"]))


def _rollout(row: JsonRow) -> dict[str, Any]:
    """One rollout as the page shows it. It is correct if its reward is 1."""
    numbers = {key: as_number(row.get(key)) for key in ("reward", "tokens", "advantage")}
    reward, tokens, advantage = (None if math.isnan(n) else n for n in numbers.values())
    return {
        "response": _excerpt(row.get("response")),
        "answer": _excerpt(row.get("answer")),
        "reason": _excerpt(row.get("reason")).replace("_", " "),
        "tokens": tokens,
        "advantage": advantage,
        "correct": reward > 0.5 if reward is not None else row.get("reason") == "correct",
        "truncated": row.get("truncated") is True,
    }


def _excerpt(value: Any) -> str:
    """The value as text. A long text keeps its beginning and its end, where the answer is."""
    text, half = "" if value is None else str(value), MAX_TEXT // 2
    if len(text) <= MAX_TEXT:
        return text
    cut = f"[... {len(text) - 2 * half:,} characters left out ...]"
    return f"{text[:half]}\n\n{cut}\n\n{text[-half:]}"


def _alternating(rollouts: Sequence[JsonRow]) -> list[JsonRow]:
    """Each rollout once, in the order correct, wrong, truncated, correct, wrong, ..."""
    truncated = [row for row in rollouts if row["truncated"]]
    correct = [row for row in rollouts if row["correct"] and not row["truncated"]]
    wrong = [row for row in rollouts if not row["correct"] and not row["truncated"]]
    trios = zip_longest(correct, wrong, truncated)
    return [row for trio in trios for row in trio if row is not None]


def _runs_at(folder: Path) -> list[Path]:
    """The folder itself if it is a run folder, else all run folders below it."""
    folder = folder.resolve()
    if not os.path.isdir(folder):  # Path.is_dir raises for names that no file system accepts
        raise UserError(f"{folder} is not a folder; expected a run folder or a folder of runs")
    if any((folder / name).exists() for name in RUN_FILES):
        return [folder]
    return sorted({file.parent for name in RUN_FILES for file in folder.rglob(name)}) or [folder]


def has_runs(folder: Path) -> bool:
    """Whether the folder is a run folder or holds one."""
    return os.path.isdir(folder) and any((run / RUN_FILES[0]).exists() for run in _runs_at(folder))


def read_run(folder: Path, label: str = "") -> Run:
    """One run. UserError if the folder is not a run, or its files cannot be read."""
    config, metrics = (folder / name for name in RUN_FILES)
    for file in (config, metrics):
        if not file.is_file():
            hint = nearby_runs(folder)
            raise UserError(f"{folder} is not a run folder: it has no {file.name}{hint}")
    rows, partial = _read_rows(metrics)
    if not rows:
        raise UserError(f"{metrics} has no complete line; a report needs at least one step")
    by_step: dict[int, Metrics] = {}
    for where, row in rows.items():
        step = row.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= MAX_STEP:
            raise UserError(
                f"{where}: step is {short_repr(step)}; expected an integer from 0 to {MAX_STEP:,}"
            )
        numbers = {key: as_number(value) for key, value in row.items() if key != "step"}
        by_step[step] = {"step": step} | {k: n for k, n in numbers.items() if not math.isnan(n)}
    notes = [f"{label}: skipped the incomplete last line of metrics.jsonl"] if partial else []
    if len(by_step) < len(rows):
        notes.append(f"{label}: metrics.jsonl repeats steps; the last line of each step is used")
    return Run(
        label=label,
        folder=folder,
        settings=_read_settings(config),
        rows=[by_step[step] for step in sorted(by_step)],
        notes=notes,
    )


def nearby_runs(folder: Path) -> str:
    """For a sentence: the run that a folder is part of, such as a checkpoint, or the runs in it."""
    for parent in [*Path(os.path.abspath(folder)).parents][:3]:
        if all((parent / name).is_file() for name in RUN_FILES):
            return f"; it is part of the run folder {parent}"
    files = [file for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{RUN_FILES[1]}")]
    runs = sorted(str(file.parent) for file in files)
    more = f", and {len(runs) - 3} others" if len(runs) > 3 else ""
    return f"; it has the run folders {', '.join(runs[:3])}{more}" if runs else ""


def _read_rows(file: Path) -> tuple[dict[str, dict[str, Any]], bool]:
    """ "FILE:LINE" -> object, and whether an incomplete last line was dropped."""
    rows = dict(read_jsonl(file, drop_partial=True))
    lines = file.read_bytes().rstrip().split(b"\n")
    return rows, bool(lines[-1]) and f"{file}:{len(lines)}" not in rows


def _read_settings(file: Path) -> dict[str, Any]:
    """config.yaml as train.py reads it, but not validated: another version may have written it.

    The model `pocket:<seed>` of the run's own seed becomes `pocket`, so that the seeds of an arm
    have the same settings; `pocket_short` likewise.
    """
    from omegaconf import OmegaConf

    from asymrl.config.read import flatten, read_config

    settings: Any = OmegaConf.to_container(read_config(file))
    if not settings:
        raise UserError(f"{file} is empty; expected the settings of a run")
    flat = flatten(settings)
    name, _, seed = str(flat.get("model.path")).partition(":")
    if name in SEEDED and seed == str(flat.get("seed")):
        flat["model.path"] = name
    return flat


def _sums(rows: Sequence[Metrics], prefix: str) -> dict[str, float]:
    """What follows `prefix` in a metric's name -> the sum of its finite numbers over all rows."""
    sums: dict[str, float] = {}
    for row in rows:
        for key, number in row.items():
            if key.startswith(prefix) and math.isfinite(number):
                name = key.removeprefix(prefix)
                sums[name] = sums.get(name, 0.0) + number
    return sums


def _is_fraction(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False
