"""A pool of verifier processes that kills and replaces a worker that hangs.

One thread per worker takes jobs from a shared queue and exchanges JSON over a socket pair with its
process, a fresh interpreter that shares no state, signals or `__main__` with its parent. The
worker's stdout is not the channel. Knows processes and deadlines (POSIX only), not verifiers.

A job's deadline starts when a worker that has finished its imports takes it. At the deadline the
worker is killed (`timeout`). A worker that dies loses its current job (`crashed`) and no other.
Workers end with their parent, however it ends: an idle worker sees the channel close, and before
each job a worker arms a kernel timer that ends it even in a loop that never returns to Python.
Memory and processor time are limited where the platform allows. A module can set BLOCKED_EVENTS to
run in the sandbox, and WARM_UP, a gold and a text to verify before that.
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

START_SECONDS = 120.0  # importing sympy from a cold disk is slow
GRACE_SECONDS = 2.0  # after the deadline, until a worker ends itself
IDLE_CHECK_SECONDS = 5.0
MEMORY_BYTES = 2 << 30  # of address space; a worker with sympy takes some 300 MiB
DEFAULT_WARM_UP = ("1", r"\boxed{1}")  # gold and text
START = "import sys; from asymrl.verifiers.pool import work; work(*sys.argv[1:])"

# the future, its result as a function of the verdict, the request
Job = tuple[Future[Any], Callable[[Verdict], Any], list[str]]


@frozen
class Command:
    """What a worker runs: a module's verify with keyword arguments, `timeout` seconds per job."""

    module: str
    timeout: float
    settings: dict[str, Any]


class Pool:
    """Runs verify(gold, text, **settings) of a module in `workers` processes.

    timeout: seconds per job. Starts in the background; can be used from any thread. Every future
    gets a result, or a RuntimeError if no worker can be started.
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
        """The verdict on a response. Returns at once; the future waits."""
        return self._put(lambda verdict: verdict, ["verify", gold, text])

    def check(self, gold: str) -> Future[bool]:
        """Whether the verifier can parse a gold within the deadline."""
        return self._put(lambda verdict: verdict.reason == "correct", ["parses", gold])

    def _put(self, to_result: Callable[[Verdict], Any], request: list[str]) -> Future[Any]:
        if self._closed:
            raise RuntimeError("the verifier pool is closed")
        future: Future[Any] = Future()
        self._jobs.put((future, to_result, request))
        return future

    def close(self) -> None:
        """Cancels the jobs that have not started, waits for the others, and ends the workers."""
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
    """Takes jobs until it gets None, with one live worker. Runs in a thread."""
    worker: _Worker | None = None
    while True:
        if worker is None or not worker.is_alive():
            with contextlib.suppress(OSError):  # the next job reports it if it persists
                worker = _Worker(command)
        if (job := jobs.get()) is None:
            break
        future, to_result, request = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            if worker is None or not worker.is_alive():  # died between jobs
                worker = _Worker(command)
            worker.wait_until_ready()
            verdict = worker.run(request)
        except OSError as error:
            future.set_exception(RuntimeError(f"cannot start a verifier worker: {error}"))
        except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
            future.set_exception(error)
        else:
            future.set_result(to_result(verdict))
    if worker is not None:
        worker.stop()


class _Worker:
    """A worker process, as its thread sees it."""

    def __init__(self, command: Command) -> None:
        self._module, self._timeout, self._ready = command.module, command.timeout, False
        self._link, theirs = multiprocessing.Pipe()
        arguments = [command.module, str(command.timeout), json.dumps(command.settings)]
        options = ["-P", "-W", "ignore", "-c", START]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, *options, str(theirs.fileno()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=2,  # output of libraries goes to stderr
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal reaches the parent only
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )

    def wait_until_ready(self) -> None:
        """Waits for the imports. Raises RuntimeError, rather than give a verdict, if they fail."""
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
            raise RuntimeError(
                f"the worker for {self._module} did not start; see its output on stderr"
            )

    def run(self, request: list[str]) -> Verdict:
        """The verdict of one job. Kills the worker if it does not answer in time."""
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
            reply = ["crashed", None, f"its process exited with code {self.process.returncode}"]
        reason, answer, error = reply
        if error is not None:
            logger.warning("the verifier crashed on one response: %s", error)
        return Verdict(reason=reason, answer=answer, seconds=time.perf_counter() - start)

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._link.close()


def work(fd: str, module: str, timeout: str, settings: str) -> None:
    """The worker process: imports the verifier, reports ready, answers until the channel closes."""
    parent = os.getppid()
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # sent to a whole job; the parent ends its workers
    with contextlib.suppress(ImportError, ValueError, OSError):  # not supported on this platform
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    verifier, keywords = importlib.import_module(module), json.loads(settings)
    verifier.verify(*getattr(verifier, "WARM_UP", DEFAULT_WARM_UP), **keywords)
    if blocked := getattr(verifier, "BLOCKED_EVENTS", None):
        sandbox.install_sandbox(blocked)
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
    """Limits this process to `seconds` more of processor time, where the platform allows it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))


def _answer(
    verifier: Any, request: list[str], keywords: dict[str, Any]
) -> tuple[str, str | None, str | None]:
    """(reason, answer, error). Catches every exception, since the text comes from a model."""
    try:
        kind, *texts = request
        if kind == "parses":
            return ("correct" if verifier.parses(*texts) else "unparseable"), None, None
        return *verifier.verify(*texts, **keywords), None
    except Exception as error:
        return "crashed", None, f"{type(error).__name__}: {error}"[:300]
