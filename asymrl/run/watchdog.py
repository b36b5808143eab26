"""Ends a process if the run hangs or another rank dies, and reports what each rank was doing.

The watchdog is a Tracker: it receives every phase and its progress. Its thread shares them with the
other ranks, and ends the process if no rank makes progress within the deadline of its phase, if the
process of another rank dies, or if another rank fails. It uses the names of phases and the process
ids of one node, and does not know what the phases do.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError

from asymrl.engines.distributed import World, store_of_attempt
from asymrl.errors import RESUME_HINT
from asymrl.run.tracking import Tracker
from asymrl.types import frozen

INTERVAL = 1.0  # seconds between two checks
SUSPENDED = 5.0  # a longer gap means that the process, or the machine, was suspended
TIME_TO_DIE = 2.0  # seconds from a lost connection to the death of the process behind it
# Seconds for every rank to report before the launcher ends them all. A rank that waits TIME_TO_DIE
# then has 3 s left to print its message and traceback, on a machine that may be busy.
TIME_TO_REPORT = TIME_TO_DIE + 3.0
STORE_TIMEOUT = timedelta(seconds=20)  # after that the launcher, or rank 0, must be dead
FAILED = "another rank has failed"


@frozen
class Heartbeat:
    """What a rank publishes. progress_count: calls of phase() so far; state: running, hung, failed
    or ended."""

    rank: int
    process: int
    step: int = 0
    phase: str = "load"
    progress: str = ""
    progress_count: int = 0
    state: str = "running"


class Watchdog(Tracker):
    """A context manager around a run.

    minutes: for each phase, how long it may last without progress. folder: where the stack traces
    of a hung process are written.
    """

    def __init__(self, world: World, minutes: Mapping[str, float], folder: Path) -> None:
        self.world, self.minutes, self.folder = world, minutes, folder
        self.mine, self.state = Heartbeat(rank=world.rank, process=os.getpid()), "running"
        self.idle = dict.fromkeys(range(world.size), 0.0)  # seconds since each rank's progress
        self.finished = threading.Event()
        self.store: Any = None
        self.thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        progress, count = f" {done}/{total}" if total else "", self.mine.progress_count + 1
        self.mine = replace(self.mine, phase=name, progress=progress, progress_count=count)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.mine = replace(self.mine, step=step + 1)

    def __enter__(self) -> Self:
        if self.world.size > 1:  # its own connection: the main thread's may be blocked
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = TCPStore(host, port, timeout=STORE_TIMEOUT, wait_for_workers=False)
            self.store = store_of_attempt(store)
            self._exchange()  # so that the death of a rank is noticed from now on
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.state = "ended" if kind is None else "failed"
        self.finished.set()
        self.thread.join()
        if isinstance(error, RuntimeError) and self.world.size > 1:
            with contextlib.suppress(DistError):
                self._report_dead_rank()

    def _watch(self) -> None:
        counts: dict[int, int] = {}
        last = time.monotonic()
        while True:
            finished = self.finished.wait(INTERVAL)
            passed = time.monotonic() - last
            last += passed
            try:
                heartbeats = self._exchange()
            except DistError as error:
                if finished:
                    return
                self._end(f"the launcher or rank 0 does not answer ({error})", [])
            if finished:
                return
            for rank in self.idle:  # including ranks that have not sent a heartbeat yet
                self.idle[rank] += INTERVAL if passed > SUSPENDED else passed
            for beat in heartbeats:
                if counts.get(beat.rank) != beat.progress_count:
                    self.idle[beat.rank] = 0.0
                counts[beat.rank] = beat.progress_count
            if problem := self._problem(heartbeats):
                self._end(problem, heartbeats)

    def _exchange(self) -> list[Heartbeat]:
        """Publish this rank's heartbeat; return those of all ranks that have published one."""
        mine = replace(self.mine, state=self.state)
        if self.store is None:
            return [mine]
        keys = [f"watch/{rank}" for rank in range(self.world.size)]
        self.store.set(keys[mine.rank], json.dumps(asdict(mine)))
        published = [self.store.get(key) for key in keys if self.store.check([key])]
        return [Heartbeat(**json.loads(text)) for text in published]

    def _problem(self, heartbeats: Sequence[Heartbeat]) -> str | None:
        """Why this process must end; None if it can continue."""
        if dead := self._dead_rank(heartbeats):
            return dead
        states = {beat.state for beat in heartbeats if beat.rank != self.world.rank}
        if "failed" in states:
            return FAILED
        minutes, phase = max((self.minutes[beat.phase], beat.phase) for beat in heartbeats)
        idle = min(self.idle.values())
        if "hung" in states or idle > 60 * minutes:
            limit = f"deadlines.{phase} = {minutes:g} minutes"
            return f"no rank has made progress for {idle:.0f} s ({limit})"
        return None

    def _dead_rank(self, heartbeats: Sequence[Heartbeat]) -> str | None:
        """An error message if the process of a running rank of this node no longer exists."""
        for beat in heartbeats:
            running = beat.state == "running" and self._on_this_node(beat.rank)
            if running and not alive(beat.process):
                return f"rank {beat.rank} (process {beat.process}) has died"
        return None

    def _on_this_node(self, rank: int) -> bool:
        """Process ids are valid on one node only. Launchers fill one node after the other."""
        per_node = self.world.local_size
        return rank // per_node == self.world.rank // per_node

    def _report_dead_rank(self) -> None:
        """If the death of another rank caused the error that ends this one, name that rank.

        Wait up to TIME_TO_DIE, because a dying process loses its connections before it is gone.
        """
        deadline = time.monotonic() + TIME_TO_DIE
        while time.monotonic() < deadline:
            heartbeats = self._exchange()
            if dead := self._dead_rank(heartbeats):
                return self._report(dead, heartbeats)
            time.sleep(0.05)

    def _report(self, problem: str, heartbeats: Sequence[Heartbeat]) -> None:
        where = "; ".join(describe_heartbeat(beat, self.idle[beat.rank]) for beat in heartbeats)
        text = ". ".join(part for part in (problem, where, RESUME_HINT) if part)
        with contextlib.suppress(OSError):  # a log on a full disk, a closed pipe
            print(f"error: rank {self.world.rank}: {text}", file=sys.stderr, flush=True)

    def _end(self, problem: str, heartbeats: Sequence[Heartbeat]) -> NoReturn:
        """Report the problem, write the stack traces of all threads, and end this process."""
        self.state = "hung"
        with contextlib.suppress(DistError):
            self._exchange()
        if problem != FAILED:  # the rank that failed reports its own error
            self._report(problem, heartbeats)
            with contextlib.suppress(OSError):
                file = (self.folder / f"stuck-rank-{self.world.rank}.txt").open("w")
                faulthandler.dump_traceback(file)
        time.sleep(TIME_TO_REPORT)
        os._exit(1)


def describe_heartbeat(beat: Heartbeat, idle: float) -> str:
    """For example: rank 1 was in generate 3/12 of step 8, 4 s without progress."""
    where = f"{beat.phase}{beat.progress}" + (f" of step {beat.step}" if beat.step else "")
    return f"rank {beat.rank} was in {where}, {idle:.0f} s without progress"


def alive(process: int) -> bool:
    """True if a process of this node is running. A zombie does not count as running."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        pass
    with contextlib.suppress(PermissionError):  # the process is gone, or there is no /proc
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
