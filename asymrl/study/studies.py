"""The three studies, and what is common to them: plan, run, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from asymrl.study import claims, grid, table2
from asymrl.study.arms import BASE, CLAIM_ARMS, GRID_ARMS, MIXES, SCHEDULED, TABLE_ROWS, Arm, Job
from asymrl.study.arms import jobs as make_jobs
from asymrl.study.hypotheses import HYPOTHESES
from asymrl.study.runs import done, run_all
from asymrl.types import value


@value
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
            report=claims.report,
        ),
        Study(
            name="table2",
            arms=(BASE, *TABLE_ROWS, *SCHEDULED),
            mixes=("easy",),
            seeds=8,
            before=nothing,
            report=table2.report,
        ),
        Study(
            name="grid",
            arms=GRID_ARMS,
            mixes=("easy",),
            seeds=2,
            before=nothing,
            report=grid.report,
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
