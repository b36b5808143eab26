"""A readable sample of the rollouts that runs saved, thinned so that a page of many runs is light.

Knows the files in rollouts/ and what of them is shown; nothing of how. A group is the rollouts of
one prompt draw.

Reads run folders for the report: settings and metrics.

Knows the layout of a run folder and nothing of how it is drawn. A run may be unfinished, and may
lack metrics or evaluations. A folder that cannot be read is left out, with a sentence that names
the file and the line; rollouts are read by `report_rollouts`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from asymrl.errors import UserError, printable
from asymrl.types import frozen

GROUPS = 240  # on a page, shared evenly among the runs, at least one a run
MOST_ROLLOUT_STEPS = 6  # of a run
ROLLOUTS = 4  # of a group
LONGEST_TEXT = 4000  # characters


@frozen
class Sample:
    """What the page shows of one run: groups, by step; notes: what was left out, in words."""

    groups: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


def sample_rollouts(run: Run, num_groups: int) -> Sample:
    """At most `num_groups` groups of the run, from at most MOST_ROLLOUT_STEPS of its saved steps.

    Steps: evenly spaced among the saved ones, the first and the last included. Of each as many
    groups, evenly spaced in order of group accuracy, so that hard and easy ones both show; of each
    group up to ROLLOUTS rollouts, taken in turn from the correct, wrong and truncated ones. So what
    is shown is not in proportion. A step that cannot be read is left out, with a note.
    """
    files = sorted((run.folder / "rollouts").glob("step-*.jsonl"))
    chosen = evenly(files, max(1, min(MOST_ROLLOUT_STEPS, num_groups // 2 or 1)))
    groups, notes = [], []
    for file in chosen:
        try:
            rows, half = json_lines(file)
        except UserError as error:
            notes.append(f"{run.label}: {error}; this step's rollouts were left out")
            continue
        if half:
            notes.append(f"{run.label}: the half-written last line of {file.name} was left out")
        groups += evenly(_groups(rows, _step(file)), max(1, num_groups // len(chosen)))
    if not groups:
        notes.append(f"{run.label}: no rollouts were saved")
    return Sample(groups=sorted(groups, key=lambda g: (g["step"], g["draw"])), notes=notes)


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of them, evenly spaced, both ends included; all where there are no more; the last
    where one is wanted."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _step(file: Path) -> int:
    digits = file.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0


def _groups(rows: Sequence[Mapping[str, Any]], step: int) -> list[dict[str, Any]]:
    """By rising group accuracy, in the order drawn where it is equal. As in training, what
    `truncation: mask` left out counts neither as solved nor in the group's size."""
    by_draw: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_draw.setdefault(str(row.get("draw", row.get("problem_id"))), []).append(row)
    groups = []
    for draw, members in enumerate(by_draw.values()):
        shown = [_shown(row) for row in members]
        counted = [_shown(row) for row in members if row.get("valid") is not False]
        problem = members[0].get("problem") or members[0].get("prompt")
        groups.append(
            {
                "step": step,
                "draw": draw,
                "problem": _text(problem or members[0].get("problem_id")),
                "gold": _text(members[0].get("gold")),
                "solved": sum(rollout["correct"] for rollout in counted),
                "size": len(counted),
                "rollouts": list(_in_turn(shown))[:ROLLOUTS],
            }
        )
    return sorted(groups, key=lambda group: group["solved"] / max(1, group["size"]))


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """One rollout as the page shows it. Correct is what earned the reward."""
    reward = number(row.get("reward"))
    return {
        "response": _text(row.get("response")),
        "answer": _text(row.get("answer")),
        "reason": _text(row.get("reason")).replace("_", " "),
        "tokens": number(row.get("tokens")),
        "advantage": number(row.get("advantage")),
        "correct": reward > 0.5 if reward is not None else row.get("reason") == "correct",
        "truncated": row.get("truncated") is True,
    }


def _text(given: Any) -> str:
    """As text; of a long one the beginning and, where a response has its answer, the end."""
    text = "" if given is None else str(given)
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n\n[... {left_out:,} characters left out ...]\n\n{text[-half:]}"


