"""Runs programs in alternating turns, so that load on a shared machine hits all; result tables.

This module does not know what is measured. Its imports are in the standard library (except in
`table`), because one of the programs runs in another virtual environment.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

RESULTS = Path("runs/bench")


class Gate:
    """The worker's end of the connection. Facts go to stdout, commands come from stdin."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # libraries print to stderr: stdout is for the numbers
        self.start: tuple[float, float] | None = None

    def end_turn(self, **facts: float) -> str | None:
        """Report the turn's facts with its wall and CPU seconds and the largest resident memory in
        GB (10^9 bytes, on Linux only), then wait for the next command.

        Returns the command, or None to stop.
        """
        if self.start is not None:
            wall, cpu = self.start
            facts |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            facts["peak"] = peak_gigabytes()
        print(json.dumps(facts), file=self.out, flush=True)
        command = sys.stdin.readline().strip()
        forget_peak()
        self.start = time.perf_counter(), time.process_time()
        return None if command in ("", "stop") else command


def peak_gigabytes() -> float:
    """The largest resident memory of this process since `forget_peak`; NaN where not Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e9


def forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Worker:
    """A program with a Gate, started as a subprocess and waiting for its first command."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._read()

    def turn(self, command: str) -> dict[str, float]:
        """Send a command and return the facts of the turn."""
        assert self.process.stdin is not None
        print(command, file=self.process.stdin, flush=True)
        return self._read()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} exited:\n{self.log.read_text()[-2000:]}")
        return json.loads(line)


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(ours) / statistics.median(theirs)


def spread(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The lowest and the highest ratio of a round, whose two turns ran one after the other."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    from tabulate import tabulate

    text = [[show(cell) for cell in row] for row in rows]
    return tabulate(text, header, tablefmt="pipe", disable_numparse=True)


def show(cell: Any) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def save_results(part: str, text: str, numbers: Mapping[str, Any]) -> None:
    """Print the tables of a part, and write them and their numbers to runs/bench."""
    print(text, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{part}.md").write_text(text + "\n")
    (RESULTS / f"{part}.json").write_text(json.dumps(numbers, indent=1) + "\n")
