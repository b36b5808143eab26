"""The paper's table of a backbone: what eval.py found of runs/<model>_<row>, beside what it prints.

Knows the printed numbers and where evaluations lie: runs/<model>_<row>/eval/paper/summary.json,
written by `eval.py --avg-at paper --output`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asymrl.errors import UserError
from asymrl.files import write_atomically
from studies.jobs import TABLE_ROWS
from studies.results import scored

ROWS = ("base", *(arm.name for arm in TABLE_ROWS))
BENCHMARKS = ("math500", "aime24", "aime25", "amc23", "olympiadbench")
# arXiv 2604.04894 v2, Table 2; asym_clip_higher is of version 1.
PRINTED: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "qwen3_4b": {
        "base": (81.60, 21.67, 20.00, 63.75, 47.52, 46.91),
        "reinforce": (86.60, 28.67, 24.67, 73.75, 54.86, 53.71),
        "grpo": (88.20, 31.00, 27.33, 78.25, 57.74, 56.50),
        "grpo_ent": (88.20, 38.33, 28.33, 75.50, 57.24, 57.52),
        "grpo_clip_higher": (90.07, 34.67, 32.33, 78.50, 58.18, 58.75),
        "dr_grpo": (88.87, 36.33, 30.00, 78.25, 57.24, 58.14),
        "pos_only": (87.13, 27.33, 28.00, 76.75, 57.34, 55.31),
        "neg_only": (87.00, 26.00, 27.00, 78.00, 54.46, 54.49),
        "asym_sym": (88.53, 32.00, 29.33, 78.50, 57.34, 57.14),
        "asym": (89.33, 39.33, 28.67, 81.00, 58.48, 59.36),
        "asym_clip_higher": (89.73, 33.67, 36.00, 83.25, 58.93, 60.32),
    },
    # Of the other backbones the averages alone are at hand.
    "qwen2.5_7b": {"base": (19.39,), "grpo": (36.76,), "asym": (38.90,)},
    "qwen2.5_math_1.5b": {"base": (27.66,), "grpo": (37.44,), "asym": (39.71,)},
}


def write(model: str, runs: Path, out: Path) -> str:
    """Write the table and return it. UserError for a model that the paper does not have."""
    text = table(model, runs)
    write_atomically(out, text + "\n")
    return text


def table(model: str, runs: Path) -> str:
    """Two lines a row, ours and the paper's; percent, `-` where a number is missing. Ours has the
    standard error over problems, and the problems and samples behind each column are stated."""
    if model not in PRINTED:
        raise UserError(f"model {model!r} is not one of {', '.join(PRINTED)}")
    lines = ["| row | | " + " | ".join(BENCHMARKS) + " | Avg |", "|---" * 8 + "|"]
    counts: dict[str, set[str]] = {name: set() for name in BENCHMARKS}
    for row in ROWS:
        found = scores(runs / f"{model}_{row}")
        for name in BENCHMARKS:
            if name in found:
                facts = found[name]
                counts[name].add(f"{facts['problems']} x {facts['samples']}")
        lines.append(f"| {row} | ours | " + " | ".join(ours(found)) + " |")
        lines.append("| | paper | " + " | ".join(theirs(PRINTED[model].get(row, ()))) + " |")
    behind = [f"{name} {' or '.join(sorted(said))}" for name, said in counts.items() if said]
    return "\n".join(
        [
            f"# {model}: the paper's table",
            "",
            *lines,
            "",
            f"Problems x samples: {'; '.join(behind) or 'nothing is evaluated yet'}.",
        ]
    )


def scores(run: Path) -> dict[str, dict[str, float]]:
    summary = run / "eval" / "paper" / "summary.json"
    return scored(summary) if summary.is_file() else {}


def ours(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    cells = [
        f"{100 * found[name]['avg']:.2f} ± {100 * found[name]['stderr']:.2f}"
        if name in found
        else "-"
        for name in BENCHMARKS
    ]
    whole = all(name in found for name in BENCHMARKS)
    average = sum(found[name]["avg"] for name in BENCHMARKS) / 5 if whole else None
    return [*cells, "-" if average is None else f"{100 * average:.2f}"]


def theirs(printed: tuple[float, ...]) -> list[str]:
    """Five benchmarks and the average; of some backbones only the average."""
    cells = [f"{number:.2f}" for number in printed]
    return ["-"] * (len(BENCHMARKS) + 1 - len(cells)) + cells
