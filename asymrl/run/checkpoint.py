"""Checkpoints: written atomically, checked when read, complete enough to resume bit for bit.

A checkpoint is a Hugging Face model folder (weights, tokenizer; with LoRA also the adapters, in the
folder `adapter`, and without checkpoint.merged no weights beside them) plus `asymrl.json` (prompt,
sampling and stop definitions), `trainer.json` (position of the run, shapes of the parameters,
digests of all files) and one `trainer/state-RANK-of-RANKS.safetensors` a rank: its slices of the
trained fp32 weights and of AdamW's moments, each a flat tensor `weights/NAME`, `exp_avg/NAME` or
`exp_avg_sq/NAME`. Every rank writes its own file, and reads only the slices that it needs. Groups
that wait for the next step are two more files (leftovers.py). Handles files; independent of models.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from asymrl.config.schema import (
    Config,
    LoRAConfig,
    NonNegative,
    Positive,
    ReasoningGymConfig,
    StrictModel,
    Temperature,
    VerifierConfig,
    check_user_turn,
)
from asymrl.engines.distributed import World
from asymrl.engines.policy import SECTIONS, Policy
from asymrl.errors import (
    ReportedByRankZero,
    UserError,
    one_line,
    rust_error_to_value_error,
    short_repr,
)
from asymrl.files import (
    file_digest,
    read_json,
    relative_files,
    sync_folder,
    sync_to_disk,
    write_atomically,
)
from asymrl.run import leftovers
from asymrl.run.card import card, rule
from asymrl.run.early_stop import read_eval_scores
from asymrl.types import Position, Problem, RolloutGroups, Sampling, TrainerState

FORMAT = 6
MAX_RANKS = 10_000
ONE_PROCESS = World()


def state_file(rank: int, ranks: int) -> str:
    """The path of a rank's state in a checkpoint. In a subfolder, because vLLM loads all files
    next to the model's."""
    return f"trainer/state-{rank:05d}-of-{ranks:05d}.safetensors"


def save_checkpoint(
    config: Config,
    run: Path,
    policy: Policy,
    tokenizer: Any,
    definitions: str,
    data: str,
    world: World,
    position: Position,
) -> None:
    """Write checkpoints/step-N under a temporary name, rename it, update `best` and `latest`, and
    delete old checkpoints. Collective: each rank writes its state, rank 0 everything else.

    definitions: from build_definitions. data: digest of the problems. UserError if the checkpoint
    cannot be written; existing ones stay.
    """
    folder = run / "checkpoints"
    final = folder / f"step-{position.step:06d}"
    temporary = folder / f".{final.name}.tmp"
    with stage(world, temporary, final):
        if world.first:
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "trainer").mkdir(parents=True)
    state = policy.state()
    weights = policy.full_weights(merged=config.checkpoint.merged)
    mine = state_file(world.rank, world.size)
    digests: dict[str, str] = {}
    with stage(world, temporary, final):
        tensors = {f"{s}/{name}": t for s in SECTIONS for name, t in getattr(state, s).items()}
        save_file(tensors, temporary / mine)
        sync_to_disk(temporary / mine)
        digests[mine] = file_digest(temporary / mine)
        if world.first:
            policy.save_pretrained(temporary, weights)
            tokenizer.save_pretrained(temporary)
            write_atomically(temporary / "asymrl.json", definitions)
            files = [name for name in relative_files(temporary) if not name.startswith("trainer/")]
            if position.leftovers:
                leftovers.write_leftovers(temporary, position.leftovers)
                files += leftovers.FILES
            digests |= {name: file_digest(temporary / name) for name in files}
    files = {name: digest for part in world.gather(digests) for name, digest in part.items()}
    with stage(world, temporary, final):
        if world.first:
            trainer = {
                "format": FORMAT,
                "step": position.step,
                "draws": position.draws,
                "schedule": dict(position.schedule),
                "updates": state.updates,
                "ranks": world.size,
                "shapes": state.shapes,
                "data": data,
                "files": files,
            }
            if config.policy.lora:
                trainer["lora"] = config.policy.lora.model_dump()
            trainer["seal"] = seal(trainer)
            write_atomically(temporary / "trainer.json", json.dumps(trainer) + "\n")
            write_atomically(temporary / "README.md", card(config, run, position.step))
            sync_folder(temporary)
            if final.exists():
                remove(final)
            os.replace(temporary, final)
            link_best(run, config.checkpoint.best_on)
            point_link(folder, "latest", final.name)  # last: a kill before it repeats the step
    if world.first:
        remove_old(folder, config.checkpoint.keep)


