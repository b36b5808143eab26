"""The command line of studies; see the package's docstring.

The three studies, and what is common to them: plan, run, report.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from asymrl.errors import UserError
from asymrl.types import frozen
from studies import claims, tables
from studies.hypotheses import HYPOTHESES
from studies.jobs import BASE, CLAIM_ARMS, GRID_ARMS, MIXES, SCHEDULED, TABLE_ROWS, Arm, Job
from studies.jobs import jobs as make_jobs
from studies.runs import done, run_all


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies", description="Many pocket runs, and what they show."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    studies = ("claims", "table2", "grid")
    told = {
        "claims": "the paper's six claims on two mixes -> claims.md",
        "table2": "the paper's table on the pocket task -> table2-pocket.md",
        "grid": "accuracy over beta_pos x beta_neg -> grid-pocket.md",
        "plan": "what would run and what is predicted; runs nothing",
    }
    for name, text in told.items():
        command = commands.add_parser(name, help=text)
        if name == "plan":
            command.add_argument("study", choices=studies)
        command.add_argument("--seeds", type=int, help="default: 8, of the grid 2")
        command.add_argument("--jobs", type=int, help="runs at a time; default: the cores")
        command.add_argument("--out", type=Path, default=Path("runs/study"), help="run folders")
        command.add_argument("--steps", type=int, help="in place of the configs' own")
        command.add_argument("--docs", type=Path, default=Path("docs"), help="for the document")
    table = commands.add_parser("paper-table", help="the paper's table of a backbone, from runs/")
    table.add_argument("model", help="such as qwen3_4b")
    table.add_argument("--runs", type=Path, default=Path("runs"))
    table.add_argument("--out", type=Path, help="default: RUNS/table2-<MODEL>.md")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        return run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it stopped", file=sys.stderr)
        return 130


def make_folder(flag: str, folder: Path) -> None:
    """Before any run, so that hours of them end in a document."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be made a folder: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{flag} {folder} cannot be written to")


def run(arguments: argparse.Namespace) -> int:
    from studies import __main__, paper

    if arguments.command == "paper-table":
        out = arguments.out or arguments.runs / f"table2-{arguments.model}.md"
        make_folder("--out", out.parent)
        if out.is_dir():
            raise UserError(f"--out {out} is a folder; valid is a file")
        print(paper.write(arguments.model, arguments.runs, out))
        return 0
    for name in ("seeds", "jobs", "steps"):
        given = getattr(arguments, name)
        most = 20 if name == "seeds" else 100_000
        if given is not None and not 1 <= given <= most:
            raise UserError(f"--{name} {given} must be from 1 to {most}")
    name = arguments.study if arguments.command == "plan" else arguments.command
    study = __main__.STUDIES[name]
    if arguments.command != "plan":
        for flag, folder in (("--out", arguments.out), ("--docs", arguments.docs)):
            make_folder(flag, folder)
    jobs = study.jobs(arguments.seeds or study.seeds, arguments.out, arguments.steps)
    if arguments.command == "plan":
        print(__main__.plan(study, jobs))
        return 0
    workers = arguments.jobs or os.cpu_count() or 1
    seeds = arguments.seeds or study.seeds
    steps = f" --steps {arguments.steps}" if arguments.steps else ""
    command = f"python -m studies {name} --seeds {seeds}{steps}"
    return __main__.carry_out(study, jobs, workers, arguments.out, arguments.docs, command)


if __name__ == "__main__":
    sys.exit(main())


@frozen
class Study:
    """before: what is written before the first run; report: jobs, run folders, docs, the command in
    words -> the files that it wrote."""

    name: str
    arms: tuple[Arm, ...]
    mixes: tuple[str, ...]
    seeds: int
    before: Callable[[Sequence[Job], Path], None]
    report: Callable[[Sequence[Job], Path, Path, str], list[Path]]

    def jobs(self, seeds: int, out: Path, steps: int | None) -> list[Job]:
        return make_jobs(self.arms, self.mixes, seeds, out, steps)


def nothing(jobs: Sequence[Job], out: Path) -> None: ...


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="claims",
            arms=CLAIM_ARMS,
            mixes=tuple(MIXES),
            seeds=8,
            before=claims.write_plan,
            report=claims.report_claims,
        ),
        Study(
            name="table2",
            arms=(BASE, *TABLE_ROWS, *SCHEDULED),
            mixes=("easy",),
            seeds=8,
            before=nothing,
            report=tables.report_table2,
        ),
        Study(
            name="grid",
            arms=GRID_ARMS,
            mixes=("easy",),
            seeds=2,
            before=nothing,
            report=tables.report_grid,
        ),
    )
}


def plan(study: Study, jobs: Sequence[Job]) -> str:
    """What would run, and for the claims what is predicted."""
    seeds = len({job.seed for job in jobs})
    there = sum(done(job) for job in jobs)
    lines = [
        f"{study.name}: {len(study.arms)} arms x {len(study.mixes)} mixes x {seeds} seeds = "
        f"{len(jobs)} runs, {there} there already",
        *(f"  {arm.name}: {arm.config} {' '.join(arm.overrides)}".rstrip() for arm in study.arms),
    ]
    if study.name == "claims":
        lines.append("predictions (claim, hypothesis: paper | mix: sign, why)")
        for h in HYPOTHESES:
            signs = claims.SIGNS
            said = "".join(
                f"\n      {mix}: {signs[e.sign]}, {e.why}" for mix, e in h.expected.items()
            )
            lines.append(f"  {h.claim} {h.sentence}: {signs[h.paper]}{said}")
    return "\n".join(lines)


def carry_out(
    study: Study, jobs: Sequence[Job], workers: int, out: Path, docs: Path, command: str
) -> int:
    """Run what is not done, then write the documents; the exit code. With failures there is no
    document, since its table would have holes."""
    study.before(jobs, out)
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
