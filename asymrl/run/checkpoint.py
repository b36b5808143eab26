"""Checkpoints that are whole or not there, and runs that go on as if never stopped.

A checkpoint is a Hugging Face model folder (weights, tokenizer) plus `asymrl.json` (prompt,
sampling and stop definitions), `trainer.json` (where the run is) and `trainer/state.safetensors`
(named fp32 weights and AdamW moments, the same for every policy). Knows files, and no model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from asymrl.config.schema import (
    NonNegative,
    Positive,
    StrictModel,
    Temperature,
    VerifierConfig,
    check_user_turn,
)
from asymrl.engines.policy import Policy
from asymrl.errors import UserError, one_line, rust_error_to_value_error, short_repr
from asymrl.files import digest, relative_files, sync_folder, sync_to_disk, write_atomically
from asymrl.types import Position, TrainerState

FORMAT = 5
STATE = "trainer/state.safetensors"  # not beside the model's: vLLM reads all that lie there
SECTIONS = ("weights", "exp_avg", "exp_avg_sq")


def save_checkpoint(
    run: Path,
    position: Position,
    *,
    policy: Policy,
    tokenizer: Any,
    definitions: Mapping[str, Any],
    card: Callable[[int], str],
    data: str,
    keep: int,
    best_on: str | None,
) -> None:
    """Write checkpoints/step-N beside its place, rename it in, point `best` and `latest`, prune.

    Collective, since a state is gathered from all ranks; the first one writes. card(step): its
    README.md. data: what names the training problems. best_on: the benchmark by which `best` is
    chosen, if there is to be one. UserError where it cannot be written; what was there stays.
    """
    state = policy.state()
    if state is None:
        return
    folder = run / "checkpoints"
    final = folder / f"step-{position.step:06d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with ExitStack() as stack:
            stack.push(rust_error_to_value_error)  # the tokenizers library's
            temporary.mkdir(parents=True)
            policy.save_pretrained(temporary, state)
            write_rest(temporary, position, state, tokenizer, definitions, card, data)
            sync_folder(temporary)
            if final.exists():
                remove(final)
            os.replace(temporary, final)
            best = link_best(run, best_on)
            point_link(
                folder, "latest", final.name
            )  # last: killed before it, the step is done again
    except (OSError, ValueError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        stays = latest(run)
        raise UserError(
            f"checkpoint {final} could not be written: {one_line(error)}; "
            + (f"{stays.name} stays the last one" if stays else "there is none before it")
        ) from None
    for old in checkpoints(folder)[:-keep]:
        if old.name != best:
            remove(old)


def write_rest(
    temporary: Path,
    position: Position,
    state: TrainerState,
    tokenizer: Any,
    definitions: Mapping[str, Any],
    card: Callable[[int], str],
    data: str,
) -> None:
    """All of a checkpoint but its model; trainer.json comes last and knows every other file."""
    tokenizer.save_pretrained(temporary)
    (temporary / STATE).parent.mkdir()
    save_file(
        {f"{s}/{name}": t for s in SECTIONS for name, t in getattr(state, s).items()},
        temporary / STATE,
    )
    write_atomically(temporary / "asymrl.json", json.dumps(definitions, indent=2) + "\n")
    trainer = {
        "format": FORMAT,
        "step": position.step,
        "draws": position.draws,
        "schedule": dict(position.schedule),
        "updates": state.updates,
        "data": data,
        "files": {name: digest(temporary / name) for name in relative_files(temporary)},
    }
    write_atomically(
        temporary / "trainer.json", json.dumps(trainer | {"seal": seal(trainer)}) + "\n"
    )
    write_atomically(temporary / "README.md", card(position.step))


def check_digests(folder: Path) -> None:
    """UserError names the file of a checkpoint that is not as it was saved, or is gone. Its
    README.md is for people, and may change."""
    for name, saved in read_trainer(folder)["files"].items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"checkpoint {folder} is damaged: {name} is missing")
        if digest(file) != saved:
            raise UserError(
                f"checkpoint {folder} is damaged: {name} is not what was saved; use another one "
                "(--resume DIR), or remove this one and what `latest` points at"
            )


def check_same_data(folder: Path, data: str) -> None:
    """UserError where a run would go on with other problems than it had, or in another order."""
    if (saved := read_trainer(folder)["data"]) != data:
        raise UserError(
            f"data.train or eval.benchmarks is not what {folder} was trained with (digest {data} "
            f"now, {saved} then): put the same problems back, or begin a new run from it with "
            f"--resume {folder} --output-dir NEW"
        )


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints there, oldest first. What else people put beside them is theirs."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name))


def point_link(folder: Path, link: str, name: str) -> None:
    temporary = folder / f".{link}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, folder / link)
    sync_to_disk(folder)


def best_step(run: Path, benchmark: str) -> str | None:
    """The saved checkpoint with the highest eval/<benchmark>/avg in metrics.jsonl, the earliest of
    equals; None where none of them was evaluated."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    scores = {
        f"step-{row['step']:06d}": row[f"eval/{benchmark}/avg"]
        for row in map(json.loads, lines)
        if f"eval/{benchmark}/avg" in row
    }
    saved = [path.name for path in checkpoints(run / "checkpoints")]
    return max((name for name in saved if name in scores), key=scores.__getitem__, default=None)


def link_best(run: Path, benchmark: str | None) -> str | None:
    """Point `best` at best_step; it goes where there is none, since what it named was cut off."""
    if benchmark is None:
        return None
    best, folder = best_step(run, benchmark), run / "checkpoints"
    if best:
        point_link(folder, "best", best)
    else:
        (folder / "best").unlink(missing_ok=True)
    return best


