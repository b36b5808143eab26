"""The table of named data sets, how a local file is recognized as a copy of one, and which names
are data sets of the hub.

Knows names, columns and counts. Reads no data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asymrl.errors import UserError, short_repr
from asymrl.files import TABLE_SUFFIXES
from asymrl.types import frozen
from asymrl.verifiers.golds import read_gold
from asymrl.verifiers.reasoning_gym import PREFIX, TASKS, check_benchmark, tasks_of

# The usual names of columns, most usual first.
PROBLEM_FIELDS = ("problem", "question", "prompt")
ANSWER_FIELDS = ("answer", "solution", "final_answer")


@frozen
class Subset:
    """Which part of a data set on the hub to read; other sources ignore it."""

    config: str | None = None
    split: str = "train"


@frozen
class Source:
    """A data set on the Hugging Face hub.

    problems: the valid numbers of rows; empty: the number is not checked. revision: None means the
    latest version, which a note reports. problem, answer: names of its columns. read_answer: the
    gold in a value of the answer column.
    """

    id: str
    split: str
    problems: tuple[int, ...]
    licence: str
    revision: str | None = None
    config: str | None = None
    problem: str = "problem"
    answer: str = "answer"
    read_answer: Callable[[Any], str | None] = str


def boxed_answer(solution: str) -> str | None:
    """The gold of a MATH solution: its box, or its boxes in a row as a list.

    A solution that boxes different answers in different places stays whole; the loader drops it.
    """
    return read_gold(solution) or solution


def after_hashes(answer: str) -> str:
    """The gold of a GSM8K solution: the number after "####", without thousands separators."""
    return answer.rsplit("####", 1)[-1].strip().replace(",", "")


def join_answers(answers: Sequence[str] | str) -> str:
    """A list of answers as one text; the lists in OlympiadBench have one member each."""
    return answers if isinstance(answers, str) else ", ".join(map(str, answers))


MAA = "texts (c) MAA, research use"
SOURCES: Mapping[str, Source] = {
    "math": Source(
        id="DigitalLearningGmbH/MATH-lighteval",
        revision="0530c78699ea5e8eb5530600900e1f328b48acad",
        split="train",
        answer="solution",
        read_answer=boxed_answer,
        problems=(7500,),
        licence="MIT (texts from AoPS)",
    ),
    "math500": Source(
        id="HuggingFaceH4/MATH-500",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        split="test",
        problems=(500,),
        licence="MIT",
    ),
    "aime24": Source(
        id="HuggingFaceH4/aime_2024",
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        split="train",
        problems=(30,),
        licence=MAA,
    ),
    "aime25": Source(
        id="math-ai/aime25",
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
        split="test",
        problems=(30,),
        licence=MAA,
    ),
    "amc23": Source(
        id="math-ai/amc23",
        revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
        split="test",
        problem="question",
        problems=(40,),
        licence=MAA,
    ),
    "olympiadbench": Source(
        id="Hothan/OlympiadBench",
        revision="91184b52131e7fc9455fef848035173aea8cc01a",
        config="OE_TO_maths_en_COMP",
        split="train",
        problem="question",
        answer="final_answer",
        read_answer=join_answers,
        problems=(674, 675),
        licence="CC BY-NC 4.0",
    ),
    "minerva": Source(
        id="math-ai/minervamath",
        split="test",
        problem="question",
        problems=(272,),
        licence="course texts CC BY-NC-SA",
    ),
    "gsm8k": Source(
        id="openai/gsm8k",
        revision="740312add88f781978c0658806c59bc2815b9866",
        config="main",
        split="test",
        problem="question",
        read_answer=after_hashes,
        problems=(1319,),
        licence="MIT",
    ),
    "open_rs": Source(
        id="knoveleng/open-rs",
        split="train",
        problems=(7000,),
        licence="see its card",
    ),
    "deepscaler": Source(
        id="agentica-org/DeepScaleR-Preview-Dataset",
        split="train",
        problems=(),  # 40,315 in the EAPO paper
        licence="MIT",
    ),
}


UNPINNED = "{name} is not pinned to a revision; its latest version is used"


def source_of_file(name: str) -> str | None:
    """The named source of a file called `aime24`, or with its split, `gsm8k_test`; else None."""
    for known, source in SOURCES.items():
        if name in (known, f"{known}_{source.split}"):
            return known
    return None


def find_field(names: Iterable[str], usual: Sequence[str], given: str | None) -> str:
    """The given field, or else the first usual name among `names`; the most usual one if there is
    none, so that the reader reports it as missing."""
    names = set(names)
    return given or next((name for name in usual if name in names), usual[0])


def is_hub_source(name: str) -> bool:
    """Whether a name is read as a data set of the hub: `org/name`, or a local folder of one. If
    there is a folder `org`, the name is a path in it."""
    if name in SOURCES or name.endswith(TABLE_SUFFIXES) or os.path.isfile(name):
        return False
    org_and_name = re.fullmatch(r"([A-Za-z0-9][\w.-]*)/[\w.-]+", name)
    return os.path.isdir(name) or (org_and_name is not None and not os.path.isdir(org_and_name[1]))


def training_subset(name: str, config: str | None, split: str | None) -> Subset:
    """The part of data.train to read, by default its split train. UserError if data.config or
    data.split is set for a source that has no such parts."""
    key = "config" if config is not None else "split" if split is not None else None
    if key and not is_hub_source(name):
        raise UserError(
            f"data.{key} = {short_repr(config or split)} applies only to hub data sets (org/name), "
            f"and data.train is {name}; remove data.{key}"
        )
    return Subset(config=config, split=split or "train")


def hub_source(name: str, subset: Subset) -> Source:
    """The source of a hub id. An id in SOURCES keeps its columns, its revision and its reader."""
    known = next((source for source in SOURCES.values() if source.id == name), None)
    if known is None:
        config, split = subset.config, subset.split
        return Source(id=name, config=config, split=split, problems=(), licence="see its card")
    return replace(known, config=subset.config or known.config, split=subset.split, problems=())


def locate_benchmark(name: str, folder: Path | None, others: Sequence[str]) -> str:
    """The source of a benchmark, as `ProblemLoader` accepts it: a name, or the path of a file.

    folder: where files of benchmarks are. others: names that need no file, beside SOURCES.
    """
    if tasks_of(name):
        check_benchmark(name)
        return name
    if folder is not None:
        stems = [name, f"{name}_{SOURCES[name].split}"] if name in SOURCES else [name]
        for file in (folder / f"{stem}{suffix}" for stem in stems for suffix in TABLE_SUFFIXES):
            if os.path.isfile(file):  # Path.is_file raises for names that no file can have
                return str(file)
        if name not in others:
            names = sorted({f.stem for f in folder.iterdir() if f.suffix in TABLE_SUFFIXES})
            raise UserError(
                f"benchmark {name!r} has no file in {folder}; it has: {', '.join(names) or 'none'}"
            )
    if name in SOURCES or name in others or os.path.isfile(name) or is_hub_source(name):
        return name
    if name in TASKS:  # after a comma, which starts another benchmark
        raise UserError(f"benchmark {name!r} is unknown; the task of that name is {PREFIX}{name}")
    raise UserError(
        f"benchmark {name!r} is unknown; valid are {', '.join([*SOURCES, *others])}, "
        f"{PREFIX}<task>, the path of a .jsonl, .json, .csv or .parquet file, or a hub data set "
        "org/name"
    )


def use_own_columns(record: Any, source: Source) -> Any:
    """A row of a data set, with `problem` and `answer` filled in from the data set's own columns.

    Fields that the row has under neither name stay missing; the reader reports them.
    """
    if not isinstance(record, dict):
        return record
    fields = dict(record)
    if "problem" not in fields and source.problem in fields:
        fields["problem"] = fields[source.problem]
    column = "answer" if "answer" in fields else source.answer
    readable = str | list if source.read_answer is join_answers else str
    if column == source.answer and isinstance(fields.get(column), readable):
        fields["answer"] = source.read_answer(fields[column])
    return fields


def source_notes(source: str, known: str | None, count: int, *, any_count: bool) -> list[str]:
    """Notes on a named source, or on a local copy of `known`: a wrong count, a missing revision.

    UserError if the number of problems is wrong and any_count is not set.
    """
    if is_hub_source(source) and not os.path.isdir(source):
        pinned = hub_source(source, Subset()).revision
        return [] if pinned else [UNPINNED.format(name=source)]
    name = source if source in SOURCES else known
    if name is None:
        return []
    notes, expected = [], SOURCES[name].problems
    if expected and count not in expected:
        valid = " or ".join(map(str, expected))
        notes.append(f"{source} has {count} problems, but {name} has {valid}")
        if not any_count:
            raise UserError(
                f"{notes[0]}, so its scores would not be comparable (use --limit N for the first N "
                "problems of the full file, or eval.py --allow-count to accept the file)"
            )
    if name == source and SOURCES[name].revision is None:
        notes.append(UNPINNED.format(name=name))
    return notes
