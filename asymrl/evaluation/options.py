"""The options of an evaluation: their defaults and bounds. Loads no framework.

eval.py has them as flags, `asymrl.evaluate` as keyword arguments.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from asymrl.errors import UserError, short_repr
from asymrl.types import frozen

BENCHMARKS = "math500,aime24,aime25,amc23,olympiadbench"
MAX_NAME = 255  # characters of a file or folder name
ENGINES = ("auto", "hf", "vllm")
VALID = {
    "ckpt": "a checkpoint, a model folder or a hub id",
    "config": "a config's name in configs/ or its path",
}
BOUNDS = {
    "avg_at": (1, 10_000),
    "temperature": (0, 100),
    "max_tokens": (1, 1_000_000),
    "limit": (1, 1_000_000_000),
    "chunk": (1, 1_000_000_000),
    "seed": (0, 2**63 - 1),
    "threads": (0, 1024),
}
OPTIONAL = ("max_tokens", "limit")
PATHS = ("data_dir", "output")


@frozen
class EvalOptions:
    """Give either ckpt or config.

    benchmarks: separated by commas.
    avg_at: samples per problem, or `paper`: 5 on MATH-500 and OlympiadBench, 10 on the others.
    max_tokens: of a response; None: the checkpoint's, else 4096.
    data_dir: read NAME.jsonl from this folder instead of the hub.
    output: None: runs/eval/<name of the model>. Samples there are reused.
    replace: delete samples in `output` that have other settings.
    limit: use only the first problems of each benchmark; None: eval.limit of `config`, if it has
        one.
    allow_count: accept incomplete benchmark files.
    chunk: samples per process between two saves. threads: 0: torch's default.
    """

    ckpt: str | None = None
    config: str | None = None
    benchmarks: str = BENCHMARKS
    avg_at: int | Literal["paper"] = 10
    temperature: float = 0.4
    max_tokens: int | None = None
    data_dir: Path | None = None
    problem_field: str | None = None
    answer_field: str | None = None
    data_config: str | None = None
    data_split: str = "test"
    output: Path | None = None
    replace: bool = False
    limit: int | None = None
    allow_count: bool = False
    engine: str = "auto"
    chunk: int = 1024
    seed: int = 0
    threads: int = 0


def build_options(**values: Any) -> EvalOptions:
    """The checked options. UserError for an unknown name or an invalid value, before anything is
    loaded."""
    names = [field.name for field in fields(EvalOptions)]
    if other := next((name for name in values if name not in names), None):
        nearest = difflib.get_close_matches(other, names, n=1)
        raise UserError(
            f"{other} is not an option of an evaluation; "
            + (f"did you mean {nearest[0]}?" if nearest else f"valid are {', '.join(names)}")
        )
    for name, value in values.items():
        if isinstance(value, str | os.PathLike):
            values[name] = Path(value) if name in PATHS else os.fspath(value)
    options = EvalOptions(**values)
    check(options)
    if (options.ckpt is None) == (options.config is None):
        raise UserError("an evaluation needs either a ckpt or a config, and not both")
    return options


def check(options: EvalOptions) -> None:
    for name, kind in get_type_hints(EvalOptions).items():
        value = getattr(options, name)
        if name not in BOUNDS and not isinstance(value, kind):
            valid = "a path" if name in PATHS else "True or False" if kind is bool else "a text"
            raise UserError(f"--{name.replace('_', '-')} {short_repr(value)} must be {valid}")
    for name, valid in VALID.items():
        value = getattr(options, name)
        if value is not None and (not value or max(map(len, value.split("/"))) > MAX_NAME):
            problem = "too long for a file name" if value else "empty"
            raise UserError(f"--{name} is {problem}; valid is {valid}")
    for name, (least, most) in BOUNDS.items():
        value = getattr(options, name)
        if (value is None and name in OPTIONAL) or (name, value) == ("avg_at", "paper"):
            continue
        numbers = int | float if name == "temperature" else int
        if not isinstance(value, numbers) or isinstance(value, bool) or not least <= value <= most:
            flag, whole = name.replace("_", "-"), "" if name == "temperature" else "a whole number "
            other = " or paper" if name == "avg_at" else ""
            raise UserError(f"--{flag} {value} must be {whole}from {least} to {most}{other}")
    if options.engine not in ENGINES:
        raise UserError(
            f"--engine {short_repr(options.engine)} must be one of {', '.join(ENGINES)}"
        )
    if options.data_dir and not options.data_dir.is_dir():
        raise UserError(f"--data-dir {options.data_dir} is not a folder")
