"""The results of a sweep: accuracy at the last evaluation of each run, as CSV, Markdown and LaTeX.

Reads run folders. In every table, ± is one standard error over seeds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from asymrl.errors import UserError, printable
from asymrl.evaluation.compare import latex_table, latex_text, markdown_table, markdown_text
from asymrl.evaluation.scores import percent
from asymrl.files import write_atomically
from asymrl.report.arms import evaluations_title
from asymrl.report.runs import accuracy, evaluation_sets, read_runs
from asymrl.statistics import MeanEstimate, estimate_mean
from asymrl.sweep.plan import Arm, Run
from asymrl.types import frozen

UNTRAINED = "untrained"
DIGITS = 6  # of a fraction in the CSV
# Sections and keys that the evaluation before training does not depend on.
OF_TRAINING = {
    *("advantage", "reweight", "schedule", "loss", "optim", "steps", "checkpoint", "row"),
    *("tracking", "warn", "deadlines", "rollout.prompts", "rollout.group_size"),
}
CAPTION = (
    "Accuracy in percent at the last evaluation of each run: mean over seeds ± one standard error "
    "over seeds; a single seed has none. Untrained: the evaluation before the first step."
)


@frozen
class Row:
    """A line of the tables. scores: title of an evaluation -> seed -> accuracy, as a fraction."""

    name: str
    settings: Mapping[str, str]
    scores: Mapping[str, Mapping[int, float]]

    def mean(self, title: str) -> MeanEstimate:
        return estimate_mean([*self.scores[title].values()])


def check_results(runs: Sequence[Run], out: Path) -> None:
    """UserError if results.csv in `out` has an arm or a seed that these runs do not have, which
    would be lost: the new tables and the new report replace it."""
    file = out / "results.csv"
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        arms = {row["arm"] for row in reader if row.get("arm")}
        seeds = [name for name in reader.fieldnames or () if name.startswith("seed_")]
    known = {run.arm.name for run in runs} | {f"seed_{run.seed}" for run in runs}
    other = sorted(arm for arm in arms if not arm.startswith(UNTRAINED) and arm not in known)
    if lost := other or [seed for seed in seeds if seed not in known]:
        names = ", ".join(lost[:3]) + ", ..." * (len(lost) > 3)
        raise UserError(
            f"{file} has results of another sweep, of {names}, which this one would replace; use "
            "another --out, or all of these values and seeds"
        )


def write_results(finished: Sequence[Run], out: Path) -> list[Path]:
    """Write results.csv, .md and .tex; the files. None if the runs have no evaluation."""
    rows = collect(finished)
    if not rows:
        return []
    contents = {"csv": to_csv(rows), "md": markdown(rows), "tex": latex(rows)}
    for suffix, content in contents.items():
        write_atomically(out / f"results.{suffix}", content)
    return [out / f"results.{suffix}" for suffix in contents]


def collect(finished: Sequence[Run]) -> list[Row]:
    """The untrained policy's rows, then a row for each arm, in the order of the sweep."""
    read, _ = read_runs([run.folder for run in finished])
    by_folder = {one.folder: one for one in read}
    sets = {evaluations_title(names): names for names in evaluation_sets(read)}
    untrained: dict[str, dict[str, dict[int, float]]] = {}
    trained: dict[str, dict[str, dict[int, float]]] = {}
    arms: dict[str, Arm] = {}
    for run in finished:
        if (one := by_folder.get(run.folder.resolve())) is None:
            continue
        start, arm = name_of_start(run.arm), run.arm.name
        arms.setdefault(arm, run.arm)
        for title, names in sets.items():
            series = accuracy(one, names)
            scores = dict(zip(series.steps, series.values, strict=True))
            if 0 in scores:
                seeds = untrained.setdefault(start, {}).setdefault(title, {})
                seeds.setdefault(run.seed, scores.pop(0))
            if scores:
                last = trained.setdefault(arm, {}).setdefault(title, {})
                last[run.seed] = scores[max(scores)]
    return [
        *(Row(name=name, settings={}, scores=scores) for name, scores in untrained.items()),
        *(
            Row(name=name, settings=arms[name].settings, scores=scores)
            for name, scores in trained.items()
        ),
    ]


def name_of_start(arm: Arm) -> str:
    """`untrained`, with the settings that change the evaluation before training."""
    settings = [
        f"{key}={value}"
        for key, value in arm.settings.items()
        if not {key, key.partition(".")[0]} & OF_TRAINING
    ]
    return ", ".join([UNTRAINED, *settings])


def titles(rows: Sequence[Row]) -> list[str]:
    return [*dict.fromkeys(title for row in rows for title in row.scores)]


def table(rows: Sequence[Row]) -> list[list[str]]:
    """The header and a row of cells for each arm. Seeds: how many runs a mean is over."""
    columns = titles(rows)
    lines = [["", *map(printable, columns), "seeds"]]
    for row in rows:
        cells = [percent(row.mean(title)) if title in row.scores else "" for title in columns]
        counts = sorted({len(seeds) for seeds in row.scores.values()})
        lines.append([printable(row.name), *cells, " to ".join(map(str, counts))])
    return lines


def markdown(rows: Sequence[Row]) -> str:
    header, *lines = ([markdown_text(cell) for cell in line] for line in table(rows))
    return f"{markdown_table(header, lines)}\n\n{CAPTION}\n"


def latex(rows: Sequence[Row]) -> str:
    """A booktabs table, followed by what its numbers are as a comment."""
    header, *lines = ([latex_text(cell) for cell in line] for line in table(rows))
    numbers = [
        [name, *(f"${cell}$".replace("±", "\\pm") for cell in cells)] for name, *cells in lines
    ]
    return f"{latex_table(header, numbers)}% {CAPTION}\n"


def to_csv(rows: Sequence[Row]) -> str:
    """A line for each arm and evaluation: the arm's settings, the mean over seeds, its standard
    error, and the accuracy of each seed. Accuracies are fractions."""
    keys = [*dict.fromkeys(key for row in rows for key in row.settings)]
    seeds = sorted({seed for row in rows for by in row.scores.values() for seed in by})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ("accuracy", "stderr_over_seeds", "seeds")
    writer.writerow(
        ["arm", *keys, "benchmark", "sampling", *numbers, *(f"seed_{s}" for s in seeds)]
    )
    for row in rows:
        for title, scores in row.scores.items():
            mean = row.mean(title)
            stderr = round(mean.stderr, DIGITS) if len(scores) > 1 else ""
            settings = [row.settings.get(key, "") for key in keys]
            each = [round(scores[seed], DIGITS) if seed in scores else "" for seed in seeds]
            mine = [row.name, *settings, *title.rsplit(", ", 1)]
            writer.writerow([*mine, round(mean.value, DIGITS), stderr, len(scores), *each])
    return text.getvalue()
