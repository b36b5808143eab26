"""Compares evaluations: `python -m asymrl.evaluation.compare DIR [DIR...]`.

A folder is an evaluation, or an arm: a folder of seeds, each with an evaluation of its own. Each is
compared with the first one: evaluations problem by problem, arms seed by seed. Knows the folders
that eval.py and training write and how to print tables; statistics.py defines the intervals.
"""

from __future__ import annotations

import argparse
import glob
import itertools
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
from asymrl.report.runs import GREEDY
from asymrl.run.exit_codes import exit_code
from asymrl.statistics import (
    RESAMPLE_SEED,
    RESAMPLES,
    BootstrapDifference,
    MeanEstimate,
    PairedTest,
    direction,
    estimate_mean,
    finite_mean,
    mean_of_estimates,
    paired_bootstrap,
    paired_test,
)
from asymrl.types import frozen

MEAN, SEED = "mean", "seed"
STARTED = (results_folder.SETTINGS_FILE, "config.yaml")  # of an evaluation, of a run
NOT_CORRECTED = "not corrected for the number of comparisons."
METHODS = {
    "problems": "95% intervals of paired differences: bootstrap over problems, widened for few "
    f"problems, {RESAMPLES:,} resamples, seed {RESAMPLE_SEED}; {NOT_CORRECTED}",
    "seeds": "95% t intervals of paired differences over seeds, on these problems; a single "
    f"evaluation counts as exact; {NOT_CORRECTED}",
}
CAPTIONS = {
    "problems": "avg@k in percent ± standard error over problems.",
    "seeds": "avg@k in percent, mean over seeds ± standard error over seeds; a single evaluation "
    "has none.",
}
RANKING = (
    "The best printed number of a column is bold, the second underlined; that does not mean that "
    "they differ."
)


@frozen
class Evaluation:
    """One folder. rows: benchmark -> problem id -> its samples."""

    folder: Path
    rows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    settings: Mapping[str, Any]


@frozen
class Arm:
    """What is compared. seeds: name of a seed's folder -> its evaluation; an evaluation that is
    compared by itself is the only one."""

    name: str
    seeds: Mapping[str, Evaluation]

    @property
    def first(self) -> Evaluation:
        return next(iter(self.seeds.values()))


