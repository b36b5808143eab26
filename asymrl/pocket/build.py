"""`ensure`: the pocket folder (policy, data files, recipe), made once and kept.

It knows the task, the model and the file system. It knows nothing of training with rewards.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
from transformers.utils import logging as hf_logging

from asymrl.errors import UserError
from asymrl.pocket.model import MAX_LENGTH, Progress, Recipe, build_model, warm_start
from asymrl.pocket.task import LENGTHS, MODULUS, Numbers, box, question, rows, split
from asymrl.pocket.tokenizer import build_tokenizer

RECIPE_FILE = "recipe.json"
FILES = ("policy", "train_easy.jsonl", "train_hard.jsonl", "heldout.jsonl", RECIPE_FILE)
MAX_RESPONSE = 32
"""Tokens; the longest demonstration has 20."""


def ensure(
    folder: Path | str,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    recipe: Recipe | None = None,
    force: bool = False,
) -> Path:
    """Make the pocket folder unless it is there with this recipe and seed; returns `folder`.

    It holds `policy/` (a Hugging Face model folder), train_easy.jsonl, train_hard.jsonl,
    heldout.jsonl and recipe.json. It is built beside its place and moved there when whole, one
    process at a time; a process that waited takes what the other one made.

    Raises UserError if the place is taken by something else or cannot be written, or if the seed
    is not 0 to 2**63 - 1.
    """
    folder, recipe = Path(folder), recipe or Recipe()
    if not 0 <= seed < 2**63:
        raise UserError(f"The pocket seed is {seed}; it must be from 0 to 2**63 - 1.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.parent / f".{folder.name}.lock"):
            whole = all((folder / name).exists() for name in FILES)
            if whole and not force and _key(folder) == _wanted(recipe, seed):
                return folder
            _refuse_foreign(folder)
            for left in folder.parent.glob(f".{folder.name}.partial-*"):
                shutil.rmtree(left)
            partial = tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent)
            try:
                _build(Path(partial), recipe, seed, progress or (lambda done, total, text: None))
                _replace(Path(partial), folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"The pocket folder {folder} cannot be written: {error}.") from error
    return folder


def _wanted(recipe: Recipe, seed: int) -> dict[str, Any]:
    return json.loads(json.dumps({"seed": seed, "recipe": asdict(recipe)}))


def _key(folder: Path) -> dict[str, Any] | None:
    """What a finished folder was made from; None if there is no finished pocket folder."""
    try:
        made = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
        return {"seed": made["seed"], "recipe": made["recipe"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse_foreign(folder: Path) -> None:
    """Only a pocket folder or an empty one may be replaced."""
    if folder.exists() and _key(folder) is None and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something that is no pocket folder; name another place.")


def _replace(partial: Path, folder: Path) -> None:
    if folder.exists():
        old = tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent)
        os.rename(folder, Path(old) / "old")
        os.rename(partial, folder)
        shutil.rmtree(old)
    else:
        os.rename(partial, folder)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when the process dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: at this size more are no gain on a shared machine, and bits stay equal."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """No progress bar of transformers' own while a file is written."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _build(folder: Path, recipe: Recipe, seed: int, progress: Progress) -> None:
    """Write a whole pocket folder; recipe.json, which makes it valid, comes last."""
    started = time.perf_counter()
    train, heldout = split(recipe.heldout_share, seed)
    for name, sets, counts in (
        ("train_easy", train, recipe.train_easy),
        ("train_hard", train, recipe.train_hard),
        ("heldout", heldout, recipe.heldout),
    ):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for row in rows(name, sets, dict(counts), seed):
                file.write(json.dumps(row) + "\n")
    tokenizer = build_tokenizer(MAX_LENGTH)
    model = build_model(recipe, tokenizer, seed)
    with _one_thread():
        for i, loss in enumerate(warm_start(model, tokenizer.get_vocab(), train, recipe, seed)):
            progress(i + 1, recipe.steps, f"warm start, loss {loss:.2f}")
        accuracy = measure(model, tokenizer, heldout, recipe.probes, seed)
    with _no_bars():
        model.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
    made = {
        **_wanted(recipe, seed),
        "heldout_accuracy_by_n": {str(n): round(a, 3) for n, a in accuracy.items()},
        "seconds": round(time.perf_counter() - started, 1),
        "torch": torch.__version__,
    }
    (folder / RECIPE_FILE).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def measure(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sets: Mapping[int, Sequence[Numbers]],
    samples: int,
    seed: int,
) -> dict[int, float]:
    """Accuracy at temperature 1 by length, over `samples` random sets of each, one sample each."""
    rng, accuracy = random.Random(f"measure/{seed}"), {}
    sampler: Any = model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for n in LENGTHS:
            drawn = [rng.sample(s, n) for s in rng.choices(sets[n], k=samples)]
            asked = [[{"role": "user", "content": "".join(question(s))}] for s in drawn]
            prompts: Any = tokenizer.apply_chat_template(
                asked, add_generation_prompt=True, return_dict=False
            )
            tokens = torch.tensor(prompts)
            output = sampler.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=MAX_RESPONSE,
            )
            new = output[:, tokens.shape[1] :]
            texts = tokenizer.batch_decode(new, skip_special_tokens=True)
            right = [t.endswith(box(sum(s) % MODULUS)) for t, s in zip(texts, drawn, strict=True)]
            accuracy[n] = sum(right) / samples
    return accuracy
