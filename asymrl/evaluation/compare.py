"""Compares evaluations: `python -m asymrl.evaluation.compare DIR [DIR...]`.

Every folder is compared with the first, problem by problem. Knows the folders that eval.py wrote
and how to draw tables; what may be said of a difference is scores.py.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from asymrl.errors import UserError, printable
from asymrl.evaluation import results_folder, scores
from asymrl.evaluation.scores import Difference, Estimate
from asymrl.files import write_atomically
from asymrl.types import frozen

MEAN = "mean"
METHOD = (
    "95% intervals of paired differences: bootstrap over problems, widened where they are few, "
    f"{scores.RESAMPLES:,} resamples, seed {scores.SEED}; each for itself, not corrected for "
    "their number."
)
CELLS = "avg@k in percent ± standard error over problems."
MARKS = (
    "Best bold, second underlined, by the printed number; whether they differ is another question."
)


@frozen
class Evaluation:
    """One folder. rows: benchmark -> problem id -> its samples."""

    name: str
    folder: Path
    rows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    settings: Mapping[str, Any]


def load_evaluation(folders: Sequence[Path]) -> list[Evaluation]:
    """UserError where a folder is given twice, is not finished, or its problems are not those of
    the first."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a folder is given twice; give each once")
    found = [
        Evaluation(
            name=name,
            folder=folder,
            rows=results_folder.read_results(folder),
            settings=results_folder.recorded_settings(folder) or {},
        )
        for name, folder in zip(names(folders), folders, strict=True)
    ]
    for other in found[1:]:
        check_same_problems(found[0], other)
    return found


def names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        short = ["/".join(part[-count:]) for part in parts]
        if len(set(short)) == len(short):
            return [printable(name) for name in short]
    return [printable(str(folder)) for folder in folders]


def check_same_problems(one: Evaluation, other: Evaluation) -> None:
    """UserError where two folders do not hold the same problems, naming some."""
    both = f"{one.folder} and {other.folder}"
    if lone := sorted(one.rows.keys() ^ other.rows.keys()):
        raise UserError(
            f"{both} cannot be compared: only one of them has {', '.join(lone)}; evaluate both on "
            "the same benchmarks"
        )
    for benchmark, ours in one.rows.items():
        theirs = other.rows[benchmark]
        lone = sorted(ours.keys() ^ theirs.keys())
        asked = [key for key in ours if key in theirs and text(ours[key]) != text(theirs[key])]
        if lone or asked:
            what = "only one of them has" if lone else "they ask otherwise under the same name"
            some = ", ".join((lone or asked)[:5]) + ", ..." * (len(lone or asked) > 5)
            raise UserError(
                f"{both} cannot be compared: of {benchmark}, {what} {len(lone or asked)} problems: "
                f"{some}"
            )