class Tensors(Mapping[str, Tensor]):
    """One section of a state's file, a tensor read whenever it is asked for."""

    def __init__(self, file: Any, section: str) -> None:
        self.file, self.section = file, section
        keys = (key.split("/", 1) for key in file.keys())  # noqa: SIM118
        self.names = dict.fromkeys(name for of, name in keys if of == section)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.file.get_tensor(f"{self.section}/{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def starting_point(run: Path, found: Path | None) -> tuple[Position, TrainerState | None, bool]:
    """What a run starts from, and whether that is another run's checkpoint: then the run goes on
    from its steps and weights, but its schedule begins anew."""
    if found is None:
        return Position(), None, False
    position, state = load_checkpoint(found)
    another = found.parent.parent != run.resolve()
    if not another and found.name != f"step-{position.step:06d}":
        raise UserError(f"{found} is of step {position.step}, and its name says another")
    return (replace(position, schedule={}) if another else position), state, another


def load_checkpoint(folder: Path) -> tuple[Position, TrainerState]:
    """The state in a checkpoint folder. Raises UserError that names the missing or broken file."""
    position, updates = load_position(folder)
    try:
        file = safe_open(folder / STATE, framework="pt")
        check_tensors(file, folder / STATE)
        parts = {section: Tensors(file, section) for section in SECTIONS}
        return position, TrainerState(**parts, updates=updates)
    except FileNotFoundError:
        raise UserError(f"{folder} is not a checkpoint: {STATE} is missing") from None
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder / STATE} is damaged and cannot be read: {error}") from None


def check_tensors(file: Any, path: Path) -> None:
    """A state holds fp32 tensors of its sections, and nothing else."""
    for key in file.keys():  # noqa: SIM118
        kind = file.get_slice(key).get_dtype()
        if kind != "F32" or key.partition("/")[0] not in SECTIONS:
            raise UserError(
                f"{path} is damaged: it holds {key!r} of type {kind}; valid are F32 tensors of "
                f"{', '.join(SECTIONS)}"
            )


def load_position(folder: Path) -> tuple[Position, int]:
    """Where a checkpoint's run was, and its optimizer steps: trainer.json."""
    trainer = read_trainer(folder)
    position = Position(step=trainer["step"], draws=trainer["draws"], schedule=trainer["schedule"])
    return position, trainer["updates"]


def read_trainer(folder: Path) -> dict[str, Any]:
    """trainer.json, its values of the right kinds."""
    file = folder / "trainer.json"
    try:
        trainer = json.loads(file.read_bytes())
        if (found := trainer["format"]) != FORMAT:
            raise UserError(f"{file} has format {short_repr(found)}; this version reads {FORMAT}")
        read = Trainer.model_validate(trainer).model_dump()
        if seal(read) != read["seal"]:
            raise ValueError("it was changed by hand")
        return read
    except FileNotFoundError:
        raise UserError(f"{folder} is not a checkpoint: {file} is missing") from None
    except (OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged and cannot be read: {one_line(error)}") from None


class Trainer(StrictModel):
    """trainer.json of a checkpoint: where its run was, and what its other files are."""

    format: int
    step: NonNegative
    draws: NonNegative
    schedule: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    updates: NonNegative
    data: str
    files: dict[str, str]
    seal: str


def seal(trainer: Mapping[str, Any]) -> str:
    """What names the rest of trainer.json, which knows every other file."""
    rest = json.dumps({n: x for n, x in trainer.items() if n != "seal"}, sort_keys=True)
    return hashlib.blake2b(rest.encode(), digest_size=16).hexdigest()


class Definitions(StrictModel):
    """asymrl.json of a checkpoint: how its policy is to be asked, and by whom judged."""

    class Prompt(StrictModel):
        system: str | None
        user: str
        template_kwargs: dict[str, Any]

    class Drawn(StrictModel):
        temperature: Temperature
        top_p: Annotated[float, Field(gt=0, le=1)]
        top_k: NonNegative
        max_tokens: Positive
        stop_ids: list[NonNegative]

    prompt: Prompt
    sampling: Drawn
    verifier: VerifierConfig
    chat_template: str | None = None  # models.template_digest
    which: str | None = None  # the rule by which a run's checkpoint is chosen, in words


def definitions(folder: Path) -> Definitions | None:
    """None for a plain Hugging Face folder."""
    file = folder / "asymrl.json"
    if not file.is_file():
        return None
    try:
        found = Definitions.model_validate_json(file.read_bytes())
        check_user_turn(found.prompt.user)
        return found
    except (OSError, ValueError) as error:  # pydantic's is a ValueError
        raise UserError(f"{file} is damaged: {one_line(error)}") from None


def latest(run: Path) -> Path | None:
    """What checkpoints/latest names; None where no checkpoint was ever saved."""
    folder = run / "checkpoints"
    link, saved = folder / "latest", checkpoints(folder)
    if os.path.exists(link):  # Path.exists raises where the target is no possible name
        if link.resolve().parent != folder.resolve():
            raise UserError(
                f"{link} leads out of its folder, to {link.resolve()}; point it at a checkpoint of "
                "this run, or use --resume DIR"
            )
        return link.resolve()
    if link.is_symlink():
        newest = f"; the newest there is {saved[-1].name}" if saved else ""
        raise UserError(f"{link} names no checkpoint{newest}; point it at one, or use --resume DIR")
    return saved[-1].resolve() if saved else None  # killed just before its first `latest`


def remove(path: Path) -> None:
    """A folder is renamed first, so that a half-deleted one cannot be taken for a whole one."""
    if path.is_dir() and not path.is_symlink():
        gone = path.with_name(f".{path.name}.gone.tmp")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
        shutil.rmtree(gone)
    else:
        path.unlink()
