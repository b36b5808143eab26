"""Executes many runs in worker processes, each run with a log file, and shows the progress.

A worker executes many runs, so that imports are paid once. On a GPU it executes one: a process
keeps its device, its process group and memory on the device. Knows nothing of what a run does.
"""

from __future__ import annotations

import io
import multiprocessing
import os
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


@frozen
class Task:
    """One run. log: receives everything that it prints. arguments: those of `execute`."""

    name: str
    log: Path
    arguments: tuple[Any, ...]


@frozen
class Failure:
    """A failed run and the last line of its log."""

    task: Task
    reason: str


@frozen
class Worker:
    """device: the GPU that its run uses, as CUDA_VISIBLE_DEVICES names it; None for the CPU."""

    process: Any
    connection: Connection
    device: str | None


Report = Callable[[int, Sequence[Task], str], None]  # newly finished, running tasks, message


def execute_all(
    tasks: Sequence[Task],
    execute: Callable[..., int],
    places: Sequence[str | None],
    finish: Callable[[Task, float], str],
    report: Report,
) -> list[Failure]:
    """Call execute(*task.arguments) for each task, as many at a time as there are places.

    execute: a module's function that returns an exit code; it is called in a worker process.
    places: a GPU for each place, or None for the CPU: its runs see no GPU. finish(task, seconds) is
    called here after each run that returned 0; its result is shown. A failed run does not stop the
    others, and a worker that dies is replaced. Ctrl-C and SIGTERM are passed on, so that runs that
    save when they are stopped do; then KeyboardInterrupt is raised. A second Ctrl-C kills them.
    """
    todo, failures = deque(tasks), []
    idle = [start_worker(place) for place in places[: len(tasks)]]
    busy: list[tuple[Worker, Task]] = []
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        while todo or busy:
            while todo and idle:
                worker, task = idle.pop(), todo.popleft()
                busy.append((worker, task))
                worker.connection.send((execute, task))
            report(0, [task for _, task in busy], "")
            ready = wait([worker.connection for worker, _ in busy])
            for worker, task in [pair for pair in busy if pair[0].connection in ready]:
                seconds = receive(worker)
                busy.remove((worker, task))
                outcome = failure(worker, task)
                if seconds is not None:
                    outcome = finish_or_fail(finish, task, seconds)
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                    message = f"{task.name} failed: {outcome.reason}"
                else:
                    message = f"{task.name} {seconds:.0f} s{outcome}"
                report(1, [task for _, task in busy], message)
                if worker.process.exitcode is None and worker.device is None:
                    idle.append(worker)
                else:
                    end(worker)
                    idle += [start_worker(worker.device)] if todo else []
    except KeyboardInterrupt:
        stop([worker for worker, _ in busy])
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        for worker in [*idle, *(worker for worker, _ in busy)]:
            end(worker)
    return failures


def finish_or_fail(
    finish: Callable[[Task, float], str], task: Task, seconds: float
) -> str | Failure:
    try:
        return finish(task, seconds)
    except (UserError, OSError) as error:  # this run's files; the others continue
        return Failure(task=task, reason=str(error))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def stop(workers: Sequence[Worker]) -> None:
    """Send SIGTERM to running workers and wait until each has ended its run, or a second Ctrl-C."""
    print("stopping: runs save their last finished step; Ctrl-C again stops them at once")
    waiting = {worker.connection for worker in workers}
    for worker in workers:
        worker.process.terminate()
    try:
        while waiting:
            waiting -= {*wait([*waiting])}
    except KeyboardInterrupt:
        pass


def receive(worker: Worker) -> float | None:
    """The seconds that the run took; None if it failed. A worker that died is reaped."""
    try:
        return worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join(10)
        end(worker)
        return None


def end(worker: Worker) -> None:
    worker.process.kill()
    worker.process.join()


def failure(worker: Worker, task: Task) -> Failure:
    code = worker.process.exitcode
    killed = f" (killed by signal {-code})" if code is not None and code < 0 else ""
    return Failure(task=task, reason=last_line(task.log) + killed)


def start_worker(device: str | None) -> Worker:
    """A spawned process: a forked one would inherit torch's thread pools without their threads."""
    spawn = multiprocessing.get_context("spawn")
    parent_end, worker_end = spawn.Pipe()
    process = spawn.Process(target=work, args=(worker_end, device))
    process.start()
    worker_end.close()
    return Worker(process=process, connection=parent_end, device=device)


def work(connection: Connection, device: str | None) -> None:
    """Receive runs, send back seconds (None: the run failed). An exception other than UserError
    ends the worker; its traceback is in the run's log."""
    os.environ["CUDA_VISIBLE_DEVICES"] = device or ""  # before anything asks CUDA for its devices
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes Ctrl-C on
    while True:
        try:
            execute, task = connection.recv()
        except EOFError:
            return
        started = time.monotonic()
        redirect_output(task.log)
        code = execute(*task.arguments)
        sys.stdout.flush()
        connection.send(time.monotonic() - started if code == 0 else None)


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
    console = Console(highlight=False, soft_wrap=True, force_jupyter=False)
    bar = Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("ETA {task.fields[eta]}  {task.description}", markup=False),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=total, completed=done_before, eta="?")
    count, started = done_before, time.monotonic()

    def report(finished: int, running: Sequence[Task], message: str) -> None:
        nonlocal count
        count += finished
        eta = "?"
        if count > done_before:
            seconds_a_run = (time.monotonic() - started) / (count - done_before)
            eta = str(timedelta(seconds=int(seconds_a_run * (total - count))))
        names = ", ".join(task.name for task in running)
        bar.update(task, completed=count, description=names, eta=eta)
        is_news = not console.is_terminal or "failed" in message or "warning" in message
        if message and is_news:
            console.print(f"{count}/{total} {message}  ETA {eta}", markup=False)

    with bar:
        yield report