def text(rows: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    """What a problem asks and its gold; prompts may differ, since models have templates."""
    return rows[0].get("problem"), rows[0]["gold"]


def notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Which settings were not the same: differences are of those too."""
    first, said = evaluations[0], []
    for other in evaluations[1:]:
        pairs = results_folder.differing(first.settings, other.settings)
        found = [
            f"{key} {one} and {two}"
            for key, one, two in pairs
            if key != "weights" and not key.endswith(".digest")
        ]
        if found:
            some = printable("; ".join(found[:6]))
            said.append(f"{first.name} and {other.name} differ in {some}")
    return said


def rules(evaluations: Sequence[Evaluation]) -> list[str]:
    """By which rule each checkpoint was chosen, where that is known: no number without it."""
    known = [(one.name, one.settings.get("which")) for one in evaluations]
    return [f"{name}: which checkpoint: {printable(str(which))}" for name, which in known if which]


def averages(one: Evaluation) -> dict[str, Estimate]:
    """avg@k by benchmark, and their mean where there are several."""
    found = {
        name: scores.estimate(list(problem_means(problems).values()))
        for name, problems in one.rows.items()
    }
    mean = {MEAN: scores.over_benchmarks(list(found.values()))} if len(found) > 1 else {}
    return found | mean


def problem_means(problems: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    return {
        key: scores.share([row["reason"] == "correct" for row in rows])
        for key, rows in problems.items()
    }


def differences(one: Evaluation, other: Evaluation) -> dict[str, Difference]:
    """Of avg@k, `other` less `one`, by benchmark, and of their mean where there are several."""
    pairs = {}
    for name, problems in one.rows.items():
        ours, theirs = problem_means(problems), problem_means(other.rows[name])
        pairs[name] = [theirs[key] - ours[key] for key in ours]
    found, mean = scores.bootstrap(pairs)
    return found | ({MEAN: mean} if len(found) > 1 else {})


def sentences(evaluations: Sequence[Evaluation]) -> list[str]:
    """In plain words, of every other folder against the first."""
    first, said = evaluations[0], []
    for other in evaluations[1:]:
        for benchmark, one in differences(first, other).items():
            name = printable(benchmark)
            points = f"{100 * one.value:+.2f} points"
            if (word := scores.word(one)) == "not measured":
                said.append(f"{name}: {other.name} - {first.name} {points}, {word}: one problem")
                continue
            interval = f"[{100 * one.low:+.2f}, {100 * one.high:+.2f}], {one.problems} problems"
            what = word if word == "not distinguishable" else f"{other.name} is {word}"
            said.append(f"{name}: {other.name} - {first.name} {points}, 95% {interval}: {what}")
    return said


Cells = list[list[tuple[str, int]]]


def cells(evaluations: Sequence[Evaluation]) -> tuple[list[str], Cells]:
    """Columns, and per folder a (text, rank) each. Rank 1: the best printed number of its column,
    2: the second; 0: neither, or nothing to compare with."""
    found = [averages(one) for one in evaluations]
    columns = list(found[0])
    drawn: Cells = [[] for _ in found]
    for column in columns:
        printed = [f"{100 * of[column].value:.2f}" for of in found]
        ranked = sorted({float(number) for number in printed}, reverse=True)[:2]
        for row, of, number in zip(drawn, found, printed, strict=True):
            error = scores.finite(of[column].stderr)
            shown = number if error is None else f"{number} ± {100 * error:.2f}"
            best = float(number) in ranked and len(found) > 1
            row.append((shown, ranked.index(float(number)) + 1 if best else 0))
    return [printable(column) for column in columns], drawn


def markdown(evaluations: Sequence[Evaluation]) -> str:
    marks = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    columns, drawn = cells(evaluations)
    lines = [["", *map(markdown_text, columns)], ["---", *["---:"] * len(columns)]]
    for one, row in zip(evaluations, drawn, strict=True):
        lines.append([markdown_text(one.name), *marked(row, marks)])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    said = "\n".join(f"- {markdown_text(sentence)}" for sentence in below(evaluations))
    several = len(evaluations) > 1
    parts = [f"{CELLS} {MARKS}" if several else CELLS, said, METHOD if several else ""]
    return f"{table}\n" + "\n\n".join(part for part in parts if part) + "\n"


def below(evaluations: Sequence[Evaluation]) -> list[str]:
    """What a table alone would hide: which checkpoints these are, which settings differ, and what
    may be said of it."""
    return [
        *rules(evaluations),
        *(f"note: {note}" for note in notes(evaluations)),
        *sentences(evaluations),
    ]


def markdown_text(plain: str) -> str:
    """Names are no markup: neither a column's end, nor HTML, emphasis, a link or an image. An
    underscore within a word is none."""
    plain = plain.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\|*`~]|\](?=\()|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", plain)


def latex(evaluations: Sequence[Evaluation]) -> str:
    """A booktabs table, and below it, as comments, what may be said of it."""
    marks = {0: "${}$", 1: "$\\mathbf{{{}}}$", 2: "$\\underline{{{}}}$"}
    columns, drawn = cells(evaluations)
    head = [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
    head.append(" & ".join(["", *map(latex_text, columns)]) + " \\\\")
    body = [
        " & ".join([latex_text(one.name), *marked(row, marks, latex_number)]) + " \\\\"
        for one, row in zip(evaluations, drawn, strict=True)
    ]
    marked_so, how = ([MARKS], [METHOD]) if len(evaluations) > 1 else ([], [])
    comments = [CELLS, *marked_so, *below(evaluations), *how]
    lines = [
        *head,
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}",
        *(f"% {line}" for line in comments),
    ]
    return "\n".join(lines) + "\n"


def marked(
    row: Sequence[tuple[str, int]], marks: Mapping[int, str], write: Callable[[str], str] = str
) -> list[str]:
    return [marks[rank].format(write(shown)) for shown, rank in row]


def latex_number(shown: str) -> str:
    return shown.replace(" ± ", " \\pm ")


def latex_text(plain: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special["["] = "{[}"  # after a row's end it would be read as a length
    return re.sub(r"[\\~^&%$#_{}[]", lambda found: special.get(found[0], f"\\{found[0]}"), plain)


def table(evaluations: Sequence[Evaluation]) -> Table:
    marks = {0: "{}", 1: "[bold]{}[/]", 2: "[underline]{}[/]"}
    columns, drawn = cells(evaluations)
    shown = Table(Column("", no_wrap=True), *(Column(escape(c), justify="right") for c in columns))
    for one, row in zip(evaluations, drawn, strict=True):
        shown.add_row(escape(one.name), *marked(row, marks))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m asymrl.evaluation.compare", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="what eval.py wrote")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table, in Markdown")
    parser.add_argument("--latex", type=Path, metavar="FILE", help="the table, in LaTeX (booktabs)")
    arguments = parser.parse_args(argv)
    try:
        evaluations = load_evaluation(arguments.folders)
        for file, write in ((arguments.markdown, markdown), (arguments.latex, latex)):
            if file:
                written(file, write(evaluations))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(highlight=False, soft_wrap=True)
    console.print(table(evaluations))
    for note in notes(evaluations):
        print(f"note: {note}", file=sys.stderr)
    for sentence in [*rules(evaluations), *sentences(evaluations)]:
        console.print(sentence, markup=False)
    if len(evaluations) > 1:
        console.print(METHOD, markup=False)
    return 0


def written(file: Path, content: str) -> None:
    try:
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
