"""Checkpoints: written atomically, checked when read, complete enough to resume bit for bit.

A checkpoint is a Hugging Face model folder (weights, tokenizer) plus `asymrl.json` (prompt,
sampling and stop definitions), `trainer.json` (position of the run, digests of all files) and
`trainer/state.safetensors` (named fp32 weights and AdamW moments, in the same format for every
policy). Handles files; independent of models.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from asymrl.config.schema import (
    Config,
    NonNegative,
    Positive,
    StrictModel,
    Temperature,
    VerifierConfig,
    check_user_turn,
)
from asymrl.engines.policy import Policy
from asymrl.errors import UserError, one_line, rust_error_to_value_error, short_repr
from asymrl.files import (
    file_digest,
    read_json,
    relative_files,
    sync_folder,
    sync_to_disk,
    write_atomically,
)
from asymrl.run.card import card, rule
from asymrl.run.early_stop import read_eval_scores
from asymrl.types import Position, Sampling, TrainerState

FORMAT = 5
STATE = "trainer/state.safetensors"  # in a subfolder: vLLM loads all files next to the model's
SECTIONS = ("weights", "exp_avg", "exp_avg_sq")


def save_checkpoint(
    config: Config,
    run: Path,
    policy: Policy,
    tokenizer: Any,
    definitions: str,
    data: str,
    position: Position,
) -> None:
    """Write checkpoints/step-N under a temporary name, rename it, update `best` and `latest`, and
    delete old checkpoints. Collective: all ranks gather the state, rank 0 writes.

    definitions: from build_definitions. data: digest of the problems. UserError if the checkpoint
    cannot be written; existing ones stay.
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
            stack.push(rust_error_to_value_error)  # from tokenizer.save_pretrained
            temporary.mkdir(parents=True)
            policy.save_pretrained(temporary, state)
            tokenizer.save_pretrained(temporary)
            (temporary / STATE).parent.mkdir()
            save_file(
                {f"{s}/{name}": t for s in SECTIONS for name, t in getattr(state, s).items()},
                temporary / STATE,
            )
            write_atomically(temporary / "asymrl.json", definitions)
            trainer = {
                "format": FORMAT,
                "step": position.step,
                "draws": position.draws,
                "schedule": dict(position.schedule),
                "updates": state.updates,
                "data": data,
                "files": {n: file_digest(temporary / n) for n in relative_files(temporary)},
            }
            trainer["seal"] = seal(trainer)
            write_atomically(temporary / "trainer.json", json.dumps(trainer) + "\n")
            write_atomically(temporary / "README.md", card(config, run, position.step))
            sync_folder(temporary)
            if final.exists():
                remove(final)
            os.replace(temporary, final)
            best = link_best(run, config.checkpoint.best_on)
            point_link(folder, "latest", final.name)  # last: a kill before it repeats the step
    except (OSError, ValueError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        last = latest(run)
        raise UserError(
            f"checkpoint {final} could not be written: {one_line(error)}; "
            + (f"the last checkpoint is still {last.name}" if last else "there is no earlier one")
        ) from None
    for old in checkpoints(folder)[: -config.checkpoint.keep]:
        if old.name != best:
            remove(old)


def check_digests(folder: Path) -> None:
    """Raise UserError, with the file's name, if a file of the checkpoint is missing or has changed
    since it was saved. README.md may change."""
    for name, saved in read_trainer(folder)["files"].items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"checkpoint {folder} is damaged: {name} is missing")
        if file_digest(file) != saved:
            raise UserError(
                f"checkpoint {folder} is damaged: {name} has changed since it was saved; use "
                "another checkpoint (--resume DIR), or delete this one and the link `latest`"
            )


def check_same_data(folder: Path, data: str) -> None:
    """Raise UserError if the problems or their order differ from those in the checkpoint."""
    if (saved := read_trainer(folder)["data"]) != data:
        raise UserError(
            f"data.train or eval.benchmarks has changed since {folder} was saved (digest {data} "
            f"now, {saved} then): restore the problems, or start a new run from that checkpoint "
            f"with --resume {folder} --output-dir NEW"
        )


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first. Other files and folders in it are ignored."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name))


