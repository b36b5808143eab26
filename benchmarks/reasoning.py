"""Time to generate and to score an entry of each task of reasoning-gym, at its default difficulty.

Scoring is that of the stored answer, in this process, after a first entry. One process: run it on
an idle machine, or read the numbers as upper bounds. The table is that of docs/reasoning.md.

    python benchmarks/reasoning.py [--entries 200]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from turns import table

from asymrl.data.reasoning_gym import different_entries, to_row
from asymrl.verifiers.reasoning_gym import COLUMN, TASKS, load_package, verify

HEADER = ["task", "different", "generate, ms", "score, ms", "slowest score, ms"]


def milliseconds(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, 1000 * (time.process_time() - start)


def measure(task: str, count: int) -> list[Any]:
    """The row of a task. All its stored answers are judged correct."""
    dataset = load_package().create_dataset(task, seed=0, size=count)
    dataset[0]
    entries, generation = milliseconds(lambda: [dataset[n] for n in range(count)])
    rows = [to_row(task, task, entry) for entry in different_entries(task, None, 0, count)]
    times = []
    for row in (rows[0], *rows):
        text = f"\\boxed{{{row['answer']}}}"
        (reason, _), taken = milliseconds(partial(verify, row["answer"], text, row))
        assert reason == "correct", (task, row["answer"], row[COLUMN])
        times.append(taken)
    score = statistics.mean(times[1:])
    different = len({entry["question"] for entry in entries})
    return [task, different, f"{generation / count:.2f}", f"{score:.3f}", f"{max(times[1:]):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, default=200)
    arguments = parser.parse_args()
    print(table(HEADER, [measure(task, arguments.entries) for task in TASKS]))
    print(f"\nProcessor time, {arguments.entries} entries a task.")


if __name__ == "__main__":
    main()
