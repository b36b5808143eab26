"""Train with every combination of some settings, with several seeds each, and compare the results.

    python -m asymrl.sweep CONFIG key=a,b,c ... [--row ROW,ROW] [--seeds N] [--jobs N] [--out DIR]

Every run is a run of train.py in OUT/<settings>/seed-<seed>, on one thread of a CPU or on one GPU.
Run the same command again to resume: finished runs are skipped, others resume from their last
checkpoint. At the end: OUT/report.html, and OUT/results.csv, .md and .tex with the last evaluation.
Without several values, <settings> is the name of the config: runs/sweep/pocket/pocket/seed-0.

Exit codes: 0 done; 1 some runs failed; 2 invalid input; 75 stopped by SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from asymrl.engines.distributed import from_environment
from asymrl.engines.gpus import count_gpus
from asymrl.errors import UserError, counted
from asymrl.files import locked
from asymrl.report.page import write_report
from asymrl.run import workers
from asymrl.run.exit_codes import UNFINISHED, exit_code
from asymrl.run.workers import Failure, Task
from asymrl.sweep.execute import describe_end, execute
from asymrl.sweep.plan import Run, check_out, config_name, is_finished, make_arms, make_runs
from asymrl.sweep.results import check_results, write_results

BOUNDS = {"seeds": 1000, "jobs": 1000}
ONE_THREAD = ("policy.threads=1",)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m asymrl.sweep",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("config", help="a path, or a bare name in configs/")
    parser.add_argument(
        "values",
        nargs="*",
        metavar="key.sub=a,b,c",
        help="a setting and its values; one value applies to all runs",
    )
    parser.add_argument(
        "--row", metavar="ROW,ROW", help="methods: paths, or names in configs/rows/"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds per combination (default: 1)")
    parser.add_argument(
        "--jobs", type=int, help="runs at a time; default: one per GPU, or per CPU core without one"
    )
    parser.add_argument("--out", type=Path, help="default: runs/sweep/<config>")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(partial(sweep, parse(argv)))


def sweep(arguments: argparse.Namespace) -> int:
    """The exit code."""
    for name, most in BOUNDS.items():
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= most:
            raise UserError(f"--{name} must be from 1 to {most} (got {value})")
    if from_environment().size > 1:
        raise UserError("a sweep starts its runs itself; run it without accelerate or torchrun")
    gpus = visible_gpus(count_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    places = make_places(arguments.jobs, gpus, os.cpu_count() or 1)
    arms = make_arms(arguments.config, arguments.values, arguments.row)
    out = arguments.out or Path("runs") / "sweep" / config_name(arguments.config, None)
    runs = make_runs(arguments.config, arms, arguments.seeds, out, () if gpus else ONE_THREAD)
    check_out(out)
    finished = [run for run in runs if is_finished(run)]
    check_results(runs, out)
    print(
        f"{out}: {counted(len(arms), 'combination')} x {counted(arguments.seeds, 'seed')}, "
        f"{len(finished)} of {counted(len(runs), 'run')} already finished; "
        f"{min(len(places), len(runs))} at a time, each on one {'GPU' if gpus else 'CPU thread'}",
        flush=True,
    )
    with locked(
        out, refused=f"--out {out} cannot be written", busy=f"another sweep is running in {out}"
    ):
        try:
            failures = run_all(arguments.config, runs, finished, places)
        except KeyboardInterrupt:
            print("stopped; run the same command again to resume", file=sys.stderr)
            return UNFINISHED
        return conclude(runs, failures, out)


def visible_gpus(count: int, visible: str | None) -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them. visible: its value, if set."""
    return visible.split(",")[:count] if visible else [str(n) for n in range(count)]


def make_places(jobs: int | None, gpus: Sequence[str], cores: int) -> list[str | None]:
    """Where runs execute at a time: a GPU each, or None for a CPU thread."""
    if not gpus:
        return [None] * (jobs or cores)
    if jobs and jobs > len(gpus):
        raise UserError(f"--jobs {jobs}: each run needs a GPU, and this machine has {len(gpus)}")
    return [*gpus[:jobs]]


def run_all(
    config: str, runs: Sequence[Run], finished: Sequence[Run], places: Sequence[str | None]
) -> list[Failure]:
    skipped = {run.folder for run in finished}
    tasks = [
        Task(
            name=run.name,
            log=run.folder / "train.log",
            arguments=(config, run.overrides, run.arm.row, run.config, run.folder),
        )
        for run in runs
        if run.folder not in skipped
    ]
    if not tasks:
        return []
    with workers.progress(len(runs), len(finished)) as report:
        return workers.execute_all(tasks, execute, places, describe_end, report)


def conclude(runs: Sequence[Run], failures: Sequence[Failure], out: Path) -> int:
    """Write report and results of the runs that did not fail, and name those that did."""
    reasons = {failure.task.log: failure.reason for failure in failures}
    order = list(dict.fromkeys(run.arm.name for run in runs))
    done = [run for run in runs if run.folder / "train.log" not in reasons]
    done.sort(key=lambda run: order.index(run.arm.name))
    if done:
        names = {run.folder.resolve(): run.arm.name for run in done}
        for sentence in write_report([run.folder for run in done], out / "report.html", names):
            print(f"skipped: {sentence}", file=sys.stderr)
        files = write_results(done, out)
        if files:
            print(out.joinpath("results.md").read_text(encoding="utf-8"))
        print(f"wrote {', '.join(map(str, [out / 'report.html', *files]))}", flush=True)
    for log, reason in reasons.items():
        print(f"failed: {log.parent}: {reason} (log: {log})", file=sys.stderr)
    if failures:
        print(
            f"error: {len(failures)} of {counted(len(runs), 'run')} failed and left out; the same "
            "command runs them again",
            file=sys.stderr,
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
