"""A run that is stuck becomes a run that failed, and says where each rank was.

A thread beside the run hears of each phase as it begins and of progress in it (a watch is a
Tracker), shows that to the other ranks, and ends the process where no rank had news for longer than
its phase may take, where another rank's process is gone, or where another rank has failed. The
launcher then ends the rest. Knows phases and the processes of one node; nothing of what they do.
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
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError

from asymrl.engines.distributed import World, afresh
from asymrl.errors import RESUME_HINT
from asymrl.run.tracking import NullTracker
from asymrl.types import frozen

TICK = 1.0  # seconds between two looks
SUSPENDED = 5.0  # a longer gap between two looks is a process, or a machine, that was stopped
TIME_TO_SPEAK = 3.0  # seconds: every rank says what it sees before the launcher ends it
PATIENCE = timedelta(seconds=20)  # with the store; then the launcher, or the first rank, is gone
FAILED = "another rank has failed"


@frozen
class Sign:
    """What a rank shows to the others. news: how often it had any; state: running, stuck, failed
    or ended."""

    rank: int
    process: int
    step: int
    phase: str
    progress: str
    news: int
    state: str


class Watchdog(NullTracker):
    """A context manager around a run. minutes: by phase, that it may take without news.

    folder: where the stacks of a stuck process are written.
    """

    def __init__(self, world: World, minutes: Mapping[str, float], folder: Path) -> None:
        self.world, self.minutes, self.folder = world, minutes, folder
        self.step, self.name, self.progress, self.state = 0, "load", "", "running"
        self.news = 0
        self.over = threading.Event()
        self.store: Any = None
        self.thread = threading.Thread(target=self._look, daemon=True, name="watch")

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        self.name, self.progress = name, f" {done}/{total}" if total else ""
        self.news += 1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.step = step + 1

    def __enter__(self) -> Self:
        if self.world.size > 1:  # a connection of its own: the main thread's may be waiting
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            self.store = afresh(TCPStore(host, port, timeout=PATIENCE, wait_for_workers=False))
            self._exchange()  # so that a rank which dies at once is missed
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.state = "ended" if kind is None else "failed"
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        quiet = dict.fromkeys(range(self.world.size), 0.0)
        heard: dict[int, int] = {}
        last = time.monotonic()
        while True:
            ended = self.over.wait(TICK)
            passed = time.monotonic() - last
            last += passed
            try:
                signs = self._exchange()
            except DistError as error:
                if ended:
                    return
                self._end(f"the launcher or the first rank does not answer ({error})", [], quiet)
            if ended:
                return
            for rank in quiet:  # one that shows no sign is quiet too
                quiet[rank] += TICK if passed > SUSPENDED else passed
            for sign in signs:
                quiet[sign.rank] *= heard.get(sign.rank) == sign.news
                heard[sign.rank] = sign.news
            if why := self._trouble(signs, quiet):
                self._end(why, signs, quiet)

    def _exchange(self) -> list[Sign]:
        """Every rank's sign, this one's shown first; a rank that showed none yet has none."""
        mine = Sign(
            rank=self.world.rank,
            process=os.getpid(),
            step=self.step,
            phase=self.name,
            progress=self.progress,
            news=self.news,
            state=self.state,
        )
        if self.store is None:
            return [mine]
        keys = [f"watch/{rank}" for rank in range(self.world.size)]
        self.store.set(keys[mine.rank], json.dumps(asdict(mine)))
        shown = [self.store.get(key) for key in keys if self.store.check([key])]
        return [Sign(**json.loads(sign)) for sign in shown]

    def _trouble(self, signs: Sequence[Sign], quiet: Mapping[int, float]) -> str | None:
        others = [sign for sign in signs if sign.rank != self.world.rank]
        for sign in others:
            if sign.state == "running" and self._near(sign.rank) and not alive(sign.process):
                return f"rank {sign.rank} (process {sign.process}) is gone"
        if any(sign.state == "failed" for sign in others):
            return FAILED
        limit = max(self.minutes[sign.phase] for sign in signs)
        if any(sign.state == "stuck" for sign in others) or min(quiet.values()) > 60 * limit:
            return f"no news for {min(quiet.values()):.0f} s, where {limit:g} minutes are the limit"
        return None

    def _near(self, rank: int) -> bool:
        """On this node, where processes are known by their numbers. Nodes are filled in turn."""
        of_node = int(os.environ.get("LOCAL_WORLD_SIZE") or self.world.size)
        return rank // of_node == self.world.rank // of_node

    def _end(self, why: str, signs: Sequence[Sign], quiet: Mapping[int, float]) -> NoReturn:
        """Say it, write where every thread is, and end this process."""
        self.state = "stuck"
        with contextlib.suppress(DistError):
            self._exchange()
        if why != FAILED:  # that rank says itself what happened
            where = "; ".join(described(sign, quiet[sign.rank]) for sign in signs)
            text = ". ".join(part for part in (why, where, RESUME_HINT) if part)
            with contextlib.suppress(OSError):  # a log on a full disk, a pipe that is closed
                print(f"error: rank {self.world.rank}: {text}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                file = (self.folder / f"stuck-rank-{self.world.rank}.txt").open("w")
                faulthandler.dump_traceback(file)
        time.sleep(TIME_TO_SPEAK)
        os._exit(1)


def described(sign: Sign, quiet: float) -> str:
    where = f"{sign.phase}{sign.progress}" + (f" of step {sign.step}" if sign.step else "")
    return f"rank {sign.rank} was in {where}, {quiet:.0f} s without news"


def alive(process: int) -> bool:
    """Of this node. A process that nobody has waited for yet is dead."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        pass
    with contextlib.suppress(PermissionError):  # it is gone, or there is no /proc
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
