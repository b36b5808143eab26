"""A readable sample of the rollouts that runs saved, thinned so that a page of many runs is light.

Knows the files in rollouts/ and what of them is shown; nothing of how. A group is the rollouts of
one prompt draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from asymrl.report_runs import Run, json_lines, number
from asymrl.types import UserError, value

GROUPS = 240  # on a page, shared evenly among the runs, at least one a run
MOST_STEPS = 6  # of a run
ROLLOUTS = 4  # of a group
LONGEST_TEXT = 4000  # characters


@value
class Sample:
    """What the page shows of one run: groups, by step; notes: what was left out, in words."""

    groups: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


def sample_rollouts(run: Run, num_groups: int) -> Sample:
    """At most `num_groups` groups of the run, from at most MOST_STEPS of its saved steps.

    Steps: evenly spaced among the saved ones, the first and the last included. Of each as many
    groups, evenly spaced in order of group accuracy, so that hard and easy ones both show; of each
    group up to ROLLOUTS rollouts, taken in turn from the correct, wrong and truncated ones. So what
    is shown is not in proportion. A step that cannot be read is left out, with a note.
    """
    files = sorted((run.folder / "rollouts").glob("step-*.jsonl"))
    chosen = evenly(files, max(1, min(MOST_STEPS, num_groups // 2 or 1)))
    groups, notes = [], []
    for file in chosen:
        try:
            rows, half = json_lines(file)
        except UserError as error:
            notes.append(f"{run.label}: {error}; this step's rollouts were left out")
            continue
        if half:
            notes.append(f"{run.label}: the half-written last line of {file.name} was left out")
        groups += evenly(_groups(rows, _step(file)), max(1, num_groups // len(chosen)))
    if not groups:
        notes.append(f"{run.label}: no rollouts were saved")
    return Sample(groups=sorted(groups, key=lambda g: (g["step"], g["draw"])), notes=notes)


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of them, evenly spaced, both ends included; all where there are no more; the last
    where one is wanted."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _step(file: Path) -> int:
    digits = file.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0


def _groups(rows: Sequence[Mapping[str, Any]], step: int) -> list[dict[str, Any]]:
    """By rising group accuracy, in the order drawn where it is equal. As in training, what
    `truncation: mask` left out counts neither as solved nor in the group's size."""
    by_draw: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_draw.setdefault(str(row.get("draw", row.get("problem_id"))), []).append(row)
    groups = []
    for draw, members in enumerate(by_draw.values()):
        shown = [_shown(row) for row in members]
        counted = [_shown(row) for row in members if row.get("valid") is not False]
        problem = members[0].get("problem") or members[0].get("prompt")
        groups.append(
            {
                "step": step,
                "draw": draw,
                "problem": _text(problem or members[0].get("problem_id")),
                "gold": _text(members[0].get("gold")),
                "solved": sum(rollout["correct"] for rollout in counted),
                "size": len(counted),
                "rollouts": list(_in_turn(shown))[:ROLLOUTS],
            }
        )
    return sorted(groups, key=lambda group: group["solved"] / max(1, group["size"]))


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """One rollout as the page shows it. Correct is what earned the reward."""
    reward = number(row.get("reward"))
    return {
        "response": _text(row.get("response")),
        "answer": _text(row.get("answer")),
        "reason": _text(row.get("reason")).replace("_", " "),
        "tokens": number(row.get("tokens")),
        "advantage": number(row.get("advantage")),
        "correct": reward > 0.5 if reward is not None else row.get("reason") == "correct",
        "truncated": row.get("truncated") is True,
    }


def _text(given: Any) -> str:
    """As text; of a long one the beginning and, where a response has its answer, the end."""
    text = "" if given is None else str(given)
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n\n[... {left_out:,} characters left out ...]\n\n{text[-half:]}"


def _in_turn(group: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Correct, wrong, truncated, correct, wrong, ... : each rollout once."""
    truncated = [row for row in group if row["truncated"]]
    correct = [row for row in group if row["correct"] and not row["truncated"]]
    wrong = [row for row in group if not row["correct"] and not row["truncated"]]
    for trio in zip_longest(correct, wrong, truncated):
        yield from (row for row in trio if row is not None)