def _in_turn(group: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Correct, wrong, truncated, correct, wrong, ... : each rollout once."""
    truncated = [row for row in group if row["truncated"]]
    correct = [row for row in group if row["correct"] and not row["truncated"]]
    wrong = [row for row in group if not row["correct"] and not row["truncated"]]
    for trio in zip_longest(correct, wrong, truncated):
        yield from (row for row in trio if row is not None)


NO_PHASES = ("time/total", "time/step", "time/verify_wait")
MOST = 1e100  # of a number: beyond it squares overflow, and nothing is measured there
MOST_STEPS = 10**9
MOST_SETTINGS, DEEPEST = 10_000, 32  # of a config.yaml, aliases written out


@frozen
class Run:
    """One run folder. rows: the metrics by rising step; notes: what was left out, in words."""

    label: str
    folder: Path
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


@frozen
class Series:
    """A metric of one run where it is present and finite. errors: its standard errors, or empty."""

    steps: Sequence[int]
    values: Sequence[float]
    errors: Sequence[float] = ()


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Each distinct run folder in the order given, and a sentence for each that was left out.

    A folder that is no run but has run folders somewhere below it stands for these, in order of
    their names. UserError where a folder does not exist, and where no folder is a readable run.
    """
    if not folders:
        raise UserError("no run folder was given; name one or more folders with a metrics.jsonl")
    distinct = list(dict.fromkeys(run for folder in folders for run in _runs_at(folder)))
    runs, left_out = [], []
    for folder, label in zip(distinct, labels(distinct), strict=True):
        try:
            runs.append(_read_run(folder, label))
        except UserError as error:
            left_out.append(str(error))
    if not runs:
        raise UserError("no run can be read: " + "; ".join(left_out[:3]))
    return runs, left_out


def labels(folders: Sequence[Path]) -> list[str]:
    """Folder names; those that clash take on parent folders until all differ."""
    depth = [1] * len(folders)
    while True:
        names = ["/".join(f.parts[-d:]) for f, d in zip(folders, depth, strict=True)]
        clashing = [i for i, name in enumerate(names) if names.count(name) > 1]
        clashing = [i for i in clashing if depth[i] < len(folders[i].parts)]
        if not clashing:
            return [printable(name) for name in names]
        for i in clashing:
            depth[i] += 1


def number(given: Any) -> float | None:
    """A finite number, else None: null (a NaN as written), text, a missing key, beyond MOST."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return float(given) if abs(given) < MOST else None


def series(run: Run, metric: str) -> Series:
    """The steps at which `metric` is a number, and its values there."""
    rows = [row for row in run.rows if number(row.get(metric)) is not None]
    return Series(steps=[row["step"] for row in rows], values=[float(row[metric]) for row in rows])


def accuracy(run: Run, names: Sequence[str]) -> Series:
    """Mean accuracy over these benchmarks, at the steps that have `eval/<benchmark>/avg` of all.

    So a run that was not evaluated on one of them has none. Standard errors, from
    `eval/<benchmark>/stderr`, are sqrt(sum se^2) / number of benchmarks (their problems are
    independent of each other); they are there only if each of those steps has all of them.
    """
    steps, values, errors = [], [], []
    for row in run.rows if names else ():
        scores = [number(row.get(f"eval/{name}/avg")) for name in names]
        known = [score for score in scores if score is not None]
        if len(known) < len(names):
            continue
        steps.append(row["step"])
        values.append(sum(known) / len(names))
        spread = [number(row.get(f"eval/{name}/stderr")) for name in names]
        given = [error for error in spread if error is not None]
        errors.append(math.hypot(*given) / len(names) if len(given) == len(names) else math.nan)
    whole = all(math.isfinite(error) for error in errors)
    return Series(steps=steps, values=values, errors=errors if whole else ())


def with_mean(runs: Sequence[Run]) -> list[list[str]]:
    """Each benchmark alone, and first all together where there are several and a run has all."""
    names = benchmarks(runs)
    together = len(names) > 1 and any(accuracy(run, names).values for run in runs)
    return [names] * together + [[name] for name in names]


def benchmarks(runs: Sequence[Run]) -> list[str]:
    """Every benchmark that some run was evaluated on, in order of first appearance."""
    keys = dict.fromkeys(key for run in runs for row in run.rows for key in row)
    return [key.split("/")[1] for key in keys if _is_accuracy(key)]


def phase_seconds(run: Run, training_only: bool) -> dict[str, float]:
    """Seconds spent in each phase over the whole run, from `time/<phase>`; no totals among
    them, nor verify_wait, which is a part of generate.

    training_only leaves out step 0, the evaluation before training.
    """
    seconds: dict[str, float] = {}
    for row in run.rows:
        if training_only and row["step"] == 0:
            continue
        for key, given in row.items():
            spent = number(given)
            if key.startswith("time/") and key not in NO_PHASES and spent and spent > 0:
                phase = key.removeprefix("time/")
                seconds[phase] = seconds.get(phase, 0.0) + spent
    return seconds


def minutes(run: Run) -> float:
    """Time on record, evaluations included: `time/step` where it is written, else all phases."""
    whole = sum(series(run, "time/step").values)
    return (whole or sum(phase_seconds(run, training_only=False).values())) / 60


def json_lines(file: Path) -> tuple[list[dict[str, Any]], bool]:
    """The objects of a JSONL file, and whether a half-written last line was dropped.

    UserError with file and line where another line is no JSON object, or the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    tail = lines.pop()  # empty where the last line ended as it should
    rows = [_json_object(file, number, line) for number, line in enumerate(lines, start=1)]
    if not tail.strip():
        return rows, False
    try:
        last = json.loads(tail)
    except (ValueError, RecursionError):
        return rows, True
    return ([*rows, last], False) if isinstance(last, dict) else (rows, True)


def _runs_at(folder: Path) -> list[Path]:
    """The folder itself if it is meant as a run, else all run folders below it."""
    folder = folder.resolve()
    if not os.path.isdir(folder):  # Path.is_dir raises of names that no file can have
        raise UserError(f"{folder} is no folder; a run folder, or a folder of runs, is needed")
    marks = ("config.yaml", "metrics.jsonl")
    if not any((folder / mark).exists() for mark in marks):
        below = {file.parent for mark in marks for file in folder.rglob(mark)}
        return sorted(below) or [folder]
    return [folder]


def _read_run(folder: Path, label: str) -> Run:
    config_file, metrics_file = folder / "config.yaml", folder / "metrics.jsonl"
    for file in (config_file, metrics_file):
        if not file.is_file():
            raise UserError(
                f"{folder} is no run folder: it has no {file.name}; a run folder has a "
                "config.yaml and a metrics.jsonl, as train.py writes them"
            )
    rows, half = json_lines(metrics_file)
    if not rows:
        raise UserError(
            f"{metrics_file} has no finished step yet; a report needs at least one whole line"
        )
    by_step: dict[int, Mapping[str, Any]] = {}
    for line, row in enumerate(rows, start=1):
        step = row.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= MOST_STEPS:
            raise UserError(
                f"{metrics_file} line {line} has step {_short(step)}; a whole number from 0 to "
                f"{MOST_STEPS:,} is needed"
            )
        by_step[step] = row
    notes = [f"{label}: the half-written last line of metrics.jsonl was left out"] if half else []
    if len(by_step) < len(rows):
        notes.append(f"{label}: metrics.jsonl has steps twice; the later lines were used")
    ordered = [by_step[step] for step in sorted(by_step)]
    config = _config(config_file)
    return Run(label=label, folder=folder, config=config, rows=ordered, notes=notes)


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _config(file: Path) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8", errors="replace"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{file}{where} is not valid YAML; a run's settings are needed") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # what PyYAML raises of `2001-99-99`, `!!bool x`, `!!timestamp x`, `!!int []`, `[[[[...`
        raise UserError(f"{file} cannot be read as settings: {type(error).__name__}") from None
    if not isinstance(config, Mapping):
        raise UserError(f"{file} holds no settings; a mapping of keys to values is needed")
    if why := _no_tree(config):
        raise UserError(f"{file} {why}; a run's settings, as train.py writes them, are needed")
    return config


def _no_tree(config: Mapping[Any, Any]) -> str | None:
    """Why this is not what a config can be, None if it is: by aliases a YAML file may hold itself,
    or be far larger than it looks. Level by level, since recursion would end before it does."""
    level: list[Any] = [config]
    seen = 0
    for _ in range(DEEPEST):
        maps = [one for one in level if isinstance(one, Mapping)]
        if any(not isinstance(key, str) for one in maps for key in one):
            return "has a key that is no text"
        lists = [one for one in level if isinstance(one, list)]
        seen += sum(map(len, [*maps, *lists]))
        if seen > MOST_SETTINGS:
            return f"holds more than {MOST_SETTINGS:,} settings"
        level = [v for one in maps for v in one.values()] + [v for one in lists for v in one]
    return "holds itself, or is nested too deeply" if level else None


def _json_object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{file} line {number} is malformed; each line must be one JSON object")
    return row


def _is_accuracy(key: str) -> bool:
    parts = key.split("/")
    return len(parts) == 3 and parts[0] == "eval" and parts[2] == "avg"
