"""Reads run folders for the report: settings, metrics, and a readable sample of rollouts.

Knows the layout of a run folder and nothing of how it is drawn. A run may be unfinished, and may
lack metrics, rollouts or evaluations; what is damaged is refused with its file and line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from asymrl.types import UserError, value

ROLLOUTS_PER_PROBLEM = 4
LONGEST_TEXT = 4000  # characters


@value
class Run:
    """One run folder. rows: the metrics by rising step; notes: what was left out, in words."""

    label: str
    folder: Path
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


@value
class Series:
    """A metric of one run where it is present and finite. errors: its standard errors, or empty."""

    steps: Sequence[int]
    values: Sequence[float]
    errors: Sequence[float] = ()


@value
class Sample:
    """The rollouts of one saved step that the page shows, by problem, and what they are out of."""

    step: int
    problems: Sequence[Mapping[str, Any]]
    rollouts: int
    correct: int
    truncated: int


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Each distinct folder as a Run, in the order given. UserError where one is no run."""
    if not folders:
        raise UserError("no run folder was given; name one or more folders with a metrics.jsonl")
    distinct = list(dict.fromkeys(folder.resolve() for folder in folders))
    return [
        _read_run(folder, label) for folder, label in zip(distinct, labels(distinct), strict=True)
    ]


def labels(folders: Sequence[Path]) -> list[str]:
    """Folder names; those that clash take on parent folders until all differ."""
    depth = [1] * len(folders)
    while True:
        names = ["/".join(f.parts[-d:]) for f, d in zip(folders, depth, strict=True)]
        clashing = [i for i, name in enumerate(names) if names.count(name) > 1]
        clashing = [i for i in clashing if depth[i] < len(folders[i].parts)]
        if not clashing:
            return [_printable(name) for name in names]
        for i in clashing:
            depth[i] += 1


def setting(run: Run, key: str) -> Any:
    """The value of a dotted key in config.yaml, None where it is absent."""
    node: Any = run.config
    for part in key.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node.get(part)
    return node


def number(given: Any) -> float | None:
    """A finite number, else None: null (a NaN as written), text, a missing key."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return float(given) if math.isfinite(given) else None


def series(run: Run, metric: str) -> Series:
    """The steps at which `metric` is a number, and its values there.

    Standard errors are those of `eval/<benchmark>/avg`, from `eval/<benchmark>/stderr`; they are
    used only if present at each of those steps.
    """
    rows = [row for row in run.rows if number(row.get(metric)) is not None]
    error_key = re.sub("/avg$", "/stderr", metric) if _is_accuracy(metric) else ""
    errors = [number(row.get(error_key)) for row in rows]
    known = [error for error in errors if error is not None]
    return Series(
        steps=[row["step"] for row in rows],
        values=[float(row[metric]) for row in rows],
        errors=known if len(known) == len(rows) else (),
    )


def benchmarks(runs: Sequence[Run]) -> list[str]:
    """Every benchmark that some run was evaluated on, in order of first appearance."""
    keys = dict.fromkeys(key for run in runs for row in run.rows for key in row)
    return [key.split("/")[1] for key in keys if _is_accuracy(key)]


def phase_seconds(run: Run, training_only: bool) -> dict[str, float]:
    """Seconds spent in each phase over the whole run, from `time/<phase>`; no totals among them.

    training_only leaves out step 0, the evaluation before training.
    """
    seconds: dict[str, float] = {}
    for row in run.rows:
        if training_only and row["step"] == 0:
            continue
        for key, given in row.items():
            spent = number(given)
            if key.startswith("time/") and key not in ("time/total", "time/step") and spent:
                phase = key.removeprefix("time/")
                seconds[phase] = seconds.get(phase, 0.0) + spent
    return seconds


def minutes(run: Run) -> float:
    """Time on record, evaluations included: `time/step` where it is written, else all phases."""
    whole = sum(series(run, "time/step").values)
    return (whole or sum(phase_seconds(run, training_only=False).values())) / 60


def sample_rollouts(run: Run, num_problems: int) -> tuple[list[Sample], list[str]]:
    """The first and the last saved step (one Sample where they are the same), and notes.

    Of each step the first `num_problems` problems drawn, and of each up to ROLLOUTS_PER_PROBLEM
    rollouts, taken in turn from the correct, wrong and truncated ones, so that each kind shows.
    """
    files = sorted((run.folder / "rollouts").glob("step-*.jsonl"))
    samples, notes = [], []
    for file in dict.fromkeys(files[:1] + files[-1:]):
        rows, half = _json_lines(file)
        if half:
            notes.append(f"{run.label}: the half-written last line of {file.name} was left out")
        if rows:
            samples.append(_sample(rows, num_problems))
    if not samples:
        notes.append(f"{run.label}: no rollouts were saved")
    return samples, notes


def _read_run(folder: Path, label: str) -> Run:
    config_file, metrics_file = folder / "config.yaml", folder / "metrics.jsonl"
    for file in (config_file, metrics_file):
        if not file.is_file():
            raise UserError(
                f"{folder} is no run folder: it has no {file.name}; a run folder has a "
                "config.yaml and a metrics.jsonl, as train.py writes them"
            )
    rows, half = _json_lines(metrics_file)
    if not rows:
        raise UserError(
            f"{metrics_file} has no finished step yet; a report needs at least one whole line"
        )
    by_step: dict[int, Mapping[str, Any]] = {}
    for line, row in enumerate(rows, start=1):
        step = row.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise UserError(
                f"{metrics_file} line {line} has step {step!r}; a whole number from 0 is needed"
            )
        by_step[step] = row
    notes = [f"{label}: the half-written last line of metrics.jsonl was left out"] if half else []
    if len(by_step) < len(rows):
        notes.append(f"{label}: metrics.jsonl has steps twice; the later lines were used")
    ordered = [by_step[step] for step in sorted(by_step)]
    config = _config(config_file)
    return Run(label=label, folder=folder, config=config, rows=ordered, notes=notes)


def _printable(text: str) -> str:
    """Folder names may hold line breaks and bytes that are no text; labels may not."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _config(file: Path) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8", errors="replace"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{file}{where} is not valid YAML; a run's settings are needed") from None
    if not isinstance(config, Mapping):
        raise UserError(f"{file} holds no settings; a mapping of keys to values is needed")
    return config


