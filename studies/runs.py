"""Runs the jobs of a study: worker processes, each one run after another, what is done skipped.

A run is train.main and then eval.main, once a temperature, in a process that goes on to the next,
so that imports are paid once. Everything that a run prints goes into its study.log. Knows train.py
and eval.py by their command lines; nothing of what a run is for.
"""

from __future__ import annotations

import importlib.util
import io
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from asymrl.errors import UserError
from asymrl.types import frozen
from studies.jobs import Job

TEMPERATURES = (1.0, 0.4)
SAMPLES = 4  # avg@4
Tell = Callable[[int, Sequence[Job], str], None]  # jobs done, jobs running, news


@frozen
class Failure:
    """A run that did not end well, and the last line of its log."""

    job: Job
    reason: str


@frozen
class Worker:
    process: Any
    link: Connection


def run_all(jobs: Sequence[Job], workers: int) -> list[Failure]:
    """Run what is not done yet, at most `workers` at a time, and show how far it is.

    A failed run does not stop the others. Ctrl-C stops at once; what is done stays, and what was
    going on starts anew from its last checkpoint. UserError where a folder holds another run.
    """
    for name in ("train", "eval"):
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"{name}.py is not here: start `python -m studies` in the folder that has it"
            )
    todo = [job for job in jobs if not done(job)]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} runs are there already", flush=True)
    if not todo:
        return []
    with shown(len(jobs), len(jobs) - len(todo)) as tell:
        return supervise(todo, workers, tell)


def supervise(jobs: Sequence[Job], workers: int, tell: Tell) -> list[Failure]:
    """Hand each job to the next free worker. A worker that dies is replaced."""
    todo, failures = deque(jobs), []
    idle = [start_worker() for _ in range(min(workers, len(jobs)))]
    busy: list[tuple[Worker, Job]] = []
    try:
        while todo or busy:
            while todo and idle:
                worker, job = idle.pop(), todo.popleft()
                worker.link.send(job)
                busy.append((worker, job))
            tell(0, [job for _, job in busy], "")
            ready = wait([worker.link for worker, _ in busy])
            for worker, job in [pair for pair in busy if pair[0].link in ready]:
                busy.remove((worker, job))
                seconds = answer(worker)
                news = f"{job.name} {seconds:.0f} s" if seconds is not None else ""
                if seconds is None:
                    failures.append(failure(worker, job))
                    news = f"{job.name} failed: {failures[-1].reason}"
                tell(1, [job for _, job in busy], news)
                if worker.process.exitcode is None:
                    idle.append(worker)
                elif todo:
                    idle.append(start_worker())
    finally:
        for worker in [*idle, *(worker for worker, _ in busy)]:
            worker.process.kill()
            worker.process.join()
    return failures


def answer(worker: Worker) -> float | None:
    """The seconds that the run took; None where it failed. A worker that died of it is buried."""
    try:
        return worker.link.recv()
    except (EOFError, OSError):
        worker.process.join(10)
        worker.process.kill()
        worker.process.join()
        return None


def failure(worker: Worker, job: Job) -> Failure:
    code = worker.process.exitcode
    killed = f" (its process was ended by signal {-code})" if code is not None and code < 0 else ""
    return Failure(job=job, reason=last_line(job.folder / "study.log") + killed)


def start_worker() -> Worker:
    """A fresh interpreter: a forked one would inherit the half of torch's threads' state."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=work, args=(theirs,))
    process.start()
    theirs.close()
    return Worker(process=process, link=ours)


def work(link: Connection) -> None:
    """A worker's life: jobs in, seconds out (None: the run failed). An exception that is not for
    users ends the worker, its traceback in the run's log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent
    while True:
        try:
            job = link.recv()
        except EOFError:
            return
        started = time.monotonic()
        print_into(job.folder / "study.log")
        link.send(time.monotonic() - started if execute(job) == 0 else None)


def execute(job: Job) -> int:
    """Train, then score at each temperature; the exit code of the first that fails, or 0."""
    import eval as scoring
    import train

    code = train.main(train_arguments(job))
    for temperature in TEMPERATURES:
        if code == 0 and not summary_file(job, temperature).is_file():
            code = scoring.main(eval_arguments(job, temperature))
    sys.stdout.flush()
    return code


def train_arguments(job: Job) -> list[str]:
    return ["--config", job.arm.config, "--output-dir", str(job.folder), *job.overrides]


def eval_arguments(job: Job, temperature: float) -> list[str]:
    """The samples' seed is the run's, so that arms of one seed are scored with the same noise."""
    return [
        *("--ckpt", str(job.folder / "checkpoints" / "latest")),
        *("--benchmarks", ",".join(job.benchmarks)),
        *("--avg-at", str(SAMPLES), "--temperature", str(temperature), "--threads", "1"),
        *("--seed", str(job.seed), "--output", str(summary_file(job, temperature).parent)),
        "--replace",  # of a checkpoint that was since trained anew
    ]


def summary_file(job: Job, temperature: float) -> Path:
    """Beside the run's own evaluations, and never taken for one of them."""
    return job.folder / "eval" / f"step-{job.steps:06d}-t{temperature:g}" / "summary.json"


def done(job: Job) -> bool:
    """Whether a run is trained and scored. UserError where its folder holds another one."""
    if not (job.folder / "config.yaml").is_file():
        return False
    from asymrl.run import checkpoint, folder

    found = folder.find_checkpoint(job.folder, job.config(), "auto")
    step = checkpoint.load_position(found)[0].step if found else 0
    if step > job.steps:
        raise UserError(
            f"{job.folder} is at step {step}, and this study has {job.steps}: give it that many "
            "--steps, or another --out"
        )
    scored = all(summary_file(job, temperature).is_file() for temperature in TEMPERATURES)
    return step == job.steps and scored


def print_into(log: Path) -> None:
    """From here on this process prints into that file, at its end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a killed run's last line is in its log


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


@contextmanager
def shown(total: int, already: int) -> Iterator[Tell]:
    """A live line on a terminal, else a plain line a finished run."""
    console = Console(highlight=False, soft_wrap=True)
    bar = Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("ETA {task.fields[eta]}  {task.description}"),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=total, completed=already, eta="?")
    counts, started = [already], time.monotonic()

    def tell(finished: int, running: Sequence[Job], news: str) -> None:
        counts[0] += finished
        now = ", ".join(job.name for job in running)
        made = counts[0] - already
        left = (time.monotonic() - started) / made * (total - counts[0]) if made else None
        eta = (
            "?"
            if left is None
            else f"{left // 3600:.0f}:{left % 3600 // 60:02.0f}:{left % 60:02.0f}"
        )
        bar.update(task, completed=counts[0], description=now, eta=eta)
        if news and (not console.is_terminal or "failed" in news):
            console.print(f"{counts[0]}/{total} {news}  ETA {eta}", markup=False)

    with bar:
        yield tell
