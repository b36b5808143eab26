"""Where a run's metrics go: metrics.jsonl and rollouts/ always, the console, wandb on request.

Also the progress bar of programs that are not runs. Knows the names of metrics; nothing of how they
are computed.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from asymrl.errors import UserError, one_line
from asymrl.files import read_jsonl, write_atomically
from asymrl.run.alerts import violated_bounds

if TYPE_CHECKING:  # a program that only needs the progress bar loads no torch
    from asymrl.config.schema import Config, WarnConfig
    from asymrl.engines.distributed import World


class Tracker:
    """Receives what a run reports. This base class ignores it."""

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """A phase begins, or makes progress: `done` of `total` items."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of a finished step."""

    def rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """The rollouts of a step, one row each."""

    def close(self) -> None:
        """The run ends."""


class JsonlTracker(Tracker):
    """Writes metrics.jsonl, one object per step, and rollouts/step-000010.jsonl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics.write(json.dumps({"step": step, **nan_to_none(metrics)}) + "\n")
        self.metrics.flush()
        os.fsync(self.metrics.fileno())  # before the checkpoint of this step

    def rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps({"step": step, **row}) + "\n" for row in rows)
        write_atomically(self.folder / "rollouts" / f"step-{step:06d}.jsonl", lines)

    def close(self) -> None:
        self.metrics.close()


class WandbTracker(Tracker):
    """Logs to wandb. mode: online or offline; offline needs no account.

    A resumed run continues the same wandb run. The x-axis is our own metric `step`, so that steps
    repeated after a kill cover the old ones. If wandb fails later, training continues without it.
    """

    def __init__(self, folder: Path, project: str, mode: Any, config: Mapping[str, Any]) -> None:
        import wandb

        self.failures = (wandb.Error, OSError)
        try:
            self.run = wandb.init(
                dir=folder,
                id=wandb_id(folder),
                resume="allow",
                project=project,
                name=folder.name,
                mode=mode,
                config=dict(config),
            )
            self.run.define_metric("*", step_metric="step")
        except wandb.Error as error:
            raise UserError(f"tracking.wandb = {mode}: wandb failed: {one_line(error)}") from None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._try(lambda: self.run.log({"step": step, **nan_to_none(metrics)}))

    def close(self) -> None:
        self._try(self.run.finish)

    def _try(self, call: Callable[[], object]) -> None:
        if self.failures:
            try:
                call()
            except self.failures as error:
                self.failures = ()
                print(f"warning: wandb failed, the run continues without it: {error}", flush=True)


def wandb_id(folder: Path) -> str:
    """The wandb id of a run folder, created on first use."""
    file = folder / "wandb_id"
    if not file.is_file():
        write_atomically(file, uuid.uuid4().hex[:16])
    return file.read_text()


class ConsoleTracker(Tracker):
    """One live line on a terminal; elsewhere one plain line per step."""

    def __init__(self, name: str, first_step: int, steps: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True, force_jupyter=False)
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
        summary = summary_line(metrics)
        self.bar.update(self.task, completed=step, summary=summary)
        if any(name.startswith("eval/") for name in metrics) or not self.console.is_terminal:
            done = max(1, step - self.first_step)
            left = (time.monotonic() - self.started) / done * (self.steps - step)
            eta = f"  ETA {minutes_and_seconds(left)}" if step else ""
            self.console.print(f"{self.name} step {step}/{self.steps}{summary}{eta}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, markup=False)

    def close(self) -> None:
        self.bar.stop()


SUMMARY_NAMES = {"reward/mean": "reward", "policy/entropy": "entropy"}


def summary_line(metrics: Mapping[str, float]) -> str:
    """Reward, entropy, accuracy on the benchmarks and phase times in one line."""
    parts = [
        f"{short} {metrics[name]:.3f}" for name, short in SUMMARY_NAMES.items() if name in metrics
    ]
    parts += [
        f"{' '.join(name.split('/')[1:-1])} {number:.3f}"
        for name, number in metrics.items()
        if name.startswith("eval/") and name.endswith("/avg")
    ]
    parts += [
        f"{name.removeprefix('time/')} {number:.2f}s"
        for name, number in metrics.items()
        if name.startswith("time/") and name != "time/step" and number >= 0.005
    ]
    return "".join(f"  {part}" for part in parts)


class Alerts(Tracker):
    """Prints a warning when a bound becomes violated, and not again until it has been met.

    before: the metrics of the steps that a resumed run has done.
    """

    def __init__(
        self,
        bounds: WarnConfig,
        say: Callable[[str], None],
        before: Sequence[Mapping[str, float]] = (),
    ) -> None:
        self.bounds, self.say = bounds, say
        self.history = list(before)
        self.active: Mapping[str, str] = violated_bounds(before, bounds) if before else {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if "policy/entropy" not in metrics:  # step 0 is an evaluation
            return
        self.history.append(metrics)
        violated = violated_bounds(self.history, self.bounds)
        for name in violated.keys() - self.active.keys():
            self.say(f"warning: step {step}: {violated[name]}")
        self.active = violated


class MemoryNote(Tracker):
    """Prints the peak of the GPU memory beside the estimate, after the first step that has both."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.said = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        peaks, estimates = (
            {name.rpartition("/")[2]: n for name, n in metrics.items() if name.startswith(prefix)}
            for prefix in ("perf/gpu_memory_peak/", "perf/gpu_memory_estimate/")
        )
        if self.said or not peaks or not estimates:
            return
        phase, estimate = max(peaks, key=lambda phase: peaks[phase]), max(estimates.values())
        self.say(
            f"GPU memory in step {step}: at most {peaks[phase]:.1f} GiB in use, in {phase}; the "
            f"estimate was {estimate:.1f} GiB"
        )
        self.said = True