def _json_lines(file: Path) -> tuple[list[dict[str, Any]], bool]:
    """The objects of a JSONL file, and whether a half-written last line was dropped."""
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    tail = lines.pop()  # empty where the last line ended as it should
    rows = [_json_object(file, number, line) for number, line in enumerate(lines, start=1)]
    if not tail.strip():
        return rows, False
    try:
        last = json.loads(tail)
    except ValueError:
        return rows, True
    return ([*rows, last], False) if isinstance(last, dict) else (rows, True)


def _json_object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{file} line {number} is malformed; each line must be one JSON object")
    return row


def _is_accuracy(key: str) -> bool:
    parts = key.split("/")
    return len(parts) == 3 and parts[0] == "eval" and parts[2] == "avg"


def _sample(rows: Sequence[Mapping[str, Any]], num_problems: int) -> Sample:
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row.get("draw", row.get("problem_id"))), []).append(_shown(row))
    problems = [
        {
            "problem": group[0]["problem"],
            "gold": group[0]["gold"],
            "solved": sum(row["correct"] for row in group),
            "rollouts": list(_in_turn(group))[:ROLLOUTS_PER_PROBLEM],
            "size": len(group),
        }
        for group in list(groups.values())[:num_problems]
    ]
    everything = [row for group in groups.values() for row in group]
    return Sample(
        step=next((row["step"] for row in rows if isinstance(row.get("step"), int)), 0),
        problems=problems,
        rollouts=len(everything),
        correct=sum(row["correct"] for row in everything),
        truncated=sum(row["truncated"] for row in everything),
    )


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """One rollout as the page shows it. Correct is what earned the reward."""
    reward = number(row.get("reward"))
    correct = reward > 0.5 if reward is not None else row.get("reason") == "correct"
    problem = row.get("problem") or row.get("prompt") or row.get("problem_id") or ""
    return {
        "problem": _text(problem),
        "gold": _text(row.get("gold")),
        "response": _text(row.get("response")),
        "answer": _text(row.get("answer")),
        "reason": _text(row.get("reason")).replace("_", " "),
        "tokens": number(row.get("tokens")),
        "advantage": number(row.get("advantage")),
        "correct": correct,
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
