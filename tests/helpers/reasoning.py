"""A process of its own that generates and scores problems of reasoning-gym, and says which code
evaluators the scoring reached: `python -m tests.helpers.reasoning ENTRIES`."""

import hashlib
import json
import sys
from typing import Any

from asymrl.data.reasoning_gym import different_entries
from asymrl.verifiers.reasoning_gym import TASKS, load_package, scorer
from asymrl.verifiers.sandbox import CODE_EVENTS, _is_importing

JUNK = ("no idea", "[[1, 2], [3, 4]]", "__import__('os').getpid()", "1/0", "x" * 300)
# scored with `eval`, so that it is not among TASKS: shows that the events are seen
EVALUATES = "binary_matrix"

seen: set[str] = set()
is_scoring = False


def record(event: str, arguments: tuple[Any, ...]) -> None:
    if is_scoring and event in CODE_EVENTS and not _is_importing(sys._getframe(1)):
        seen.add(event)


def scores(task: str, entries: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Of the stored answers, and of JUNK."""
    global is_scoring
    dataset = scorer(task)
    is_scoring = True
    stored = [dataset.score_answer(entry["answer"], entry) for entry in entries]
    junk = [dataset.score_answer(text, entry) for entry in entries for text in JUNK]
    is_scoring = False
    return stored, junk


def main(count: int) -> None:
    found = {}
    for task in (*TASKS, EVALUATES):
        entries = different_entries(task, None, 7, count) if task in TASKS else []
        if task == EVALUATES:
            dataset = load_package().create_dataset(task, size=3, seed=0)
            entries = [dataset[i] for i in range(3)]
        else:
            assert len(entries) == count, task
        seen.clear()
        stored, junk = scores(task, entries)
        texts = json.dumps([[entry["question"], entry["answer"]] for entry in entries])
        found[task] = {
            "digest": hashlib.sha256(texts.encode()).hexdigest(),
            "stored": min(stored),
            "junk": max(junk),
            "events": sorted(seen),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    sys.addaudithook(record)
    main(int(sys.argv[1]))
