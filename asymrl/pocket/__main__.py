"""`python -m asymrl.pocket`: make the pocket folder from the command line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from asymrl.types import UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m asymrl.pocket",
        description="Make the pocket task's data and its small warm-started model, once.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/pocket"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--force", action="store_true", help="make it anew even if it is there")
    options = parser.parse_args(arguments)
    try:
        _make(options.output, options.seed, options.force)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _make(output: Path, seed: int, force: bool) -> None:
    from asymrl.pocket.build import RECIPE_FILE, ensure  # slow to import: after the arguments

    console = Console()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("warm start", total=None)
            ensure(
                output,
                seed,
                lambda done, total, text: bar.update(
                    task, completed=done, total=total, description=text
                ),
                force=force,
            )
    else:
        ensure(output, seed, _Lines(), force=force)
    made = json.loads((output / RECIPE_FILE).read_text(encoding="utf-8"))
    by_n = "  ".join(f"{n}: {a:.2f}" for n, a in made["heldout_accuracy_by_n"].items())
    print(f"{output} is ready. Held-out accuracy at temperature 1, by how many numbers: {by_n}")


class _Lines:
    """Progress as some ten plain lines, each with the time that is left."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def __call__(self, done: int, total: int, text: str) -> None:
        if done % max(1, total // 10) == 0 or done == total:
            left = (time.perf_counter() - self.started) / done * (total - done)
            print(f"{text}: step {done}/{total}, {left:.0f} s left", flush=True)


if __name__ == "__main__":
    sys.exit(main())
