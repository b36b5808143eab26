"""A pool of verifier processes that kills and replaces a worker that hangs.

One thread per worker takes jobs and exchanges JSON over a socket pair with its process, a fresh
interpreter that shares no state, signals or `__main__` with its parent. The worker's stdout is not
the channel. Knows processes and deadlines (POSIX only), not verifiers.

A job's deadline starts when a worker that has finished its imports takes it. At the deadline the
worker is killed (`timeout`). A worker that dies loses its current job (`crashed`) and no other.
Workers end with their parent, however it ends: an idle worker sees the channel close, and before
each job a worker arms a kernel timer that ends it even in a loop that never returns to Python.
Memory is limited where the platform allows, unless the module has `FENCED = False`. A module's
`prepare_worker(**settings)`, if it has one, runs before the first job; it can install the sandbox.
A UserError of the module ends the run: it is raised by the future.
"""

import contextlib
import importlib
import inspect
import json
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import thread as executor_module
from multiprocessing.connection import Connection
from typing import Any, Self

from asymrl.errors import UserError
from asymrl.types import Verdict

logger = logging.getLogger(__name__)

START_SECONDS = 120.0  # importing sympy from a cold disk is slow
GRACE_SECONDS = 2.0  # after the deadline, until a worker ends itself
IDLE_CHECK_SECONDS = 5.0
MEMORY_BYTES = 2 << 30  # of address space; a worker with sympy takes some 300 MiB
READY = b"ready"
ENDS_RUN = "ends the run"  # in place of a reason: a UserError
START = "import sys; from asymrl.verifiers.pool import work; work(*sys.argv[1:])"


class Pool:
    """Runs verify(gold, text, **settings) of a module in `workers` processes.

    timeout: seconds per job. context: those of `prompt` and `row` that verify takes too.
    first_only: log the first exception only, because there may be one for every response.

    Starts in the background; can be used from any thread. Every future gets a result, or a
    RuntimeError if no worker can be started. Leaving the context cancels the jobs that have not
    started, waits for the others, and ends the workers. At the interpreter's exit, jobs that have
    not started raise RuntimeError.
    """

    def __init__(
        self,
        module: str,
        workers: int,
        timeout: float,
        settings: Mapping[str, Any] | None = None,
        *,
        context: Sequence[str] = (),
        first_only: bool = False,
    ) -> None:
        assert workers >= 1 and timeout > 0, (workers, timeout)
        self._command = module, timeout, dict(settings or {})
        self._context, self._first_only, self._errors = context, first_only, 0
        self._workers: dict[int, _Worker] = {}  # by the thread that talks to it
        self._threads = ThreadPoolExecutor(workers)
        for _ in range(workers):
            self._threads.submit(self._worker)

    def submit(self, gold: str, text: str, **context: Any) -> Future[Verdict]:
        """The verdict on a response. Returns at once; the future waits."""
        needed = {name: context.get(name) for name in self._context}
        return self._threads.submit(self._run, "verify", gold, text, **needed)

    def check(self, gold: str) -> Future[bool]:
        """Whether the verifier can parse a gold within the deadline."""
        return self._threads.submit(lambda: self._run("is_valid_gold", gold).reason == "correct")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers.values():
            worker.stop()

    def _worker(self) -> "_Worker":
        """The worker of this thread, or a new one if it is dead."""
        worker = self._workers.get(threading.get_ident())
        if worker is None or worker.process.poll() is not None:
            worker = self._workers[threading.get_ident()] = _Worker(*self._command)
        return worker

    def _run(self, function: str, *texts: str, **context: Any) -> Verdict:
        # At exit, Python waits for the executor's threads while they run everything that is queued.
        # The main thread still counts as alive then, so this flag is the only sign.
        if executor_module._shutdown:
            raise RuntimeError("the interpreter is exiting")
        try:
            worker = self._worker()
        except OSError as error:
            raise RuntimeError(f"cannot start a verifier worker: {error}") from None
        worker.wait_until_ready()
        verdict = worker.run([function, texts, context])
        if verdict.error is not None:
            self._errors += 1
            if self._errors == 1 or not self._first_only:
                after = " (later exceptions are counted, not shown)" if self._first_only else ""
                logger.warning("the verifier crashed on one response%s: %s", after, verdict.error)
        with contextlib.suppress(OSError):  # the next job reports it if it persists
            self._worker()
        return verdict


