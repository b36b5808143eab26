r"""Scores answers to tasks of the package reasoning-gym by its own rules; only full marks count.

TASKS are those that can be trained on: the tests check for each that the stored answer gets 1, that
junk gets less, that a seed gives the same problems in every process, and that scoring reaches no
evaluator. The package gives partial credit, and passes answers to `eval` in other tasks: the reward
is 1 only if its score is exactly 1, and the sandbox blocks evaluators.

Knows the package's entries and scores. Generating problems is asymrl/data/reasoning_gym.py.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from asymrl.errors import UserError, short_repr
from asymrl.types import Reason
from asymrl.verifiers import sandbox
from asymrl.verifiers.extract import after_thinking, answer_tag, final_answer

PREFIX = "reasoning_gym:"
COLUMN = "reasoning_gym"  # of a row: the task, and what its scorer knows of the problem
TASKS = (
    *("aiw", "base_conversion", "binary_alternation", "caesar_cipher", "chain_sum", "count_bits"),
    *("family_relationships", "fraction_simplification", "gcd", "knights_knaves"),
    *("largest_island", "lcm", "leg_counting", "letter_counting", "modulo_grid"),
    *("number_sequence", "products", "rotten_oranges", "shortest_path", "simple_equations"),
    *("spell_backward", "string_manipulation", "word_sequence_reversal", "word_sorting"),
)
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|texttt)\s*\{([^{}]*)\}")


def tasks_of(source: str) -> list[str]:
    """The tasks of `reasoning_gym:<task>[,<task>...]`; [] for a source of another kind. UserError
    for a task that is not in TASKS."""
    if not source.startswith(PREFIX):
        return []
    tasks = [task.strip() for task in source.removeprefix(PREFIX).split(",")]
    for task in tasks:
        check_task(task)
        if tasks.count(task) > 1:
            raise UserError(f"{short_repr(source)} names {task} twice; name it once")
    return tasks


def check_task(task: str) -> None:
    if task not in TASKS:
        nearest = difflib.get_close_matches(task, TASKS, n=3)
        names = (
            f"the nearest are {', '.join(nearest)}" if nearest else f"valid are {', '.join(TASKS)}"
        )
        raise UserError(f"{PREFIX}{task} is not one of the {len(TASKS)} checked tasks; {names}")


def check_benchmark(source: str) -> None:
    """UserError for several tasks in one benchmark, which would have one score."""
    if len(tasks := tasks_of(source)) > 1:
        each = ", ".join(f"{PREFIX}{task}" for task in tasks)
        raise UserError(f"benchmark {source}: each task is a benchmark of its own: {each}")


def load_package() -> Any:
    """The package. UserError if it is not installed."""
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise UserError(
            f"{PREFIX}<task> needs the package {error.name}, which is not installed; the extra "
            "`reasoning` of AsymRL has it: pip install 'asymrl[reasoning]'"
        ) from None
    return reasoning_gym


def prepare_worker(**_settings: Any) -> None:
    """Imports the package and reads its word lists, then blocks code, files and the network."""
    # its numpy starts a thread a core, whose stacks exceed the memory limit on a large machine
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    load_package()
    for task in TASKS:
        scorer(task)
    sandbox.install_sandbox(sandbox.CODE_EVENTS | sandbox.SYSTEM_EVENTS)


@cache
def scorer(task: str) -> Any:
    """The package's data set of a task, whose score_answer(answer, entry) is from 0 to 1."""
    return load_package().create_dataset(task, size=1, seed=0)


def is_valid_gold(gold: str) -> bool:
    """Whether the package can score against a gold: it made the gold, so always True."""
    return True


def verify(
    gold: str,
    text: str,
    row: Mapping[str, Any] | None = None,
    unboxed: bool = False,
    thinking: bool = False,
    tolerance: float = 0.0,
) -> tuple[Reason, str | None]:
    """The verdict on a response, and the answer in it. row: the problem's row, with COLUMN.

    unboxed, thinking: see find_answer. tolerance is ignored.
    """
    entry = (row or {}).get(COLUMN)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("metadata"), Mapping):
        raise UserError(f"a row to score by reasoning-gym must have {COLUMN}: {{task, metadata}}")
    check_task(str(entry.get("task")))
    answer = find_answer(text, unboxed, thinking)
    if not answer:
        return "no_answer", answer
    problem = {"answer": gold, "metadata": entry["metadata"]}
    score = scorer(entry["task"]).score_answer(answer, problem)
    return ("correct" if score == 1 else "wrong"), answer


def find_answer(text: str, unboxed: bool, thinking: bool) -> str | None:
    r"""The answer in a response, without `\text{}` around it; None if it has none.

    The last box, as for the other verifiers. unboxed: without a box, the content of the last
    `<answer>` tag, or else the whole response if it is one line. thinking: text before the last
    `</think>` counts too.
    """
    answer = final_answer(text, thinking=thinking)
    if answer is None and unboxed:
        text = text if thinking else after_thinking(text)
        is_one_line = len(text.strip().splitlines()) == 1
        answer = answer_tag(text) or (text if is_one_line else None)
    if answer is None:
        return None
    answer = answer.strip()
    words = _WORDS.fullmatch(answer)
    return words[1].strip() if words else answer