def point_link(folder: Path, link: str, name: str) -> None:
    """Atomically make folder/link a symbolic link to `name`."""
    temporary = folder / f".{link}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, folder / link)
    sync_to_disk(folder)


def link_best(run: Path, benchmark: str | None) -> str | None:
    """Point the link `best` at the saved checkpoint with the highest eval/<benchmark>/greedy/avg in
    metrics.jsonl, the earliest of equals. Returns its name.

    Without an evaluated checkpoint: deletes the link and returns None. If benchmark is None:
    returns None and changes nothing.
    """
    if benchmark is None:
        return None
    folder, scores = run / "checkpoints", read_eval_scores(run, benchmark)
    score_by_name = {f"step-{step:06d}": score for step, score in scores.items()}
    saved = [path.name for path in checkpoints(folder) if path.name in score_by_name]
    best = max(saved, key=score_by_name.__getitem__, default=None)
    if best:
        point_link(folder, "best", best)
    else:
        (folder / "best").unlink(missing_ok=True)
    return best


class Tensors(Mapping[str, Tensor]):
    """One section of a state file. A tensor is read from disk when it is accessed."""

    def __init__(self, file: Any, section: str) -> None:
        self.file = file
        keys = [key for key in file.keys() if key.startswith(f"{section}/")]  # noqa: SIM118
        self.key_by_name = {key.removeprefix(f"{section}/"): key for key in keys}

    def __getitem__(self, name: str) -> Tensor:
        return self.file.get_tensor(self.key_by_name[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.key_by_name)

    def __len__(self) -> int:
        return len(self.key_by_name)


def starting_point(
    run: Path, checkpoint_dir: Path | None
) -> tuple[Position, TrainerState | None, bool]:
    """Where a run starts, its trainer state, and whether the checkpoint belongs to another run.
    Then steps and weights continue from it, but the schedule restarts."""
    if checkpoint_dir is None:
        return Position(), None, False
    position, state = load_checkpoint(checkpoint_dir)
    another = checkpoint_dir.parent.parent != run.resolve()
    if not another and checkpoint_dir.name != f"step-{position.step:06d}":
        raise UserError(
            f"{checkpoint_dir} was saved at step {position.step}, but its name says otherwise; "
            "rename it back, or use --resume DIR"
        )
    return (replace(position, schedule={}) if another else position), state, another


def load_checkpoint(folder: Path) -> tuple[Position, TrainerState]:
    """Position and trainer state of a checkpoint. UserError names a missing or damaged file."""
    position, updates = load_position(folder)
    try:
        file = safe_open(folder / STATE, framework="pt")
        for key in file.keys():  # noqa: SIM118
            kind = file.get_slice(key).get_dtype()
            if kind != "F32" or key.partition("/")[0] not in SECTIONS:
                raise UserError(
                    f"{folder / STATE} is damaged: it holds {key!r} of type {kind}; valid are F32 "
                    f"tensors in {', '.join(SECTIONS)}"
                )
        parts = {section: Tensors(file, section) for section in SECTIONS}
        return position, TrainerState(**parts, updates=updates)
    except FileNotFoundError:
        raise UserError(f"{folder} is not a checkpoint: {STATE} is missing") from None
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder / STATE} is damaged and cannot be read: {error}") from None


def load_position(folder: Path) -> tuple[Position, int]:
    """The position of a checkpoint's run and its number of optimizer steps, from trainer.json."""
    trainer = read_trainer(folder)
    position = Position(step=trainer["step"], draws=trainer["draws"], schedule=trainer["schedule"])
    return position, trainer["updates"]


def read_trainer(folder: Path) -> dict[str, Any]:
    """The checked content of trainer.json."""
    file = folder / "trainer.json"
    if not os.path.exists(file):  # Path.exists raises for an invalid file name
        raise UserError(f"{folder} is not a checkpoint: {file} is missing")
    trainer = read_json(file)
    if trainer.get("format") != FORMAT:
        version = short_repr(trainer.get("format"))
        raise UserError(f"{file} has format {version}; this version reads format {FORMAT}")
    try:
        TrainerJson.model_validate(trainer)
    except ValueError as error:  # pydantic's errors are ValueErrors
        raise UserError(f"{file} is damaged: {one_line(error)}") from None
    if seal(trainer) != trainer["seal"]:
        raise UserError(f"{file} is damaged: it has changed since it was saved")
    return trainer


