"""Compares evaluations: `python -m asymrl.evaluation.compare DIR [DIR...]`.

Each folder is compared with the first one, problem by problem. Knows the folders that eval.py
writes and how to print tables; statistics.py defines the intervals.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tabulate import tabulate

from asymrl.errors import UserError, printable
from asymrl.evaluation import results_folder
from asymrl.evaluation.scores import is_correct, percent
from asymrl.files import distinct_names, write_atomically
from asymrl.run.exit_codes import exit_code
from asymrl.statistics import (
    RESAMPLE_SEED,
    RESAMPLES,
    BootstrapDifference,
    MeanEstimate,
    direction,
    estimate_mean,
    finite_mean,
    mean_of_estimates,
    paired_bootstrap,
)
from asymrl.types import frozen

MEAN = "mean"
METHOD = (
    "95% intervals of paired differences: bootstrap over problems, widened for few problems, "
    f"{RESAMPLES:,} resamples, seed {RESAMPLE_SEED}; not corrected for the number of comparisons."
)
CAPTION = "avg@k in percent ± standard error over problems."
RANKING = (
    "The best printed number of a column is bold, the second underlined; that does not mean that "
    "they differ."
)


@frozen
class Evaluation:
    """One folder. rows: benchmark -> problem id -> its samples."""

    name: str
    folder: Path
    rows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    settings: Mapping[str, Any]


def load_evaluations(folders: Sequence[Path]) -> list[Evaluation]:
    """UserError if a folder is named twice, is not finished, or has other problems than the
    first."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a folder is given twice; give each folder once")
    evaluations = [
        Evaluation(
            name=name,
            folder=folder,
            rows=results_folder.read_results(folder),
            settings=results_folder.recorded_settings(folder),
        )
        for name, folder in zip(
            distinct_names([folder.resolve() for folder in folders]), folders, strict=True
        )
    ]
    for other in evaluations[1:]:
        check_same_problems(evaluations[0], other)
    return evaluations


def check_same_problems(first: Evaluation, other: Evaluation) -> None:
    """UserError if two folders do not hold the same problems; it names some of them."""
    cannot = f"{first.folder} and {other.folder} cannot be compared"
    if unshared := sorted(first.rows.keys() ^ other.rows.keys()):
        raise UserError(
            f"{cannot}: only one of them has {', '.join(unshared)}; evaluate both on the same "
            "benchmarks"
        )
    for benchmark, problems in first.rows.items():
        others = other.rows[benchmark]
        unshared = sorted(problems.keys() ^ others.keys())
        changed = [
            key
            for key, rows in problems.items()
            if key in others and text_and_gold(rows) != text_and_gold(others[key])
        ]
        if ids := unshared or changed:
            what = "exist in only one of them" if unshared else "have another text or gold"
            some = ", ".join(ids[:5]) + ", ..." * (len(ids) > 5)
            raise UserError(f"{cannot}: {len(ids)} problems of {benchmark} {what}: {some}")


