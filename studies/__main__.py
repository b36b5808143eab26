"""The command line of studies: plan, run, report. See the package's docstring."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from asymrl.errors import UserError
from asymrl.run.exit_codes import exit_code
from asymrl.types import frozen
from studies import claims, hypotheses, methods, paper, probe_report, tables
from studies.jobs import (
    BONUS_ARMS,
    CALIBRATION_SEED,
    GRID_ARMS,
    RIVAL_ROWS,
    SCHEDULED,
    TASKS,
    UNTRAINED,
    Arm,
    Job,
    make_jobs,
)
from studies.results import Result, find_results
from studies.runs import run_all

Report = Callable[[Path, Mapping[str, Sequence[Result]]], list[Path]]


@frozen
class Study:
    """arms, seeds: by task. more: task -> arms that run with more seeds, and how many. first_seed:
    of every task. report: (folder of the page, results by task) -> the files that it wrote."""

    name: str
    page: str
    arms: Mapping[str, Sequence[Arm]]
    seeds: Mapping[str, int]
    more: Mapping[str, tuple[Sequence[str], int]]
    report: Report
    first_seed: int = 0

    def jobs(self, tasks: Sequence[str], seeds: int | None) -> list[Job]:
        jobs = []
        for task in tasks:
            count = seeds or self.seeds[task]
            numbers = range(self.first_seed, self.first_seed + count)
            jobs += make_jobs(task, self.arms[task], numbers)
            if task in self.more and not seeds:
                names, most = self.more[task]
                arms = [arm for arm in self.arms[task] if arm.name in ("untrained", *names)]
                jobs += make_jobs(task, arms, range(self.seeds[task], most))
        return jobs


TABLE_ARMS = (*hypotheses.POCKET_ARMS[:14], *RIVAL_ROWS, *SCHEDULED)
STUDIES = {
    study.name: study
    for study in (
        Study(
            name="claims",
            page="the paper's statements, decided -> docs/claims.md",
            arms=hypotheses.ARMS,
            seeds=hypotheses.SEEDS,
            more=hypotheses.MORE_SEEDS,
            report=claims.report_claims,
        ),
        Study(
            name="table2",
            page="the paper's table on the pocket task -> docs/table2.md",
            arms={"pocket": TABLE_ARMS},
            seeds={"pocket": 8},
            more={},
            report=tables.report_table2,
        ),
        Study(
            name="grid",
            page="accuracy over beta_pos x beta_neg -> docs/grid.md",
            arms={"pocket": GRID_ARMS},
            seeds={"pocket": 8},
            more={},
            report=tables.report_grid,
        ),
        Study(
            name="methods",
            page="every row on the pocket task -> docs/methods.md",
            arms={"pocket": (UNTRAINED, *methods.ARMS)},
            seeds={"pocket": 8},
            more={},
            report=methods.report_methods,
        ),
        Study(
            name="bonus",
            page="calibration of the entropy bonus -> docs/bonus.md",
            arms={"pocket": BONUS_ARMS, "pocket_short": BONUS_ARMS},
            seeds={"pocket": 2, "pocket_short": 2},
            more={},
            report=tables.report_bonus,
            first_seed=CALIBRATION_SEED,
        ),
    )
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m studies",
        description="Run many small runs and write what they show.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {name: study.page for name, study in STUDIES.items()} | {
        "plan": "print what would run; run nothing",
        "report": "write the page from the results so far; run nothing",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        if name not in STUDIES:
            pages = (*STUDIES, "probe") if name == "report" else tuple(STUDIES)
            command.add_argument("study", choices=pages)
        command.add_argument("--tasks", nargs="+", choices=tuple(TASKS), help="default: all")
        command.add_argument("--arms", nargs="+", help="by name; default: all")
        command.add_argument("--seeds", type=int, help="per task; default: the study's own")
        command.add_argument(
            "--jobs", type=int, help="runs at a time, all on the CPU; default: its cores"
        )
        command.add_argument(
            "--out", type=Path, default=Path("runs/study"), help="folder for the runs"
        )
        command.add_argument(
            "--docs", type=Path, default=Path("docs"), help="folder for the page and results/"
        )
    table = commands.add_parser("paper-table", help="the paper's table of a model, from runs/")
    table.add_argument("model", help="for example qwen3_4b")
    table.add_argument("--runs", type=Path, default=Path("runs"), help="default: runs")
    table.add_argument("--out", type=Path, help="default: RUNS/table2-<MODEL>.md")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(partial(run, parse(argv)))


def run(arguments: argparse.Namespace) -> int:
    if arguments.command == "paper-table":
        write_paper_table(arguments)
        return 0
    if getattr(arguments, "study", None) == "probe":
        print(*probe_report.write_page(arguments.docs), sep="\n")
        return 0
    for name, most in (("seeds", CALIBRATION_SEED), ("jobs", 1000)):
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= most:
            raise UserError(f"--{name} must be from 1 to {most} (got {value})")
    study = STUDIES[getattr(arguments, "study", arguments.command)]
    if other := [task for task in arguments.tasks or () if task not in study.arms]:
        raise UserError(
            f"--tasks {other[0]}: the study {study.name} has only {', '.join(study.arms)}"
        )
    jobs = study.jobs(arguments.tasks or tuple(study.arms), arguments.seeds)
    if arguments.arms:
        jobs = select_arms(jobs, arguments.arms)
    rows = arguments.docs / "results"
    if arguments.command == "plan":
        print(plan(study, jobs, rows))
        return 0
    for flag, folder in (("--out", arguments.out), ("--docs", rows)):
        make_folder(flag, folder)
    if arguments.command != "report":
        workers = arguments.jobs or os.cpu_count() or 1
        failures = run_all(jobs, workers, arguments.out, rows)
        if failures:
            print(
                f"error: {len(failures)} of {len(jobs)} runs failed; the same command runs them "
                "again",
                file=sys.stderr,
            )
            return 1
        if arguments.arms or arguments.tasks:
            print(f"`python -m studies report {study.name}` writes the page")
            return 0
    return write_page(study, jobs, arguments.docs)


def select_arms(jobs: Sequence[Job], names: Sequence[str]) -> list[Job]:
    known = dict.fromkeys(job.arm.name for job in jobs)
    if other := [name for name in names if name not in known]:
        raise UserError(f"--arms {other[0]} is not in this study; valid are {', '.join(known)}")
    return [job for job in jobs if job.arm.name in names]


def write_page(study: Study, jobs: Sequence[Job], docs: Path) -> int:
    done = find_results(jobs, docs / "results")
    by_task = {task: [one for one in done.values() if one.task == task] for task in study.arms}
    if not done:
        raise UserError(f"{docs / 'results'} has no result of the study {study.name}")
    for file in study.report(docs, {task: runs for task, runs in by_task.items() if runs}):
        print(file)
    return 0


def write_paper_table(arguments: argparse.Namespace) -> None:
    out = arguments.out or arguments.runs / f"table2-{arguments.model}.md"
    make_folder("--out", out.parent)
    if out.is_dir():
        raise UserError(f"--out must be a file; {out} is a folder")
    print(paper.write(arguments.model, arguments.runs, out))


def make_folder(flag: str, folder: Path) -> None:
    """Create the folder before any run, so that hours of runs do not end in a write error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be created: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{flag} {folder} is not writable")


def plan(study: Study, jobs: Sequence[Job], rows: Path) -> str:
    """What would run."""
    done = find_results(jobs, rows)
    lines = [f"{study.name}: {len(jobs)} runs, {len(done)} already done"]
    for task in dict.fromkeys(job.task for job in jobs):
        lines.append(f"{task}:")
        arms = dict.fromkeys(job.arm for job in jobs if job.task == task)
        for arm in arms:
            ours = [job for job in jobs if job.task == task and job.arm == arm]
            finished = sum(job in done for job in ours)
            words = f"{ours[0].config} {' '.join(arm.overrides)}".rstrip()
            lines.append(f"  {finished}/{len(ours)} {arm.name}: {words}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
