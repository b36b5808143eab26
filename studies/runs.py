"""Executes the jobs of a study in worker processes; jobs with a result are skipped.

A run is train.main, then eval.main once per temperature; then its result is written and its
checkpoints are deleted. A worker executes many runs, so that imports are paid once. A run's output
goes to its study.log. Knows the arguments of train.py and eval.py.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from asymrl.errors import UserError
from asymrl.types import frozen
from studies.jobs import TASKS, Job, folder_of
from studies.results import Result, append, evaluation_folder, find_results, read_run

Report = Callable[[int, Sequence[Job], str], None]  # newly finished, running jobs, message
ROOT = Path(__file__).resolve().parents[1]  # the folder of train.py and eval.py


@frozen
class Failure:
    """A failed run and the last line of its log."""

    job: Job
    reason: str


@frozen
class Worker:
    process: Any
    connection: Connection


def run_all(jobs: Sequence[Job], workers: int, out: Path, results: Path) -> list[Failure]:
    """Execute the jobs without a result, at most `workers` at a time, and show the progress.

    out: run folders; results: the folder of <task>.jsonl. A failed run does not stop the others.
    Ctrl-C stops at once: unfinished runs begin again, or resume from their last checkpoint.
    """
    for name in ("train.py", "eval.py"):
        if not (ROOT / name).is_file():
            raise UserError(f"{ROOT / name} does not exist; run studies from a source checkout")
    done = find_results(jobs, results)
    todo = [job for job in jobs if job not in done]
    if done:
        print(f"{len(done)} of {len(jobs)} runs are already done", flush=True)
    if not todo:
        return []
    with progress(len(jobs), len(done)) as report:
        return supervise(todo, workers, out, results, report)


def supervise(
    jobs: Sequence[Job], workers: int, out: Path, results: Path, report: Report
) -> list[Failure]:
    """Give each job to the next free worker. A worker that dies is replaced."""
    todo, failures = deque(jobs), []
    idle = [start_worker() for _ in range(min(workers, len(jobs)))]
    busy: list[tuple[Worker, Job]] = []
    try:
        while todo or busy:
            while todo and idle:
                worker, job = idle.pop(), todo.popleft()
                worker.connection.send((job, out))
                busy.append((worker, job))
            report(0, [job for _, job in busy], "")
            ready = wait([worker.connection for worker, _ in busy])
            for worker, job in [pair for pair in busy if pair[0].connection in ready]:
                busy.remove((worker, job))
                seconds = receive(worker)
                outcome = failure(worker, job, out)
                if seconds is not None:
                    outcome = record(job, out, results, seconds)
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                    message = f"{job.name} failed: {outcome.reason}"
                else:
                    first, *_, last = outcome.greedy.values()
                    message = f"{job.name} {seconds:.0f} s, greedy {first:.3f} -> {last:.3f}"
                report(1, [job for _, job in busy], message)
                if worker.process.exitcode is None:
                    idle.append(worker)
                elif todo:
                    idle.append(start_worker())
    finally:
        for worker in [*idle, *(worker for worker, _ in busy)]:
            worker.process.kill()
            worker.process.join()
    return failures


def record(job: Job, out: Path, results: Path, seconds: float) -> Result | Failure:
    """Write the result of a finished run and delete its checkpoints."""
    try:
        result = read_run(job, out, seconds)
        append(result, results)
        shutil.rmtree(folder_of(job, out) / "checkpoints")
    except (UserError, OSError) as error:
        return Failure(job=job, reason=str(error))
    return result


def receive(worker: Worker) -> float | None:
    """The seconds that the run took; None if it failed. A worker that died is reaped."""
    try:
        return worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join(10)
        worker.process.kill()
        worker.process.join()
        return None


def failure(worker: Worker, job: Job, out: Path) -> Failure:
    code = worker.process.exitcode
    killed = f" (killed by signal {-code})" if code is not None and code < 0 else ""
    return Failure(job=job, reason=last_line(folder_of(job, out) / "study.log") + killed)


def start_worker() -> Worker:
    """A spawned process: a forked one would inherit torch's thread pools without their threads."""
    spawn = multiprocessing.get_context("spawn")
    parent_end, worker_end = spawn.Pipe()
    process = spawn.Process(target=work, args=(worker_end,))
    process.start()
    worker_end.close()
    return Worker(process=process, connection=parent_end)


def work(connection: Connection) -> None:
    """Receive jobs, send back seconds (None: the run failed). An exception other than UserError
    ends the worker; its traceback is in the run's log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    sys.path.insert(0, str(ROOT))  # for train and eval, from any folder
    while True:
        try:
            job, out = connection.recv()
        except EOFError:
            return
        started = time.monotonic()
        redirect_output(folder_of(job, out) / "study.log")
        connection.send(time.monotonic() - started if execute(job, out) == 0 else None)


def execute(job: Job, out: Path) -> int:
    """Train, then evaluate at each temperature. Returns the first exit code that is not 0, or 0."""
    import eval as evaluation
    import train

    folder = str(folder_of(job, out))
    code = train.main(["--config", job.config, "--output-dir", folder, *job.overrides])
    for temperature in TASKS[job.task].samples:
        if code == 0:
            code = evaluation.main(eval_arguments(job, temperature, out))
    sys.stdout.flush()
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


def redirect_output(log: Path) -> None:
    """Append everything that this process prints from here on to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that the log of a killed run is complete


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


@contextmanager
def progress(total: int, done_before: int) -> Iterator[Report]:
    """A progress bar on a terminal, otherwise a line for each finished run."""
    console = Console(highlight=False, soft_wrap=True)
    bar = Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("ETA {task.fields[eta]}  {task.description}"),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=total, completed=done_before, eta="?")
    count, started = done_before, time.monotonic()

    def report(finished: int, running: Sequence[Job], message: str) -> None:
        nonlocal count
        count += finished
        eta = "?"
        if count > done_before:
            seconds_a_run = (time.monotonic() - started) / (count - done_before)
            eta = str(timedelta(seconds=int(seconds_a_run * (total - count))))
        names = ", ".join(job.name for job in running)
        bar.update(task, completed=count, description=names, eta=eta)
        if message and (not console.is_terminal or "failed" in message):
            console.print(f"{count}/{total} {message}  ETA {eta}", markup=False)

    with bar:
        yield report
