"""Where the named data sets come from: the one table, and how a local copy of one is known.

Knows names, columns and counts; reads no data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asymrl.errors import UserError
from asymrl.types import frozen
from asymrl.verifiers.extract import last_box

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@frozen
class Source:
    """A data set on the Hugging Face hub: a pinned revision, and what its columns hold.

    problems: the numbers of rows that it may have; none: it is not checked. revision None: whatever
    the hub has now, which a note says.
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


def after_hashes(answer: str) -> str:
    return answer.rsplit("####", 1)[-1].strip().replace(",", "")


def only_member(answers: Sequence[str] | str) -> str:
    """A list of answers as one; the lists of OlympiadBench have one member each."""
    return answers if isinstance(answers, str) else ", ".join(map(str, answers))


MAA = "texts (c) MAA, research use"
SOURCES: Mapping[str, Source] = {
    "math": Source(
        id="DigitalLearningGmbH/MATH-lighteval",
        revision="0530c78699ea5e8eb5530600900e1f328b48acad",
        split="train",
        answer="solution",
        read_answer=last_box,
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
        read_answer=only_member,
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


def source_of_file(name: str) -> str | None:
    """Whose problems a file of that name holds: `aime24`, or with its split, `gsm8k_test`."""
    for known, source in SOURCES.items():
        if name in (known, f"{known}_{source.split}"):
            return known
    return None


def locate_benchmark(name: str, folder: Path | None, others: Sequence[str]) -> str:
    """The source of a benchmark: a name that data.load_problems knows, or a file's path.

    others: further names that need no file. UserError names what is valid.
    """
    if folder is not None:
        stems = [name, f"{name}_{SOURCES[name].split}"] if name in SOURCES else [name]
        for file in (folder / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES):
            if os.path.isfile(file):  # Path.is_file raises of names that no file can have
                return str(file)
        if name not in others:
            there = sorted({f.stem for f in folder.iterdir() if f.suffix in SUFFIXES})
            raise UserError(
                f"benchmark {name!r} has no file in {folder}; there are: {', '.join(there) or '-'}"
            )
    if name in SOURCES or name in others or os.path.isfile(name):
        return name
    raise UserError(
        f"benchmark {name!r} is unknown; valid are {', '.join([*SOURCES, *others])}, or the path "
        "of a .jsonl, .json, .csv or .parquet file"
    )


def own_columns(record: Any, source: Source) -> Any:
    """A row of a local copy, with `problem` and `answer` where it has the data set's own columns.

    What is missing stays so; the reader names it.
    """
    if not isinstance(record, dict):
        return record
    given = dict(record)
    if "problem" not in given and source.problem in given:
        given["problem"] = given[source.problem]
    column = "answer" if "answer" in given else source.answer
    readable = str | list if source.read_answer is only_member else str
    if column == source.answer and isinstance(given.get(column), readable):
        given["answer"] = source.read_answer(given[column])
    return given


def count_note(name: str, where: str, found: int, *, any_count: bool) -> str | None:
    """None where a data set has as many problems as it should; else, if any count will do, a note
    for the user, and a UserError if not."""
    expected = SOURCES[name].problems
    if not expected or found in expected:
        return None
    counts = " or ".join(map(str, expected))
    sentence = f"{where} holds {found} problems, and {name} has {counts}"
    if not any_count:
        raise UserError(
            f"{sentence}: its scores would be of another benchmark (--limit N asks the first N of "
            "the whole; eval.py --allow-count takes the file as it is)"
        )
    return sentence
