"""A pool of verifier processes in which a hung one is killed and replaced.

One thread a worker takes jobs from a shared queue and talks JSON over a socket pair to a process of
its own, which is a fresh interpreter: it shares no state, no signals and no `__main__` with its
parent, and its stdout is not the channel. Knows processes and deadlines, POSIX only; does not know
what the verifier does.

A job's deadline starts when a worker that has finished its imports takes it. Past it the worker is
killed (`timeout`); a worker that dies costs the job it had (`crashed`), and no other. Workers end
with their parent, however that ends: idle ones see the channel close, and each arms a timer in the
kernel before it starts a job, which ends it even in a loop that never returns to Python. Their
memory and processor time are limited where the platform can, and a verifier that says FENCED can
run no code and open nothing once it is up.
"""

import contextlib
import importlib
import json
import logging
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any, Self

from asymrl.types import Verdict, frozen
from asymrl.verifiers import sandbox

logger = logging.getLogger(__name__)

START_SECONDS = 120.0  # a cold disk may take long to import sympy
GRACE_SECONDS = 2.0  # past the deadline, before a worker that nobody killed ends itself
IDLE_CHECK_SECONDS = 5.0
MEMORY_BYTES = 2 << 30  # of address space; a worker with sympy takes some 300 MiB
# Makes sympy build the tables that it compiles, which it could not behind the fence.
WARM_UP = (r"\sum_{k=0}^{\infty} 2^{-k}, \int_0^{\infty} e^{-x^2} dx", r"\boxed{2, \sqrt{\pi}/2}")
START = "import sys; from asymrl.verifiers.pool import work; work(*sys.argv[1:])"

Job = tuple[Future[Any], Callable[[Verdict], Any], list[str]]  # future, what it is given, request


@frozen
class Command:
    """What a worker runs: a module's verify with these keyword arguments, so long a job."""

    module: str
    timeout: float
    settings: dict[str, Any]


class Pool:
    """`workers` processes that run `module`'s verify(gold, text), `timeout` seconds a job.

    `settings` are keyword arguments of verify.

    Starts at once and in the background; may be used from any thread. Every future gets a result,
    or RuntimeError where no worker can be started.
    """

    def __init__(
        self, module: str, workers: int, timeout: float, settings: Mapping[str, Any] | None = None
    ) -> None:
        assert workers >= 1 and timeout > 0, (workers, timeout)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        command = Command(module=module, timeout=timeout, settings=dict(settings or {}))
        self._threads = [
            threading.Thread(target=_serve, args=(self._jobs, command), daemon=True)
            for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, gold: str, text: str) -> Future[Verdict]:
        """The verdict on a response, as soon as a worker has it; never waits."""
        return self._put(lambda verdict: verdict, ["verify", gold, text])

    def check(self, gold: str) -> Future[bool]:
        """Whether the verifier can read this gold within the deadline."""
        return self._put(lambda verdict: verdict.reason == "correct", ["parses", gold])

    def _put(self, give: Callable[[Verdict], Any], request: list[str]) -> Future[Any]:
        if self._closed:
            raise RuntimeError("the verifier pool is closed")
        future: Future[Any] = Future()
        self._jobs.put((future, give, request))
        return future

    def close(self) -> None:
        """Cancels what has not started, waits for what has, and ends the workers."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                if job := self._jobs.get_nowait():
                    job[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(jobs: queue.SimpleQueue[Job | None], command: Command) -> None:
    """One thread's life: takes jobs until it is given None, and keeps a live worker at hand."""
    worker: _Worker | None = None
    while True:
        if worker is None or not worker.alive():
            with contextlib.suppress(OSError):  # if it lasts, the next job is told
                worker = _Worker(command)
        if (job := jobs.get()) is None:
            break
        future, give, request = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            if worker is None or not worker.alive():  # died between jobs
                worker = _Worker(command)
            worker.wait_until_ready()
            verdict = worker.judge(request)
        except OSError as error:
            future.set_exception(RuntimeError(f"a worker cannot be started: {error}"))
        except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
            future.set_exception(error)
        else:
            future.set_result(give(verdict))
    if worker is not None:
        worker.stop()


class _Worker:
    """A worker process, seen from the thread that owns it."""

    def __init__(self, command: Command) -> None:
        self._module, self._timeout, self._ready = command.module, command.timeout, False
        self._link, theirs = multiprocessing.Pipe()
        arguments = [command.module, str(command.timeout), json.dumps(command.settings)]
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-W",
                    "ignore",
                    "-c",
                    START,
                    str(theirs.fileno()),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints belongs to stderr
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C is for the parent
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )

    def wait_until_ready(self) -> None:
        """RuntimeError if the worker cannot start: no verdict at all, and not a wrong one."""
        if self._ready:
            return
        try:
            if self._link.poll(START_SECONDS):
                self._link.recv_bytes()
                self._ready = True
        except (EOFError, OSError):
            pass
        if not self._ready:
            self.stop()
            raise RuntimeError(f"a worker for {self._module} did not start; its stderr says why")

    def judge(self, request: list[str]) -> Verdict:
        """One job. A worker that has not answered when this returns is dead."""
        start = time.perf_counter()
        reply = ["timeout", None, None]
        try:
            self._link.send_bytes(json.dumps(request).encode())
            if self._link.poll(self._timeout):
                reply = json.loads(self._link.recv_bytes())
            else:
                self.stop()
        except (EOFError, OSError):
            self.stop()
            reply = ["crashed", None, f"its process ended with code {self.process.returncode}"]
        reason, answer, error = reply
        if error is not None:
            logger.warning("the verifier crashed on one answer: %s", error)
        return Verdict(reason=reason, answer=answer, seconds=time.perf_counter() - start)

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._link.close()


def work(fd: str, module: str, timeout: str, settings: str) -> None:
    """The worker process: imports the verifier, says so, and answers until the channel closes."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of a whole job: its parent says when it ends
    with contextlib.suppress(ImportError, ValueError, OSError):  # a platform without the limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    verifier, keywords = importlib.import_module(module), json.loads(settings)
    verifier.verify(*WARM_UP, **keywords)
    if getattr(verifier, "FENCED", False):
        sandbox.install_sandbox()
    with Connection(int(fd)) as link, contextlib.suppress(EOFError, OSError):
        link.send_bytes(b"ready")
        while os.getppid() == parent:
            if not link.poll(IDLE_CHECK_SECONDS):
                continue
            request = json.loads(link.recv_bytes())
            signal.setitimer(signal.ITIMER_REAL, float(timeout) + GRACE_SECONDS)
            _limit_cpu(float(timeout) + GRACE_SECONDS)
            reply = _answer(verifier, request, keywords)
            signal.setitimer(signal.ITIMER_REAL, 0)
            link.send_bytes(json.dumps(reply).encode())


def _limit_cpu(seconds: float) -> None:
    """So much more processor time for this process, where the platform can limit it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))


def _answer(
    verifier: Any, request: list[str], keywords: dict[str, Any]
) -> tuple[str, str | None, str | None]:
    """(reason, answer, error). The one broad except of the package: a verifier runs model text."""
    try:
        kind, *texts = request
        if kind == "parses":
            return ("correct" if verifier.parses(*texts) else "unparseable"), None, None
        return *verifier.verify(*texts, **keywords), None
    except Exception as error:
        return "crashed", None, f"{type(error).__name__}: {error}"[:300]
