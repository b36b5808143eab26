"""Generates the problems of `reasoning_gym:<task>[,<task>...]` with the package reasoning-gym.

The package makes entry i of seed s from the number s + i, so that two seeds next to each other give
nearly the same problems. The seeds used here are far apart (derive_seed), and training problems
that a held-out set has too are left out. All problems of a set are different. Knows the package's
tasks and their levels; scoring is asymrl/verifiers/reasoning_gym.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from typing import Any

from asymrl.errors import UserError, one_line, short_repr
from asymrl.types import derive_seed, frozen
from asymrl.verifiers.reasoning_gym import (
    COLUMN,
    PREFIX,
    check_benchmark,
    load_package,
    tasks_of,
)

HELDOUT = 200  # held-out problems of a task, the same for every seed
DRAWS = 20  # per problem of a set, before the task counts as having no more
MISSES = 2 * HELDOUT * DRAWS  # in a row, or as many as there are problems, for the same
GENERATION_ERRORS = (AssertionError, ValueError, TypeError, LookupError, RuntimeError)
FIXED = ("seed", "size")  # of the package's configs, which are settings of ours


@frozen
class GymSettings:
    """size: training problems of each task. seed: of the training problems. difficulty: a level
    from 0, or per task a level or values for the task's own parameters; None: the task's defaults.
    """

    size: int = 1000
    seed: int = 0
    difficulty: int | Mapping[str, int | Mapping[str, Any]] | None = None

    def of_task(self, task: str) -> int | Mapping[str, Any] | None:
        if isinstance(self.difficulty, Mapping):
            return self.difficulty.get(task)
        return self.difficulty


def gym_records(
    source: str, settings: GymSettings, *, heldout: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of the held-out problems of a task, or of the training problems of all tasks in
    turn, so that the first rows are from every task.

    UserError for a difficulty that a task does not have, and for a size that is more than the
    different problems of a task.
    """
    tasks = tasks_of(source)
    if heldout:
        check_benchmark(source)
        sets = [heldout_set(task, settings.of_task(task)) for task in tasks]
    else:
        sets = [training_set(task, settings) for task in tasks]
    for rows in zip(*sets, strict=True):
        yield from ((row["id"], row) for row in rows)


def heldout_set(task: str, difficulty: int | Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """HELDOUT different problems; of a task with less than twice as many, half of them."""
    seed = derive_seed("reasoning_gym", task, "heldout")
    entries = different_entries(task, difficulty, seed, 2 * HELDOUT)
    entries = entries[: (len(entries) + 1) // 2]
    return [to_row(f"{PREFIX}{task}/heldout/{i}", task, entry) for i, entry in enumerate(entries)]


def training_set(task: str, settings: GymSettings) -> list[dict[str, Any]]:
    """`size` different problems, without those of the held-out set."""
    difficulty, size = settings.of_task(task), settings.size
    heldout = {row["problem"] for row in heldout_set(task, difficulty)}
    seed = derive_seed("reasoning_gym", task, "train", settings.seed)
    entries = different_entries(task, difficulty, seed, size + len(heldout))
    entries = [entry for entry in entries if entry["question"] not in heldout][:size]
    if len(entries) < size:
        raise UserError(
            f"data.reasoning_gym.size = {size}: {task} has only {len(entries)} different training "
            "problems at this difficulty; use a smaller size or another difficulty"
        )
    return [to_row(f"{PREFIX}{task}/{i}", task, entry) for i, entry in enumerate(entries)]


def different_entries(
    task: str, difficulty: int | Mapping[str, Any] | None, seed: int, wanted: int
) -> list[dict[str, Any]]:
    """The first `wanted` entries with different questions, or as many as DRAWS x wanted draws
    give, and fewer draws once MISSES in a row give no new one. Entries whose answer is empty text,
    as string_manipulation makes some, are left out."""
    entries: dict[str, dict[str, Any]] = {}
    try:
        dataset = build_dataset(task, difficulty, seed)
        last_new = 0
        for draw in range(DRAWS * wanted):
            if len(entries) == wanted or draw - last_new > max(MISSES, len(entries)):
                break
            entry = dataset[draw]
            entry["question"] = entry["question"].strip()
            if str(entry["answer"]).strip() and entry["question"] not in entries:
                entries[entry["question"]], last_new = entry, draw
    except GENERATION_ERRORS as error:
        raise UserError(
            f"data.reasoning_gym.difficulty = {short_repr(difficulty)} is not valid for {task}: "
            f"{one_line(error) or type(error).__name__}"
        ) from None
    return [*entries.values()]


def build_dataset(task: str, difficulty: int | Mapping[str, Any] | None, seed: int) -> Any:
    """The package's data set, which makes entry i when it is asked for it. ValueError for a level
    or a parameter that the task does not have."""
    load_package()
    from reasoning_gym.factory import CURRICULA, DATASETS

    make, config = DATASETS[task]
    given: dict[str, Any] = {"seed": seed}
    if difficulty is None or isinstance(difficulty, Mapping):
        valid = [field.name for field in fields(config) if is_parameter(field)]
        for name in difficulty or {}:
            if name not in valid:
                raise ValueError(f"it has no parameter {name}; it has {', '.join(valid)}")
        return make(config(**given, **(difficulty or {})))
    curricula: Any = CURRICULA  # by its type it has instances, but it has classes
    curriculum = curricula[task]()
    levels = max(len(attribute.levels) for attribute in curriculum.attributes.values())
    if difficulty >= levels:
        raise ValueError(f"its levels are 0 to {levels - 1}")
    curriculum.set_global_level(difficulty)
    return make(curriculum.generate_configuration(given))


def is_parameter(field: Field[Any]) -> bool:
    """Whether a field of a task's config is a number that makes its problems easier or harder."""
    return field.name not in FIXED and isinstance(field.default, int | float)


def to_row(id: str, task: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as a row of data; the scorer sees its metadata as JSON has it."""
    metadata = json.loads(json.dumps(entry["metadata"], default=str))
    return {
        "id": id,
        "problem": entry["question"],
        "answer": str(entry["answer"]),
        COLUMN: {"task": task, "metadata": metadata},
    }
