"""What a finished run says at its end: its folder, its result, and the commands that come next.

Reads the run folder; knows the names of metrics.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asymrl.files import read_jsonl


def describe_result(run_dir: Path, benchmarks: Sequence[str]) -> str:
    """Several lines: the last evaluation beside the one before training, and two commands."""
    rows = [row for _, row in read_jsonl(run_dir / "metrics.jsonl")]
    evaluations = [row for row in rows if eval_names(row)]
    lines = [f"finished: {run_dir}, step {rows[-1]['step']}"]
    for name in eval_names(evaluations[-1]) if evaluations else ():
        ends = [row for row in (evaluations[0], evaluations[-1]) if f"eval/{name}/avg" in row]
        texts = [f"{accuracy(row, name)} {when(row)}" for row in ends]
        lines.append(f"  {name.replace('/', ' ')}: {' -> '.join(dict.fromkeys(texts))}")
    if evaluations:
        lines[-1] += "  (± standard error over problems)"
    else:
        rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
        lines.append(f"  reward/mean: {rewards[0]:.3f} -> {rewards[-1]:.3f} (no eval.benchmarks)")
    return "\n".join(
        [*lines, "next:", *(f"  {line}" for line in next_commands(run_dir, benchmarks))]
    )


def eval_names(row: Mapping[str, Any]) -> list[str]:
    """The `<benchmark>/<setting>` of the evaluations in a row of metrics."""
    ends = "eval/", "/avg"
    names = [key for key in row if key.startswith(ends[0]) and key.endswith(ends[1])]
    return [key.removeprefix(ends[0]).removesuffix(ends[1]) for key in names]


def accuracy(row: Mapping[str, Any], name: str) -> str:
    """`0.625 ± 0.020`; a single problem has no standard error."""
    stderr = row.get(f"eval/{name}/stderr")
    return f"{row[f'eval/{name}/avg']:.3f}" + ("" if stderr is None else f" ± {stderr:.3f}")


def when(row: Mapping[str, Any]) -> str:
    return f"at step {row['step']}" if row["step"] else "untrained"


def next_commands(run_dir: Path, benchmarks: Sequence[str]) -> list[str]:
    """A report of the run, and an evaluation of its selected or last checkpoint."""
    best = run_dir / "checkpoints" / "best"
    evaluate = ["eval.py", "--ckpt", str(best if best.exists() else best.with_name("latest"))]
    evaluate += ["--benchmarks", ",".join(benchmarks)] if benchmarks else []
    commands = [["-m", "asymrl.report", str(run_dir)], evaluate]
    return [shlex.join([python(), *command]) for command in commands]


def python() -> str:
    """The running interpreter, as a path relative to the working directory if it is inside it."""
    here, path = os.getcwd(), sys.executable or "python"
    return os.path.relpath(path) if path.startswith(here + os.sep) else path
