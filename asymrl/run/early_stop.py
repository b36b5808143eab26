"""When a run ends before its last step: it is asked to, its time is up, or it no longer improves.

A run stops between a step and the next, or drops the step that it is in before that has changed
anything; what it has is then saved. Knows signals, clocks and scores; nothing of training.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from asymrl.engines.distributed import World
from asymrl.run.exit_codes import UNFINISHED
from asymrl.types import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ONCE = 2.0  # seconds: a terminal and a launcher may both pass on one Ctrl-C


class Stop:
    """Why this run should stop now, if it should.

    until: on the clock of time.monotonic(). patience: evaluations in a row that may pass without a
    better score than before them; scores: those so far, oldest first; best_on: the benchmark that
    is the score, where one is.
    """

    def __init__(
        self,
        world: World,
        *,
        until: float = math.inf,
        patience: int | None = None,
        best_on: str | None = None,
        scores: Sequence[float] = (),
    ) -> None:
        self.world, self.until = world, until
        self.patience, self.best_on, self.scores = patience, best_on, list(scores)
        self.heard: str | None = None

    def asked(self) -> str | None:
        """This process's own reason: a signal, or the time."""
        late = time.monotonic() >= self.until
        return self.heard or ("the time of --max-minutes is over" if late else None)

    def __call__(self, metrics: Mapping[str, float]) -> Stopped | None:
        """The same on every rank, if any of them has a reason. Collective.

        metrics: of a step that is done, and that was not shown before, if there is one; its
        evaluation counts for the patience.
        """
        score = score_of(metrics, self.best_on)
        self.scores += [] if score is None else [score]
        for why in self.world.gather(self.asked()):
            if why:
                return Stopped(why=why, code=UNFINISHED)
        passed = stale(self.scores)
        if self.patience and passed >= self.patience:
            return Stopped(why=f"none of the last {passed} evaluations was better", code=0)
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGNALS ask for a stop; a second one, some seconds later, is as it was. One that this
        process ignores (as nohup and a shell's background make it) stays ignored."""
        mine = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._hear) for number in mine}
        try:
            yield
        finally:
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard is None:
            self.heard, self.heard_at = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self.heard_at > ONCE:
            signal.signal(number, self.before[signal.Signals(number)])
            signal.raise_signal(signal.Signals(number))


def score_of(metrics: Mapping[str, float], best_on: str | None) -> float | None:
    """What an evaluation is judged by: avg of one benchmark, or the mean over all of them; None
    where nothing was evaluated."""
    scored = {n: x for n, x in metrics.items() if isinstance(x, int | float)}
    found = {n: x for n, x in scored.items() if n.startswith("eval/") and n.endswith("/avg")}
    if best_on is not None:
        return found.get(f"eval/{best_on}/avg")
    return sum(found.values()) / len(found) if found else None


def stale(scores: Sequence[float]) -> int:
    """Evaluations since the best one, the earliest of equals."""
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def scores_of(metrics: Path, best_on: str | None) -> list[float]:
    """The scores of a run so far, from its metrics.jsonl."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    found = [score_of(json.loads(line), best_on) for line in lines]
    return [score for score in found if score is not None]
