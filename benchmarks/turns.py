"""Two programs that take turns, so that the noise of a shared machine hits both; and tables.

Knows nothing of what is measured. Standard library only: one of the programs runs in another
virtual environment.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("runs/bench")


class Gate:
    """The worker's side. `between(...)` ends one measured stretch, says how long it took, and
    waits to be told what to do in the next: the text of that line, or None to stop."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print goes to stderr: stdout is for the numbers
        self.began: tuple[float, float] | None = None

    def between(self, **facts: float) -> str | None:
        if self.began is not None:
            wall, cpu = self.began
            facts |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(facts), file=self.out, flush=True)
        told = sys.stdin.readline().strip()
        self.began = time.perf_counter(), time.process_time()
        return None if told in ("", "stop") else told


class Worker:
    """The other side: a program that has a gate, started and waiting at it."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._read()

    def turn(self, told: str) -> dict[str, float]:
        assert self.process.stdin is not None
        print(told, file=self.process.stdin, flush=True)
        return self._read()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended: {self.log.read_text()[-2000:]}")
        return json.loads(line)


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(ours) / statistics.median(theirs)


def spread(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratios of the rounds, lowest and highest: each round's two ran one after the other."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown, padded to be read as text too."""
    cells = [list(map(str, header)), *[[show(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def show(cell: Any) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def keep(part: str, text: str, numbers: Mapping[str, Any]) -> None:
    """Print a part's tables; they and their numbers also go to runs/bench."""
    print(text, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{part}.md").write_text(text + "\n")
    (RESULTS / f"{part}.json").write_text(json.dumps(numbers, indent=1) + "\n")
