"""The paper's table of a model: our scores of runs/<model>_<row> beside the paper's numbers.

Reads runs/<model>_<row>/eval/paper/summary.json, written by `eval.py --avg-at paper --output`, and
of the untrained model also eval/greedy/summary.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asymrl.errors import UserError
from asymrl.files import read_json, write_atomically
from studies.jobs import PAPER_ROWS, RIVAL_ROWS
from studies.pages import markdown_table

ROWS = ("base", *(arm.name for arm in (*PAPER_ROWS, *RIVAL_ROWS)))
BENCHMARKS = ("math500", "aime24", "aime25", "amc23", "olympiadbench")
# arXiv 2604.04894 v2, Table 2; asym_clip_higher is from version 1.
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
    # For the other models only the averages are known.
    "qwen2.5_7b": {"base": (19.39,), "grpo": (36.76,), "asym": (38.90,)},
    "qwen2.5_math_1.5b": {"base": (27.66,), "grpo": (37.44,), "asym": (39.71,)},
}


def write(model: str, runs: Path, out: Path) -> str:
    """Write the table and return it. UserError for a model that is not in the paper."""
    text = table(model, runs)
    write_atomically(out, text + "\n")
    return text


def table(model: str, runs: Path) -> str:
    """Two lines a row, ours and the paper's, in percent; `-` for a missing number.

    Our numbers have standard errors over problems; the problems and samples of each column are
    stated below the table.
    """
    if model not in PRINTED:
        raise UserError(f"model {model!r} is not in the paper; valid are {', '.join(PRINTED)}")
    rows = []
    counts: dict[str, set[str]] = {name: set() for name in BENCHMARKS}
    for row in ROWS:
        run = runs / f"{model}_{row}"
        if row == "base":
            rows.append(["base, greedy", "ours", *our_cells(saved_scores(run, "greedy"))])
        scores = saved_scores(run, "paper")
        for name in counts.keys() & scores.keys():
            counts[name].add(f"{scores[name]['problems']} x {scores[name]['samples']}")
        rows.append([row, "ours", *our_cells(scores)])
        rows.append(["", "paper", *paper_cells(PRINTED[model].get(row, ()))])
    used = [f"{name} {' or '.join(sorted(many))}" for name, many in counts.items() if many]
    header = ["row", "", *BENCHMARKS, "Avg"]
    return "\n".join(
        [
            f"# {model}: the paper's table",
            "",
            markdown_table(header, rows),
            "",
            f"Problems x samples: {'; '.join(used) or 'nothing is evaluated yet'}.",
        ]
    )


def saved_scores(run: Path, name: str) -> dict[str, dict[str, float]]:
    """The scores in eval/<name> of a run; empty if it is not evaluated."""
    summary = run / "eval" / name / "summary.json"
    return read_scores(summary) if summary.is_file() else {}


def our_cells(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    cells = [
        f"{100 * scores[name]['avg']:.2f} ± {100 * scores[name]['stderr']:.2f}"
        if name in scores
        else "-"
        for name in BENCHMARKS
    ]
    if not scores.keys() >= set(BENCHMARKS):
        return [*cells, "-"]
    return [*cells, f"{100 * sum(scores[name]['avg'] for name in BENCHMARKS) / 5:.2f}"]


def paper_cells(printed: tuple[float, ...]) -> list[str]:
    """Five benchmarks and the average; for some models only the average."""
    cells = [f"{number:.2f}" for number in printed]
    return ["-"] * (len(BENCHMARKS) + 1 - len(cells)) + cells


def read_scores(summary: Path) -> dict[str, dict[str, float]]:
    """benchmark -> its scores, from a summary.json of eval.py."""
    benchmarks = read_json(summary).get("benchmarks")
    if not isinstance(benchmarks, dict):
        raise UserError(f"{summary} has no `benchmarks`; it is not a summary.json of eval.py")
    return benchmarks
