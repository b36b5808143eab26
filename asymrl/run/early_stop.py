"""Stops a run before its last step: on a signal, after --max-minutes, or without improvement.

A run stops between two steps, or during generation, when it can drop the current step because
nothing has changed yet. Then it saves. Handles signals, clocks and scores; independent of training.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Self

from asymrl.config.schema import GREEDY, Config
from asymrl.engines.distributed import World
from asymrl.files import read_jsonl
from asymrl.run.exit_codes import UNFINISHED
from asymrl.types import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAME_REQUEST = 2.0  # seconds: a terminal and a launcher may both forward one Ctrl-C


class StopSignals:
    """Records the first of SIGNALS that arrives after listen(), as a request to stop.

    A second signal, more than SAME_REQUEST seconds later, gets its default action. A signal that
    this process ignores (as nohup and background jobs of a shell do) stays ignored.

    A context manager, which restores the previous handlers at exit. Enter it before the watchdog,
    so that it exits later: when a rank dies, the launcher sends SIGTERM to the others, and without
    our handlers that would end them before the watchdog has reported which rank died.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Install the handlers. Until then, a signal ends the process. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self.received_at = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self.received_at > SAME_REQUEST:
            signal.signal(number, self.previous[number])
            signal.raise_signal(signal.Signals(number))


@dataclass
class Stop:
    """Decides after each step whether the run stops now.

    until: the time.monotonic() value at which to stop. patience: stop after this many evaluations
    in a row without a new best score; None: no limit. best_on: the benchmark whose accuracy is the
    score; None: the mean over all benchmarks. scores: of the evaluations so far, oldest first.
    """

    world: World
    signals: StopSignals
    until: float = math.inf
    patience: int | None = None
    best_on: str | None = None
    scores: list[float] = field(default_factory=list)

    def requested(self) -> str | None:
        """Why this process should stop: a signal or --max-minutes; else None. Not collective."""
        late = time.monotonic() >= self.until
        return self.signals.received or ("--max-minutes has passed" if late else None)

    def __call__(self, metrics: Mapping[str, float]) -> Stopped | None:
        """Why the run stops, the same on every rank; None if it continues. Collective.

        metrics: those of a step that has just finished; pass them once, because an evaluation in
        them counts for the patience. Pass an empty mapping in the middle of a step.
        """
        score = eval_score(metrics, self.best_on)
        self.scores += [] if score is None else [score]
        for reason in self.world.gather(self.requested()):
            if reason:
                return Stopped(why=reason, code=UNFINISHED)
        since_best = evaluations_since_best(self.scores)
        if self.patience and since_best >= self.patience:
            return Stopped(why=f"the last {since_best} evaluations did not improve", code=0)
        return None


def build_stop(
    config: Config, run_dir: Path, world: World, until: float, signals: StopSignals
) -> Stop:
    """The Stop of a run; the evaluations in its metrics.jsonl count for the patience."""
    best_on = config.checkpoint.best_on
    scores = [*read_eval_scores(run_dir, best_on).values()]
    return Stop(world, signals, until, config.eval.patience, best_on, scores)


def read_eval_scores(run_dir: Path, best_on: str | None) -> dict[int, float]:
    """Step -> eval_score, for the evaluations in metrics.jsonl, oldest first."""
    file = run_dir / "metrics.jsonl"
    rows = [row for _, row in read_jsonl(file)] if file.is_file() else []
    scores = {row["step"]: eval_score(row, best_on) for row in rows}
    return {step: score for step, score in scores.items() if score is not None}


def eval_score(metrics: Mapping[str, Any], best_on: str | None) -> float | None:
    """The greedy accuracy of an evaluation: eval/<best_on>/greedy/avg, or the mean over all
    benchmarks if best_on is None; None if there was no greedy evaluation."""
    scores = {
        name: value
        for name, value in metrics.items()
        if name.startswith("eval/")
        and name.endswith(f"/{GREEDY}/avg")
        and isinstance(value, int | float)
    }
    if best_on is not None:
        return scores.get(f"eval/{best_on}/{GREEDY}/avg")
    return sum(scores.values()) / len(scores) if scores else None


def evaluations_since_best(scores: Sequence[float]) -> int:
    """How many evaluations followed the best one, or the earliest best one if several are equal."""
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0
