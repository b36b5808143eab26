"""Executes the jobs of a study in worker processes; jobs with a result are skipped.

A run is train.main, then eval.main once per temperature; then its result is written and its
checkpoints are deleted. A run's output goes to its study.log. Knows the arguments of train.py and
eval.py.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from asymrl.errors import UserError
from asymrl.run import workers
from asymrl.run.workers import Failure, Task
from studies.jobs import TASKS, Job, folder_of
from studies.results import append, evaluation_folder, find_results, read_run

ROOT = Path(__file__).resolve().parents[1]  # the folder of train.py and eval.py


def run_all(jobs: Sequence[Job], places: int, out: Path, results: Path) -> list[Failure]:
    """Execute the jobs without a result on the CPU, at most `places` at a time, and show the
    progress.

    out: run folders; results: the folder of <task>.jsonl. A failed run does not stop the others.
    After Ctrl-C, unfinished runs resume from their last checkpoint.
    """
    for name in ("train.py", "eval.py"):
        if not (ROOT / name).is_file():
            raise UserError(f"{ROOT / name} does not exist; run studies from a source checkout")
    done = find_results(jobs, results)
    if done:
        print(f"{len(done)} of {len(jobs)} runs are already done", flush=True)
    tasks = [make_task(job, out) for job in jobs if job not in done]
    if not tasks:
        return []
    keep = partial(keep_result, results=results)
    with workers.progress(len(jobs), len(done)) as report:
        return workers.execute_all(tasks, execute, [None] * places, keep, report)


def make_task(job: Job, out: Path) -> Task:
    return Task(name=job.name, log=folder_of(job, out) / "study.log", arguments=(job, out))


def keep_result(task: Task, seconds: float, results: Path) -> str:
    """Write the result of a finished run and delete its checkpoints; what it was, in words."""
    job, out = task.arguments
    result = read_run(job, out, seconds)
    append(result, results)
    shutil.rmtree(folder_of(job, out) / "checkpoints")
    first, *_, last = result.greedy.values()
    return f", greedy {first:.3f} -> {last:.3f}"


def execute(job: Job, out: Path) -> int:
    """Train, then evaluate at each temperature. Returns the first exit code that is not 0, or 0."""
    if str(ROOT) not in sys.path:  # for train and eval, from any folder
        sys.path.insert(0, str(ROOT))
    import eval as evaluation
    import train

    folder = str(folder_of(job, out))
    code = train.main(["--config", job.config, "--output-dir", folder, *job.overrides])
    for temperature in TASKS[job.task].samples:
        if code == 0:
            code = evaluation.main(eval_arguments(job, temperature, out))
    return code


def eval_arguments(job: Job, temperature: float, out: Path) -> list[str]:
    """Samples use the run's seed, so that arms of one seed are evaluated with the same noise."""
    return [
        *("--ckpt", str(folder_of(job, out) / "checkpoints" / "latest")),
        *("--benchmarks", job.benchmark, "--temperature", str(temperature), "--threads", "1"),
        *("--avg-at", str(TASKS[job.task].samples[temperature]), "--seed", str(job.seed)),
        *("--output", str(evaluation_folder(job, temperature, out))),
        "--replace",  # samples of a checkpoint that was trained again since
    ]