class TrainerJson(StrictModel):
    """trainer.json of a checkpoint. files: name -> digest; seal: digest of all other fields."""

    format: int
    step: NonNegative
    draws: NonNegative
    schedule: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    updates: NonNegative
    data: str
    files: dict[str, str]
    seal: str


def seal(trainer: Mapping[str, Any]) -> str:
    """Digest of all fields of trainer.json except the seal; they include every file's digest."""
    rest = json.dumps({n: x for n, x in trainer.items() if n != "seal"}, sort_keys=True)
    return hashlib.blake2b(rest.encode(), digest_size=16).hexdigest()


class Definitions(StrictModel):
    """asymrl.json of a checkpoint: how to prompt and sample its policy, how to verify, and the
    columns of its data."""

    class Prompt(StrictModel):
        system: str | None
        user: str
        template_kwargs: dict[str, Any]
        raw: bool = False

    class SamplingSettings(StrictModel):
        temperature: Temperature
        top_p: Annotated[float, Field(gt=0, le=1)]
        top_k: NonNegative
        max_tokens: Positive
        stop_ids: list[NonNegative]

    class Columns(StrictModel):
        problem: str | None = None
        answer: str | None = None

    prompt: Prompt
    sampling: SamplingSettings
    verifier: VerifierConfig
    columns: Columns = Columns()  # data.problem_field and data.answer_field
    chat_template: str | None = None  # pretrained.template_digest
    which: str | None = None  # card.rule: in words, how the run selects a checkpoint


def build_definitions(config: Config, sampling: Sampling, tokenizer: Any) -> str:
    """The text of asymrl.json. sampling: that of training, with the response length of
    evaluations."""
    from asymrl.engines.pretrained import template_digest  # loads transformers

    definitions = {
        "prompt": config.data.prompt,
        "sampling": asdict(sampling),
        "verifier": config.verifier.model_dump(),
        "columns": {"problem": config.data.problem_field, "answer": config.data.answer_field},
        "chat_template": template_digest(tokenizer),
        "which": rule(config),
    }
    return json.dumps(definitions, indent=2) + "\n"


def read_definitions(folder: Path) -> Definitions | None:
    """asymrl.json of a checkpoint; None for a plain Hugging Face folder."""
    file = folder / "asymrl.json"
    if not file.is_file():
        return None
    try:
        definitions = Definitions.model_validate_json(file.read_bytes())
        check_user_turn(definitions.prompt.user)
        return definitions
    except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise UserError(f"{file} is damaged: {one_line(error)}") from None


def latest(run: Path) -> Path | None:
    """The checkpoint that checkpoints/latest points at; None if none has been saved."""
    folder = run / "checkpoints"
    link, saved = folder / "latest", checkpoints(folder)
    if os.path.exists(link):  # Path.exists raises for an invalid target name
        if link.resolve().parent != folder.resolve():
            raise UserError(
                f"{link} points outside its folder, at {link.resolve()}; point it at a checkpoint "
                "of this run, or use --resume DIR"
            )
        return link.resolve()
    if link.is_symlink():
        newest = f"; the newest one is {saved[-1].name}" if saved else ""
        raise UserError(
            f"{link} does not point at a checkpoint{newest}; point it at one, or use --resume DIR"
        )
    return saved[-1].resolve() if saved else None  # killed before `latest` was created


def remove(path: Path) -> None:
    """Delete a file or folder. Renames a folder before it is deleted, so that a half-deleted folder
    never has the name of a complete one."""
    if path.is_dir() and not path.is_symlink():
        gone = path.with_name(f".{path.name}.gone.tmp")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
        shutil.rmtree(gone)
    else:
        path.unlink()