def remove_old(folder: Path, keep: int) -> None:
    """Delete all checkpoints but the last `keep` and the best one. What cannot be deleted now, for
    example because a client of a network file system has it open, is deleted at the next start."""
    best = os.readlink(folder / "best") if (folder / "best").is_symlink() else None
    for old in checkpoints(folder)[:-keep]:
        if old.name != best:
            try:
                remove(old)
            except OSError as error:
                print(f"note: {old} could not be deleted: {error.strerror}", flush=True)


@contextmanager
def stage(world: World, temporary: Path, final: Path) -> Iterator[None]:
    """Run the block on every rank; if a file cannot be written on one, UserError on all.

    `temporary` is then deleted. Other exceptions propagate on their rank alone, and the watchdog
    ends the others. Collective.
    """
    error: str | None = None
    try:
        with ExitStack() as stack:
            stack.push(rust_error_to_value_error)  # from tokenizer.save_pretrained
            yield
    except (OSError, ValueError, SafetensorError) as caught:
        error = one_line(caught)
    errors = [each for each in world.gather(error) if each is not None]
    if not errors:
        return
    if not world.first:
        raise ReportedByRankZero(errors[0])
    shutil.rmtree(temporary, ignore_errors=True)
    last = latest(final.parents[1])
    raise UserError(
        f"checkpoint {final} could not be written: {errors[0]}; "
        + (f"the last checkpoint is still {last.name}" if last else "there is no earlier one")
    )


def check_digests(folder: Path, world: World = ONE_PROCESS) -> None:
    """Raise UserError, with the file's name, if a file of the checkpoint is missing or has changed
    since it was saved. README.md may change. Collective: each rank reads a share of the files."""
    error: UserError | None = None
    try:
        check_files(folder, rank=world.rank, ranks=world.size)
    except UserError as caught:
        error = caught
    errors = [each for each in world.gather(error) if each is not None]
    if errors:
        raise errors[0] if world.first else ReportedByRankZero(str(errors[0]))


def check_files(folder: Path, *, rank: int, ranks: int) -> None:
    """Check this rank's share of the checkpoint's files: every `ranks`-th one."""
    for name, saved in [*read_trainer(folder)["files"].items()][rank::ranks]:
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


