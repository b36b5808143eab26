"""What a sweep runs: each combination of the values on its command line, with each seed.

Knows configs and the names of run folders; executes nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from asymrl.config.load import check_override, dump_config, load_config
from asymrl.config.schema import Config
from asymrl.errors import UserError, short_repr
from asymrl.files import check_unused
from asymrl.run.checkpoint import load_position
from asymrl.run.folder import find_checkpoint
from asymrl.types import frozen

MAX_RUNS = 10_000
MAX_NAME = 120  # characters of an arm's name in a folder name
ROW = "row"
OPENING, CLOSING, QUOTES = "[{", "]}", "'\""


@frozen
class Arm:
    """One combination. settings: key -> value, as typed, of the keys with several values."""

    name: str
    settings: Mapping[str, str]
    overrides: tuple[str, ...]
    row: str | None


@frozen
class Run:
    """An arm with a seed. overrides: those of the arm, the seed and those of the machine."""

    arm: Arm
    seed: int
    folder: Path
    overrides: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        return f"{self.arm.name} seed {self.seed}"


def make_arms(config: str, words: Sequence[str], rows: str | None) -> list[Arm]:
    """Every combination of the values in `words` (key=a,b,c) and of the rows (a,b,c).

    UserError for a word that is not valid, a value that occurs twice, a config that is not valid,
    and two combinations that are the same config.
    """
    axes = {key: values for key, values in map(read_word, words)}
    keys = [word.partition("=")[0] for word in words]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UserError(f"{twice} is given twice; write its values as {twice}=a,b,c")
    if len(axes.get("seed", ())) > 1:
        raise UserError(
            f"seed={','.join(axes['seed'])}: use --seeds N, which runs N seeds; seed=S sets the "
            "first one"
        )
    if rows is not None:
        axes = {ROW: split_values(rows, f"--row {rows}")} | axes
    for key, values in axes.items():
        check_distinct(key, values)
    if (count := math.prod(map(len, axes.values()))) > MAX_RUNS:
        raise UserError(f"these values have {count:,} combinations; at most {MAX_RUNS:,} can run")
    arms = [make_arm(config, axes, values) for values in itertools.product(*axes.values())]
    first_with: dict[str, Arm] = {}
    for arm in arms:
        same = first_with.setdefault(dump_config(load_arm(config, arm)), arm)
        if same is not arm:
            raise UserError(f"{same.name} and {arm.name} are the same config; leave one out")
    return arms


def make_arm(config: str, axes: Mapping[str, Sequence[str]], values: Sequence[str]) -> Arm:
    """The arm with one value of each key. Its name has the keys with several values."""
    chosen = dict(zip(axes, values, strict=True))
    settings = {key: value for key, value in chosen.items() if len(axes[key]) > 1}
    short = [key.rpartition(".")[2] for key in settings]
    names = [
        f"{name if short.count(name) == 1 else key}={value}"
        for name, (key, value) in zip(short, settings.items(), strict=True)
    ]
    return Arm(
        name=",".join(names) or config_name(config, chosen.get(ROW)),
        settings=settings,
        overrides=tuple(f"{key}={value}" for key, value in chosen.items() if key != ROW),
        row=chosen.get(ROW),
    )


def config_name(config: str, row: str | None) -> str:
    """`<config>` or `<config>_<row>`, as train.py names a run folder."""
    parts = [config, *([row] if row else [])]
    return "_".join(Path(part).name.removesuffix(".yaml") for part in parts)


def read_word(word: str) -> tuple[str, list[str]]:
    """key=a,b,c -> the key and its values. UserError if a key=value is not a valid override."""
    key, _, text = word.partition("=")
    check_override(f"{key}=" if "=" in word else word)
    values = split_values(text, word)
    for value in values:
        check_override(f"{key}={value}")
    return key, values


def split_values(text: str, word: str) -> list[str]:
    """a,b,c -> its values. A comma in [...], {...} or a quoted value does not separate."""
    values, open_brackets, quote = [""], "", ""
    for c in text:
        before = values[-1].rstrip()[-1:]
        if quote:
            quote = "" if c == quote else quote
        elif c in QUOTES and before in ("", *",:[{"):  # elsewhere YAML reads it as an apostrophe
            quote = c
        elif c in OPENING:
            open_brackets += c
        elif c in CLOSING:
            if not open_brackets or OPENING.index(open_brackets[-1]) != CLOSING.index(c):
                raise UserError(f"{short_repr(word)}: {c} closes no bracket; quote a text with one")
            open_brackets = open_brackets[:-1]
        elif c == "," and not open_brackets:
            values.append("")
            continue
        values[-1] += c
    if quote or open_brackets:
        raise UserError(f"{short_repr(word)}: {quote or open_brackets[-1]} is not closed")
    if len(values) > 1 and not all(value.strip() for value in values):
        raise UserError(
            f"{short_repr(word)} has an empty value; expected values separated by single commas"
        )
    return [value.strip() for value in values]


def check_distinct(key: str, values: Sequence[str]) -> None:
    """UserError if a value occurs twice, in whatever notation: 0.5 and .5."""
    seen: list[object] = []
    for value in values:
        meaning = value if key == ROW else OmegaConf.from_dotlist([f"{key}={value}"])
        if meaning in seen:
            raise UserError(f"{key}={','.join(values)} has the value {value} twice; give it once")
        seen.append(meaning)


def load_arm(config: str, arm: Arm) -> Config:
    """UserError for an invalid config; it says how values are separated if that may be why."""
    try:
        return load_config(config, arm.overrides, arm.row)
    except UserError as error:
        if not any(f"{key} =" in str(error) for key in arm.settings):
            raise
        raise UserError(
            f"{error} (commas separate the values of a sweep; quote a value that contains one)"
        ) from None


def make_runs(
    config: str, arms: Sequence[Arm], seeds: int, out: Path, machine: Sequence[str]
) -> list[Run]:
    """Each arm with each seed, ordered by seed, so that a stopped sweep has complete seeds.

    The first seed is that of the config. machine: overrides that the command line may change.
    """
    if len(arms) * seeds > MAX_RUNS:
        raise UserError(
            f"{len(arms):,} combinations x {seeds:,} seeds are more than {MAX_RUNS:,} runs; give "
            "fewer values or seeds"
        )
    first = load_arm(config, arms[0]).seed
    runs = []
    for seed, arm in itertools.product(range(first, first + seeds), arms):
        given = [word.partition("=")[0] for word in arm.overrides]
        more = [word for word in machine if word.partition("=")[0] not in given]
        overrides = (*more, *arm.overrides, f"seed={seed}")
        runs.append(
            Run(
                arm=arm,
                seed=seed,
                folder=out / folder_name(arm.name) / f"seed-{seed}",
                overrides=overrides,
                config=load_config(config, overrides, arm.row),
            )
        )
    return runs


def folder_name(name: str) -> str:
    """The name if a folder can have it, else what is left of it and a digest."""
    plain = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", name)[:MAX_NAME]
    if plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def check_out(out: Path) -> None:
    """UserError for a folder that holds other files and no run of a sweep."""
    if not any(out.glob("*/seed-*")):
        check_unused(out, "--out", lambda path: path.stem in ("results", "report", "figures"))


def is_finished(run: Run) -> bool:
    """Whether the run's folder holds its last step. UserError if it holds a run with another
    config, or a longer one: the runs of a table have the same length."""
    try:
        checkpoint = find_checkpoint(run.folder, run.config, "auto")
    except UserError as error:
        raise UserError(str(error).replace("--output-dir", "--out")) from None
    step, steps = load_position(checkpoint).step if checkpoint else 0, run.config.steps
    if step > steps:
        raise UserError(
            f"{run.folder} is at step {step}, longer than steps = {steps} of this sweep; use "
            f"steps={step} or another --out"
        )
    return step == steps
