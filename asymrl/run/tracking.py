"""Where a run's numbers go: metrics.jsonl and rollouts/ always, the console, wandb on request.

Knows what a metric is called and nothing of how it came about.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asymrl.errors import UserError, one_line
from asymrl.files import write_atomically


class Tracker(Protocol):
    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """What goes on now, and how far it is."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


class NullTracker:
    def phase(self, name: str, done: int = 0, total: int = 0) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


class JsonlTracker(NullTracker):
    """metrics.jsonl, one object a step, flushed as it is written; rollouts/step-000010.jsonl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics.write(json.dumps({"step": step, **finite(metrics)}) + "\n")
        self.metrics.flush()
        os.fsync(self.metrics.fileno())  # a checkpoint on disk has its metrics on disk

    def rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps({"step": step, **row}) + "\n" for row in rows)
        write_atomically(self.folder / "rollouts" / f"step-{step:06d}.jsonl", lines)

    def close(self) -> None:
        self.metrics.close()


class WandbTracker(NullTracker):
    """mode is online or offline; offline needs no account.

    A run that goes on is the same wandb run, under the id in its folder. Steps are drawn over
    `step`, a metric of ours, so that those taken again after a kill lie over the old ones. Where
    wandb fails in mid-run, training goes on without it: metrics.jsonl has all.
    """

    def __init__(self, folder: Path, project: str, mode: Any, config: Mapping[str, Any]) -> None:
        import wandb

        self.failures = (wandb.Error, OSError)
        given = {"project": project, "name": folder.name, "mode": mode, "config": dict(config)}
        try:
            self.run = wandb.init(dir=folder, id=wandb_id(folder), resume="allow", **given)
            self.run.define_metric("*", step_metric="step")
        except wandb.Error as error:
            raise UserError(f"tracking.wandb = {mode}: wandb refuses ({one_line(error)})") from None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._try(lambda: self.run.log({"step": step, **finite(metrics)}))

    def close(self) -> None:
        self._try(self.run.finish)

    def _try(self, call: Callable[[], object]) -> None:
        if self.failures:
            try:
                call()
            except self.failures as error:
                self.failures = ()
                print(f"warning: wandb failed, and is left out from here on: {error}", flush=True)


def wandb_id(folder: Path) -> str:
    """Made once a run folder."""
    file = folder / "wandb_id"
    if not file.is_file():
        write_atomically(file, uuid.uuid4().hex[:16])
    return file.read_text()


class ConsoleTracker(NullTracker):
    """One live line on a terminal; elsewhere one plain line a step."""

    def __init__(self, name: str, first_step: int, steps: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.name, self.steps = name, steps
        self.started, self.first_step = time.monotonic(), first_step
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[phase]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=steps, completed=first_step, summary="", phase="")
        self.bar.start()

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        share = f" {done}/{total}" if total else ""
        self.bar.update(self.task, phase=f"{name}{share}")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        summary = summarise(metrics)
        self.bar.update(self.task, completed=step, summary=summary)
        if any(name.startswith("eval/") for name in metrics) or not self.console.is_terminal:
            done = max(1, step - self.first_step)
            left = (time.monotonic() - self.started) / done * (self.steps - step)
            eta = f"  ETA {int(left // 60)}:{int(left % 60):02d}" if step else ""
            self.console.print(f"{self.name} step {step}/{self.steps}{summary}{eta}")

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    def close(self) -> None:
        self.bar.stop()


SUMMARY = {"reward/mean": "reward", "policy/entropy": "entropy"}


def summarise(metrics: Mapping[str, float]) -> str:
    """Reward, entropy, held-out accuracy and phase times, as one short text."""
    parts = [f"{short} {metrics[name]:.3f}" for name, short in SUMMARY.items() if name in metrics]
    parts += [
        f"{name.split('/')[1]} {number:.3f}"
        for name, number in metrics.items()
        if name.startswith("eval/") and name.endswith("/avg")
    ]
    parts += [
        f"{name.removeprefix('time/')} {number:.2f}s"
        for name, number in metrics.items()
        if name.startswith("time/") and name != "time/step" and number >= 0.005
    ]
    return "".join(f"  {part}" for part in parts)


class Trackers(NullTracker):
    """Several at once."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers = trackers

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        for tracker in self.trackers:
            tracker.phase(name, done, total)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(step, metrics)

    def rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        kept = list(rows)
        for tracker in self.trackers:
            tracker.rollouts(step, kept)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


class Clock:
    """Seconds a phase, told to a tracker as it begins: `with clock("update"): ...`."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.seconds: dict[str, float] = {}
        self.phase = ""
        self.started = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.phase = phase
        self.tracker.phase(phase)
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def report(self, done: int, total: int) -> None:
        self.tracker.phase(self.phase, done, total)

    def metrics(self) -> dict[str, float]:
        phases = {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        return phases | {"time/step": time.perf_counter() - self.started}


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN and no infinity: they become null."""
    return {name: n if math.isfinite(n) else None for name, n in metrics.items()}