def text_and_gold(rows: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    """A problem's text and gold. Its prompt may differ, since models have different templates."""
    return rows[0].get("problem"), rows[0]["gold"]


def settings_notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Which settings differ from the first folder's: they may explain a difference in scores."""
    first, notes = evaluations[0], []
    for other in evaluations[1:]:
        differences = [
            f"{key} ({one} and {two})"
            for key, one, two in results_folder.differing(first.settings, other.settings)
            if key != "weights" and not key.endswith(".digest")
        ]
        if differences:
            some = printable("; ".join(differences[:6]))
            notes.append(f"note: {first.name} and {other.name} differ in {some}")
    return notes


def conclusions(evaluations: Sequence[Evaluation]) -> list[str]:
    """The rule by which each checkpoint was selected, if known: state it with every number. Then
    the difference of each folder to the first, in words."""
    first = evaluations[0]
    lines = [
        f"{one.name}: which checkpoint: {printable(str(one.settings['which']))}"
        for one in evaluations
        if one.settings.get("which")
    ]
    for other in evaluations[1:]:
        for benchmark, one in avg_differences(first, other).items():
            start = (
                f"{printable(benchmark)}: {other.name} - {first.name} {100 * one.mean:+.2f} points"
            )
            word = direction(one.low, one.high)
            if word == "not measured":
                lines.append(f"{start}, not measured: one problem")
                continue
            interval = f"95% [{100 * one.low:+.2f}, {100 * one.high:+.2f}], {one.n} problems"
            verb = "" if word == "not distinguishable" else f"{other.name} is "
            lines.append(f"{start}, {interval}: {verb}{word}")
    return lines


def averages(evaluation: Evaluation) -> dict[str, MeanEstimate]:
    """avg@k by benchmark, and their mean if there are several."""
    estimates = {
        name: estimate_mean(list(problem_means(problems).values()))
        for name, problems in evaluation.rows.items()
    }
    if len(estimates) > 1:
        estimates[MEAN] = mean_of_estimates(list(estimates.values()))
    return estimates


def problem_means(problems: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    return {key: finite_mean([is_correct(row) for row in rows]) for key, rows in problems.items()}


def avg_differences(first: Evaluation, other: Evaluation) -> dict[str, BootstrapDifference]:
    """avg@k of `other` minus that of `first`, by benchmark, and the mean if there are several."""
    pairs = {}
    for name, problems in first.rows.items():
        means, others = problem_means(problems), problem_means(other.rows[name])
        pairs[name] = [others[key] - means[key] for key in means]
    differences, overall = paired_bootstrap(pairs)
    return differences | ({MEAN: overall} if len(differences) > 1 else {})


def table(
    evaluations: Sequence[Evaluation],
    escape_name: Callable[[str], str],
    marks: tuple[str, str, str],
    plus_minus: str = "±",
) -> list[list[str]]:
    """The header, and a row of cells for each folder.

    marks: the formats of a cell, of the best printed number of a column, and of the second. A
    single folder has neither.
    """
    estimates = [averages(one) for one in evaluations]
    header, *rows = [[""], *([escape_name(one.name)] for one in evaluations)]
    for column in estimates[0]:
        header.append(escape_name(printable(column)))
        texts = [percent(one[column]) for one in estimates]
        numbers = [float(text.partition(" ")[0]) for text in texts]
        ranks = dict(zip(sorted(set(numbers), reverse=True)[:2], marks[1:], strict=False))
        for row, text, number in zip(rows, texts, numbers, strict=True):
            mark = ranks.get(number, marks[0]) if len(rows) > 1 else marks[0]
            row.append(mark.format(text.replace("±", plus_minus)))
    return [header, *rows]


def markdown(evaluations: Sequence[Evaluation]) -> str:
    header, *rows = table(evaluations, markdown_text, ("{}", "**{}**", "<u>{}</u>"))
    items = "\n".join(
        f"- {markdown_text(line)}"
        for line in [*settings_notes(evaluations), *conclusions(evaluations)]
    )
    several = len(evaluations) > 1
    caption = f"{CAPTION} {RANKING}" if several else CAPTION
    parts = [markdown_table(header, rows), caption, items, METHOD * several]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column is aligned left, all others right."""
    return tabulate(
        rows,
        headers=header,
        tablefmt="pipe",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(header) - 1)),
    )


def markdown_text(text: str) -> str:
    """Escape Markdown and HTML: cell borders, tags, emphasis, links and images. An underscore
    inside a word needs no escape."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\|*`~]|\](?=\()|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def latex(evaluations: Sequence[Evaluation]) -> str:
    """A booktabs table, followed by notes and differences as comments."""
    marks = ("${}$", "$\\mathbf{{{}}}$", "$\\underline{{{}}}$")
    header, *rows = table(evaluations, latex_text, marks, plus_minus="\\pm")
    several, notes = len(evaluations) > 1, settings_notes(evaluations)
    lines = [CAPTION, RANKING * several, *notes, *conclusions(evaluations), METHOD * several]
    return latex_table(header, rows) + "".join(f"% {line}\n" for line in lines if line)


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs table of cells in LaTeX."""
    import pandas  # slow to import

    return pandas.DataFrame(rows, columns=list(header)).to_latex(
        index=False, escape=False, column_format="l" + "r" * (len(header) - 1)
    )


def latex_text(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special["["] = "{[}"  # at the start of a row LaTeX would read [...] as a length
    return re.sub(r"[\\~^&%$#_{}[]", lambda match: special.get(match[0], f"\\{match[0]}"), text)


def terminal_table(evaluations: Sequence[Evaluation]) -> Table:
    header, *rows = table(evaluations, escape, ("{}", "[bold]{}[/]", "[underline]{}[/]"))
    columns = [Column(name, justify="right") for name in header[1:]]
    shown = Table(Column("", no_wrap=True), *columns)
    for row in rows:
        shown.add_row(*row)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m asymrl.evaluation.compare",
        description="Compares evaluations problem by problem; each folder with the first one.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="a folder that eval.py wrote"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a Markdown table")
    parser.add_argument("--latex", type=Path, metavar="FILE", help="write a LaTeX table (booktabs)")
    return exit_code(partial(compare_folders, parser.parse_args(argv)))


def compare_folders(arguments: argparse.Namespace) -> None:
    evaluations = load_evaluations(arguments.folders)
    for file, render in ((arguments.markdown, markdown), (arguments.latex, latex)):
        if file:
            write_file(file, render(evaluations))
    console = Console(highlight=False, soft_wrap=True)
    console.print(terminal_table(evaluations))
    for note in settings_notes(evaluations):
        print(note, file=sys.stderr)
    for line in conclusions(evaluations):
        console.print(line, markup=False)
    if len(evaluations) > 1:
        console.print(METHOD, markup=False)


def write_file(file: Path, content: str) -> None:
    try:
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
