"""Run folders of studies with invented numbers: each test says what its arms do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from studies.jobs import Job
from studies.runs import TEMPERATURES, summary_file

ENVIRONMENT = {
    "python": "3.11",
    "cpus": 2,
    "threads": 1,
    "packages": {"torch": "2.13", "transformers": "5.19"},
    "git_commit": "0123456789abcdef+",
}


def write(
    jobs: Sequence[Job],
    rows_of: Callable[[Job], Sequence[Mapping[str, Any]]],
    accuracy_of: Callable[[Job, float], float],
) -> None:
    """rows_of(job): metrics of steps 1, 2, ...; accuracy_of(job, temperature)."""
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        rows = [{"step": 0}] + [{"step": n, **row} for n, row in enumerate(rows_of(job), 1)]
        (job.folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (job.folder / "environment.json").write_text(json.dumps([ENVIRONMENT]))
        for temperature in TEMPERATURES:
            summary = summary_file(job, temperature)
            summary.parent.mkdir(parents=True, exist_ok=True)
            scores = {"pocket_heldout": {"avg": accuracy_of(job, temperature)}}
            summary.write_text(json.dumps({"benchmarks": scores}))