def load_arms(folders: Sequence[Path], setting: str = GREEDY) -> list[Arm]:
    """UserError if a folder is named twice, is not finished, or has other problems than the
    first. setting: in eval.sampling, for folders of runs."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a folder is given twice; give each folder once")
    names = distinct_names([folder.resolve() for folder in folders])
    arms = [
        Arm(
            name=name,
            seeds={
                seed: load_evaluation(found) for seed, found in find_seeds(folder, setting).items()
            },
        )
        for name, folder in zip(names, folders, strict=True)
    ]
    for arm in arms:
        for evaluation in arm.seeds.values():
            check_same_problems(arms[0].first, evaluation)
    return arms


def find_seeds(folder: Path, setting: str) -> dict[str, Path]:
    """The folders with the evaluations of an arm, by seed. UserError for a seed without one."""
    if (found := find_evaluation(folder, setting)) or not folder.is_dir():
        return {folder.name: found or folder}
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    seeds = {child: find_evaluation(child, setting) for child in children}
    evaluated = {child.name: found for child, found in seeds.items() if found}
    for child, found in seeds.items():
        if not found and any((child / name).exists() for name in STARTED):
            raise UserError(
                f"{child} has neither {results_folder.SUMMARY_FILE} nor eval/step-*/{setting}: its "
                "evaluation is not finished, or --setting names another one"
            )
    return evaluated or {folder.name: folder}


def find_evaluation(folder: Path, setting: str) -> Path | None:
    """The folder itself if it holds a finished evaluation, or the last one of a run, or None."""
    finished = results_folder.SUMMARY_FILE
    if (folder / finished).is_file():
        return folder
    found = sorted(folder.glob(f"eval/step-*/{glob.escape(setting)}/{finished}"))
    return found[-1].parent if found else None


def load_evaluation(folder: Path) -> Evaluation:
    """Of an evaluation in training, the step is one of the settings."""
    _, is_step, step = folder.parent.name.partition("step-")
    return Evaluation(
        folder=folder,
        rows=results_folder.read_results(folder),
        settings=results_folder.recorded_settings(folder)
        | ({"step": int(step)} if is_step and step.isdecimal() else {}),
    )


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


def settings_notes(arms: Sequence[Arm]) -> list[str]:
    """Which settings differ from the first folder's, and between the seeds of an arm: they may
    explain a difference in scores."""
    first = arms[0]
    pairs = [(f"{first.name} and {arm.name} differ in", first.first, arm.first) for arm in arms[1:]]
    pairs += [
        (f"{seed} of {arm.name} differs from its first seed in", arm.first, evaluation)
        for arm in arms
        for seed, evaluation in arm.seeds.items()
    ]
    notes, seeds = [], [SEED] * (unit(arms) == "seeds")
    for words, one, other in pairs:
        differences = [
            f"{key} ({old} and {new})"
            for key, old, new in results_folder.differing(one.settings, other.settings)
            if key not in ("weights", *seeds) and not key.endswith(".digest")
        ]
        if differences:
            notes.append(f"note: {words} {printable('; '.join(differences[:6]))}")
    return notes


def unit(arms: Sequence[Arm]) -> str:
    """What standard errors are over: seeds if an arm has several, else problems."""
    return "seeds" if any(len(arm.seeds) > 1 for arm in arms) else "problems"


def methods(arms: Sequence[Arm]) -> str:
    """How the differences were computed; empty for a single folder."""
    units = dict.fromkeys(unit([arms[0], other]) for other in arms[1:])
    return " ".join(METHODS[name] for name in units)


def conclusions(arms: Sequence[Arm]) -> list[str]:
    """The rule by which each checkpoint was selected, if known: state it with every number. Then
    the difference of each folder to the first, in words."""
    first = arms[0]
    rules = [
        (arm.name, str(evaluation.settings["which"]))
        for arm in arms
        for evaluation in arm.seeds.values()
        if evaluation.settings.get("which")
    ]
    lines = [f"{name}: which checkpoint: {printable(rule)}" for name, rule in dict.fromkeys(rules)]
    for other in arms[1:]:
        over = unit([first, other])
        for benchmark, one in avg_differences(first, other).items():
            start = (
                f"{printable(benchmark)}: {other.name} - {first.name} {100 * one.mean:+.2f} points"
            )
            word = direction(one.low, one.high)
            if word == "not measured":
                lines.append(f"{start}, not measured: one {over[:-1]}")
                continue
            interval = f"95% [{100 * one.low:+.2f}, {100 * one.high:+.2f}], {one.n} {over}"
            verb = "" if word == "not distinguishable" else f"{other.name} is "
            lines.append(f"{start}, {interval}: {verb}{word}")
    return lines


def averages(arm: Arm, over: str) -> dict[str, MeanEstimate]:
    """avg@k by benchmark, and their mean if there are several, with errors over seeds or over
    problems."""
    if over == "seeds":
        scores = [*map(seed_scores, arm.seeds.values())]
        return {name: estimate_mean([one[name] for one in scores]) for name in scores[0]}
    estimates = {
        name: estimate_mean(list(problem_means(problems).values()))
        for name, problems in arm.first.rows.items()
    }
    if len(estimates) > 1:
        estimates[MEAN] = mean_of_estimates(list(estimates.values()))
    return estimates


def seed_scores(evaluation: Evaluation) -> dict[str, float]:
    """avg@k by benchmark, and their mean if there are several."""
    scores = {
        name: finite_mean([*problem_means(problems).values()])
        for name, problems in evaluation.rows.items()
    }
    return scores | ({MEAN: finite_mean([*scores.values()])} if len(scores) > 1 else {})


def problem_means(problems: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    return {key: finite_mean([is_correct(row) for row in rows]) for key, rows in problems.items()}


def avg_differences(first: Arm, other: Arm) -> Mapping[str, BootstrapDifference | PairedTest]:
    """avg@k of `other` minus that of `first`, by benchmark, and the mean if there are several."""
    if unit([first, other]) == "seeds":
        return seed_differences(first, other)
    pairs = {}
    for name, problems in first.first.rows.items():
        means, others = problem_means(problems), problem_means(other.first.rows[name])
        pairs[name] = [others[key] - means[key] for key in means]
    differences, overall = paired_bootstrap(pairs)
    return differences | ({MEAN: overall} if len(differences) > 1 else {})


def seed_differences(first: Arm, other: Arm) -> dict[str, PairedTest]:
    """Of the seeds that both have. A single evaluation is paired with every seed of the other."""
    pairs = [(one, other.seeds[seed]) for seed, one in first.seeds.items() if seed in other.seeds]
    if min(len(first.seeds), len(other.seeds)) == 1:
        pairs = [*itertools.product(first.seeds.values(), other.seeds.values())]
    if not pairs:
        raise UserError(
            f"{first.name} and {other.name} have no seed in common ({', '.join(first.seeds)} and "
            f"{', '.join(other.seeds)}); arms are compared seed by seed"
        )
    scores = [(seed_scores(one), seed_scores(two)) for one, two in pairs]
    return {
        name: paired_test([theirs[name] - ours[name] for ours, theirs in scores])
        for name in scores[0][0]
    }


def table(
    arms: Sequence[Arm],
    escape_name: Callable[[str], str],
    marks: tuple[str, str, str],
    plus_minus: str = "±",
) -> list[list[str]]:
    """The header, and a row of cells for each folder.

    marks: the formats of a cell, of the best printed number of a column, and of the second. A
    single folder has neither.
    """
    estimates = [averages(arm, unit(arms)) for arm in arms]
    header, *rows = [[""], *([escape_name(arm.name)] for arm in arms)]
    for column in estimates[0]:
        header.append(escape_name(printable(column)))
        texts = [percent(one[column]) for one in estimates]
        numbers = [float(text.partition(" ")[0]) for text in texts]
        ranks = dict(zip(sorted(set(numbers), reverse=True)[:2], marks[1:], strict=False))
        for row, text, number in zip(rows, texts, numbers, strict=True):
            mark = ranks.get(number, marks[0]) if len(rows) > 1 else marks[0]
            row.append(mark.format(text.replace("±", plus_minus)))
    return [header, *rows]


def markdown(arms: Sequence[Arm]) -> str:
    header, *rows = table(arms, markdown_text, ("{}", "**{}**", "<u>{}</u>"))
    items = "\n".join(
        f"- {markdown_text(line)}" for line in [*settings_notes(arms), *conclusions(arms)]
    )
    caption = CAPTIONS[unit(arms)] + f" {RANKING}" * (len(arms) > 1)
    parts = [markdown_table(header, rows), caption, items, methods(arms)]
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


def latex(arms: Sequence[Arm]) -> str:
    """A booktabs table, followed by notes and differences as comments."""
    marks = ("${}$", "$\\mathbf{{{}}}$", "$\\underline{{{}}}$")
    header, *rows = table(arms, latex_text, marks, plus_minus="\\pm")
    notes, ranking = settings_notes(arms), RANKING * (len(arms) > 1)
    lines = [CAPTIONS[unit(arms)], ranking, *notes, *conclusions(arms), methods(arms)]
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


def terminal_table(arms: Sequence[Arm]) -> Table:
    header, *rows = table(arms, escape, ("{}", "[bold]{}[/]", "[underline]{}[/]"))
    columns = [Column(name, justify="right") for name in header[1:]]
    shown = Table(Column("", no_wrap=True), *columns)
    for row in rows:
        shown.add_row(*row)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m asymrl.evaluation.compare",
        description="Compares evaluations problem by problem, or arms seed by seed; each with the "
        "first one.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="an evaluation, a run, or a folder of seeds",
    )
    parser.add_argument(
        "--setting",
        default=GREEDY,
        help="of a run: which evaluation of its last evaluated step, a name in eval.sampling "
        "(default: %(default)s)",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a Markdown table")
    parser.add_argument("--latex", type=Path, metavar="FILE", help="write a LaTeX table (booktabs)")
    return exit_code(partial(compare_folders, parser.parse_args(argv)))


def compare_folders(arguments: argparse.Namespace) -> None:
    arms = load_arms(arguments.folders, arguments.setting)
    for file, render in ((arguments.markdown, markdown), (arguments.latex, latex)):
        if file:
            write_file(file, render(arms))
    console = Console(highlight=False, soft_wrap=True, force_jupyter=False)
    console.print(terminal_table(arms))
    for note in settings_notes(arms):
        print(note, file=sys.stderr)
    for line in conclusions(arms):
        console.print(line, markup=False)
    if len(arms) > 1:
        console.print(methods(arms), markup=False)


def write_file(file: Path, content: str) -> None:
    try:
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