class _Worker:
    """A worker process, as its thread sees it."""

    def __init__(self, module: str, timeout: float, settings: dict[str, Any]) -> None:
        self._module, self._timeout, self._ready = module, timeout, False
        self._link, theirs = multiprocessing.Pipe()
        arguments = [str(theirs.fileno()), module, str(timeout), json.dumps(settings)]
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-c", START, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=2,  # output of libraries goes to stderr
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal reaches the parent only
                env=os.environ | {"PYTHONPATH": path},
            )

    def wait_until_ready(self) -> None:
        """Waits for the imports. Raises RuntimeError, rather than give a verdict, if they fail."""
        if self._ready:
            return
        reply = b""
        with contextlib.suppress(EOFError, OSError):
            if self._link.poll(START_SECONDS):
                reply = self._link.recv_bytes()
        self._ready = reply == READY
        if reply and not self._ready:
            self.stop()
            raise UserError(reply.decode())
        if not self._ready:
            self.stop()
            raise RuntimeError(f"the worker for {self._module} did not start; see stderr")

    def run(self, request: list[Any]) -> Verdict:
        """The verdict of one job. Kills the worker if it does not answer in time."""
        start = time.perf_counter()
        reply = ["timeout", None, None]
        try:
            # a row of a table may hold what JSON has no type for, such as a date
            self._link.send_bytes(json.dumps(request, default=str).encode())
            if self._link.poll(self._timeout):
                reply = json.loads(self._link.recv_bytes())
            else:
                self.stop()
        except (EOFError, OSError):
            self.stop()
            reply = ["crashed", None, f"its process exited with code {self.process.returncode}"]
        reason, answer, error = reply
        if reason == ENDS_RUN:
            raise UserError(error)
        seconds = time.perf_counter() - start
        return Verdict(reason=reason, answer=answer, seconds=seconds, error=error)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._link.close()


def work(fd: str, module: str, timeout: str, settings: str) -> None:
    """The worker process: imports the verifier, reports ready, answers until the channel closes."""
    parent = os.getppid()
    # a launcher sends SIGTERM to the whole job; the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link = Connection(int(fd))
    try:
        verifier, keywords = importlib.import_module(module), json.loads(settings)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            raise  # the verifier itself is missing
        sentence = f"{module} needs the package {error.name}, which is not installed"
        link.send_bytes(sentence.encode())
        return
    if getattr(verifier, "FENCED", True):
        with contextlib.suppress(ValueError, OSError):  # not supported on this platform
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    inspect.signature(verifier.verify).bind("", "", **keywords)  # else it does not start
    prepare = getattr(verifier, "prepare_worker", lambda **_: None)
    with link, contextlib.suppress(EOFError, OSError):
        try:
            prepare(**keywords)
        except UserError as error:
            link.send_bytes(str(error).encode())
            return
        link.send_bytes(READY)
        while os.getppid() == parent:
            if not link.poll(IDLE_CHECK_SECONDS):
                continue
            request = json.loads(link.recv_bytes())
            signal.setitimer(signal.ITIMER_REAL, float(timeout) + GRACE_SECONDS)
            reply = _answer(verifier, request, keywords)
            signal.setitimer(signal.ITIMER_REAL, 0)
            link.send_bytes(json.dumps(reply).encode())


def _answer(
    verifier: Any, request: list[Any], keywords: dict[str, Any]
) -> tuple[str, str | None, str | None]:
    """(reason, answer, error). Catches every exception, since the text comes from a model."""
    function, texts, context = request
    try:
        if function == "verify":
            return *verifier.verify(*texts, **keywords, **context), None
        return ("correct" if verifier.is_valid_gold(*texts) else "unparseable"), None, None
    except UserError as error:
        return ENDS_RUN, None, str(error)
    except Exception as error:
        if describe := getattr(verifier, "describe_error", None):
            return "crashed", None, describe(error, **keywords)
        return "crashed", None, f"{type(error).__name__}: {error}"[:300]
