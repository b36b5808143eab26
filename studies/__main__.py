"""The command line of studies: plan, run, report. See the package's docstring."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from asymrl.errors import UserError
from asymrl.run.exit_codes import exit_code
from asymrl.types import frozen
from studies import paper, tables
from studies.jobs import BASE, GRID_ARMS, MIXES, SCHEDULED, TABLE_ROWS, Arm, Job
from studies.jobs import jobs as make_jobs
from studies.runs import done, run_all


@frozen
class Study:
    """seeds: the default. report: (jobs, run folders, docs, command line) -> the files that it
    wrote."""

    name: str
    arms: tuple[Arm, ...]
    mixes: tuple[str, ...]
    seeds: int
    report: Callable[[Sequence[Job], Path, Path, str], list[Path]]

    def jobs(self, seeds: int, out: Path, steps: int | None) -> list[Job]:
        return make_jobs(self.arms, self.mixes, seeds, out, steps)


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="table2",
            arms=(BASE, *TABLE_ROWS, *SCHEDULED),
            mixes=tuple(MIXES),
            seeds=8,
            report=tables.report_table2,
        ),
        Study(
            name="grid",
            arms=GRID_ARMS,
            mixes=tuple(MIXES),
            seeds=2,
            report=tables.report_grid,
        ),
    )
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies", description="Run many pocket runs and write what they show."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "table2": "the paper's table on the pocket task -> table2-pocket.md",
        "grid": "accuracy over beta_pos x beta_neg -> grid-pocket.md",
        "plan": "print what would run; run nothing",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        if name == "plan":
            command.add_argument("study", choices=tuple(STUDIES))
        command.add_argument("--seeds", type=int, help="default: 8; grid: 2")
        command.add_argument("--jobs", type=int, help="runs at a time; default: the CPU cores")
        command.add_argument(
            "--out", type=Path, default=Path("runs/study"), help="folder for the runs"
        )
        command.add_argument("--steps", type=int, help="steps a run; default: the configs' own")
        command.add_argument(
            "--docs", type=Path, default=Path("docs"), help="folder for the document"
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
    for name in ("seeds", "jobs", "steps"):
        value = getattr(arguments, name)
        limit = 20 if name == "seeds" else 100_000
        if value is not None and not 1 <= value <= limit:
            raise UserError(f"--{name} must be from 1 to {limit} (got {value})")
    is_plan = arguments.command == "plan"
    study = STUDIES[arguments.study if is_plan else arguments.command]
    if not is_plan:
        for flag, folder in (("--out", arguments.out), ("--docs", arguments.docs)):
            make_folder(flag, folder)
    seeds = arguments.seeds or study.seeds
    jobs = study.jobs(seeds, arguments.out, arguments.steps)
    if is_plan:
        print(plan(study, jobs))
        return 0
    steps = f" --steps {arguments.steps}" if arguments.steps else ""
    command = f"python -m studies {study.name} --seeds {seeds}{steps}"
    workers = arguments.jobs or os.cpu_count() or 1
    return run_and_report(study, jobs, workers, arguments.out, arguments.docs, command)


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


def plan(study: Study, jobs: Sequence[Job]) -> str:
    """What would run."""
    seeds = len({job.seed for job in jobs})
    lines = [
        f"{study.name}: {len(study.arms)} arms x {len(study.mixes)} mixes x {seeds} seeds = "
        f"{len(jobs)} runs, {sum(map(done, jobs))} already done",
        *(f"  {arm.name}: {arm.config} {' '.join(arm.overrides)}".rstrip() for arm in study.arms),
    ]
    return "\n".join(lines)


def run_and_report(
    study: Study, jobs: Sequence[Job], workers: int, out: Path, docs: Path, command: str
) -> int:
    """Execute the runs that are not done, then write the documents. Returns the exit code.

    If a run fails, no document is written, since its tables would be incomplete.
    """
    failures = run_all(jobs, workers)
    for failure in failures:
        print(
            f"failed: {failure.job.name} ({failure.job.folder}/study.log): {failure.reason}",
            file=sys.stderr,
        )
    if failures:
        print(
            f"error: {len(failures)} of {len(jobs)} runs failed; the same command runs them again",
            file=sys.stderr,
        )
        return 1
    for file in study.report(jobs, out, docs, command):
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