class Trackers(Tracker):
    """Passes everything on to several trackers."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers = trackers

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        for tracker in self.trackers:
            tracker.phase(name, done, total)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(step, metrics)

    def rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        rows = list(rows)
        for tracker in self.trackers:
            tracker.rollouts(step, rows)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


def build_tracker(
    config: Config, run_dir: Path, first_step: int, world: World, watchdog: Tracker
) -> Tracker:
    """The trackers of a run: on rank 0 files, wandb, console and alerts, on every rank the
    watchdog. first_step: the step of the checkpoint that the run starts from."""
    if not world.first:
        return watchdog
    trackers: list[Tracker] = [watchdog, JsonlTracker(run_dir)]
    if config.tracking.wandb != "off":
        project, mode = config.tracking.project, config.tracking.wandb
        trackers.append(WandbTracker(run_dir, project, mode, config.model_dump()))
    console = ConsoleTracker(run_dir.name, first_step, config.steps)
    alerts = Alerts(config.warn, console.say, training_metrics(run_dir))
    return Trackers(*trackers, console, alerts, MemoryNote(console.say))


def training_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The metrics of the training steps in metrics.jsonl; nan for null."""
    return [
        {name: math.nan if number is None else number for name, number in row.items()}
        for _, row in read_jsonl(run_dir / "metrics.jsonl")
        if "policy/entropy" in row
    ]


class Clock:
    """Announces phases to a tracker and measures their seconds: `with clock("update"): ...`

    measure(phase) is a context manager that measures something else of the phase.
    """

    def __init__(
        self, tracker: Tracker, measure: Callable[[str], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self.tracker, self.measure = tracker, measure
        self.seconds: dict[str, float] = {}
        self.phase = ""
        self.started = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.phase = phase
        self.tracker.phase(phase)
        start = time.perf_counter()
        with self.measure(phase):
            yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def report(self, done: int, total: int) -> None:
        """Progress in the current phase."""
        self.tracker.phase(self.phase, done, total)

    def metrics(self) -> dict[str, float]:
        """time/<phase> for each phase, and time/step since the clock was made. Seconds."""
        phases = {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        return phases | {"time/step": time.perf_counter() - self.started}


@contextmanager
def progress_bar(
    description: str, unit: str, console: Console
) -> Iterator[Callable[[int, int], None]]:
    """A callback that takes (items done, items in total) and shows the progress.

    On a terminal: a live bar; elsewhere: about ten plain lines. Both show the time left; items
    already done at the first call are not counted in it. unit: what an item is called, in the
    plural.
    """
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(f"{unit}, left"), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield partial(_show_progress, bar, bar.add_task(description, total=None), unit)


def _show_progress(bar: Progress, task_id: TaskID, unit: str, done: int, total: int) -> None:
    task = bar.tasks[task_id]
    if task.total is None:
        bar.reset(task_id, total=total, completed=done)
        if done:
            bar.console.print(f"{done} of {total} {unit} exist already", highlight=False)
        return
    before, tenth = task.completed, max(1, total // 10)
    bar.update(task_id, completed=done)
    if not bar.console.is_terminal and done // tenth > before // tenth:
        left = task.time_remaining
        eta = f", {minutes_and_seconds(left)} left" if left else ""
        bar.console.print(f"{done}/{total} {unit}{eta}", highlight=False)


def minutes_and_seconds(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def nan_to_none(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN and no infinity: both become null."""
    return {name: n if math.isfinite(n) else None for name, n in metrics.items()}
