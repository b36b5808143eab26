"""Making the pocket folder while a person looks on: a live bar, or some ten plain lines."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from asymrl.pocket.build import ensure


def ensure_shown(folder: Path, seed: int = 0, *, force: bool = False) -> Path:
    """`ensure` with its progress on the console; says nothing where nothing is to be made."""
    console = Console()
    if not console.is_terminal:
        return ensure(folder, seed, Lines(), force=force)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("warm start", total=None, visible=False)

        def show(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text, visible=True)

        return ensure(folder, seed, show, force=force)


class Lines:
    """Progress as plain lines, each with the time that is left."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def __call__(self, done: int, total: int, text: str) -> None:
        if done % max(1, total // 10) == 0 or done == total:
            left = (time.perf_counter() - self.started) / done * (total - done)
            print(f"{text}: step {done}/{total}, {left:.0f} s left", flush=True)