def check_same_lora(folder: Path, lora: LoRAConfig | None) -> None:
    """Raise UserError unless the checkpoint's trained parameters are those that policy.lora, which
    is null for all weights, asks for."""
    saved = read_trainer(folder).get("lora")
    now = lora.model_dump() if lora else None
    if saved == now:
        return
    if saved is None or now is None:
        trains = ("all weights", "LoRA adapters")
        raise UserError(
            f"{folder} was saved by a run that trains {trains[saved is not None]}, and policy.lora "
            f"= {short_repr(now)} trains {trains[now is not None]}: use the same policy.lora, or "
            f"start from the model of that checkpoint with model.path={folder} and without --resume"
        )
    key = next(key for key in now if now[key] != saved[key])
    raise UserError(
        f"{folder} was saved with policy.lora.{key} = {saved[key]}, and this run has {now[key]}: "
        "use the same policy.lora, or start from the model of that checkpoint with "
        f"model.path={folder} and without --resume"
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
    """One section of a rank's state file, name -> flat tensor, read from disk when it is accessed.

    sizes: name -> number of entries.
    """

    def __init__(self, file: Any, section: str, sizes: Mapping[str, int]) -> None:
        self.file, self.section, self.sizes = file, section, sizes

    def __getitem__(self, name: str) -> Tensor:
        return self.file.get_tensor(f"{self.section}/{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)


def starting_point(
    run: Path, checkpoint_dir: Path | None
) -> tuple[Position, list[TrainerState], bool]:
    """Where a run starts, without leftovers, the parts of its trainer state (none for a new run),
    and whether the checkpoint belongs to another run. Then steps and weights continue from it, but
    the schedule restarts."""
    if checkpoint_dir is None:
        return Position(), [], False
    position, parts = load_checkpoint(checkpoint_dir)
    another = checkpoint_dir.parent != (run / "checkpoints").resolve()
    if not another and checkpoint_dir.name != f"step-{position.step:06d}":
        raise UserError(
            f"{checkpoint_dir} was saved at step {position.step}, but its name says otherwise; "
            "rename it back, or use --resume DIR"
        )
    return (replace(position, schedule={}) if another else position), parts, another


def load_checkpoint(folder: Path) -> tuple[Position, list[TrainerState]]:
    """Position of a checkpoint, and the parts of its trainer state in rank order, each tensor read
    when it is accessed. UserError names a missing or damaged file."""
    trainer = read_trainer(folder)
    shapes = {name: tuple(shape) for name, shape in trainer["shapes"].items()}
    parts = []
    for rank in range(trainer["ranks"]):
        sections = open_state(folder / state_file(rank, trainer["ranks"]))
        parts.append(TrainerState(shapes=shapes, **sections, updates=trainer["updates"]))
    check_complete(folder, parts)
    return load_position(folder), parts


def check_complete(folder: Path, parts: Sequence[TrainerState]) -> None:
    """Raise UserError unless every part has a slice of each parameter, and they add up to it."""
    shapes = parts[0].shapes
    for section in SECTIONS:
        sizes = [getattr(part, section).sizes for part in parts]
        for name in sorted(set(shapes).union(*sizes)):
            entries = sum(by_name.get(name, 0) for by_name in sizes)
            expected = math.prod(shapes[name]) if name in shapes else 0
            if entries != expected or not all(name in by_name for by_name in sizes):
                raise UserError(
                    f"{folder}/trainer is damaged: {section} of {name} has {entries:,} entries in "
                    f"the {len(parts)} state files, and the parameter has {expected:,}"
                )


def open_state(path: Path) -> dict[str, Tensors]:
    """The sections of a rank's state file. UserError if it is missing or damaged."""
    sizes: dict[str, dict[str, int]] = {section: {} for section in SECTIONS}
    try:
        file = safe_open(path, framework="pt")
        for key in file.keys():  # noqa: SIM118
            section, _, name = key.partition("/")
            tensor = file.get_slice(key)
            kind, shape = tensor.get_dtype(), tensor.get_shape()
            if kind != "F32" or len(shape) != 1 or section not in SECTIONS:
                raise UserError(
                    f"{path} is damaged: it holds {key!r} of type {kind} and shape {shape}; valid "
                    f"are flat F32 tensors in {', '.join(SECTIONS)}"
                )
            sizes[section][name] = shape[0]
        return {section: Tensors(file, section, sizes[section]) for section in SECTIONS}
    except FileNotFoundError:
        raise UserError(f"{path} is missing, so its folder is not a whole checkpoint") from None
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} is damaged and cannot be read: {error}") from None


def load_position(folder: Path) -> Position:
    """The position of a checkpoint's run, from trainer.json; without the leftovers."""
    trainer = read_trainer(folder)
    return Position(step=trainer["step"], draws=trainer["draws"], schedule=trainer["schedule"])


def load_leftovers(folder: Path, problems: Sequence[Problem]) -> RolloutGroups | None:
    """The groups that the checkpoint's last step left for the next one, if any. problems: of the
    same run; a run with other settings, which starts from the checkpoint, does without them."""
    if leftovers.ROWS_FILE not in read_trainer(folder)["files"]:
        return None
    return leftovers.read_leftovers(folder, problems)


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
    """trainer.json of a checkpoint. ranks: that wrote it. shapes: of the whole parameters. files:
    name -> digest. lora: policy.lora, absent if all weights are trained. seal: digest of all other
    fields."""

    format: int
    step: NonNegative
    draws: NonNegative
    schedule: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    updates: NonNegative
    ranks: Annotated[int, Field(ge=1, le=MAX_RANKS)]
    shapes: dict[str, list[NonNegative]]
    data: str
    files: dict[str, str]
    lora: dict[str, Any] | None = None
    seal: str


def seal(trainer: Mapping[str, Any]) -> str:
    """Digest of all fields of trainer.json except the seal; they include every file's digest."""
    rest = json.dumps({n: x for n, x in trainer.items() if n != "seal"}, sort_keys=True)
    return hashlib.blake2b(rest.encode(), digest_size=16).hexdigest()


class Definitions(StrictModel):
    """asymrl.json of a checkpoint: how to prompt and sample its policy, how to verify, the
    columns of its data, and which problems of reasoning-gym it has."""

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
    reasoning_gym: ReasoningGymConfig | None = None  # data.reasoning_gym
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
        "reasoning_gym": config.data.gym or None,
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
