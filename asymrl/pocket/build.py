"""`ensure`: makes the pocket folder (policy, data files, recipe) unless it exists already.

Knows the task, the model and the file system, and nothing about training with rewards.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
from transformers.utils import logging as hf_logging

from asymrl.errors import UserError
from asymrl.files import read_json
from asymrl.pocket.model import MAX_LENGTH, Recipe, build_model, warm_start
from asymrl.pocket.task import LENGTHS, MODULUS, Numbers, box, data_rows, question, split_sets
from asymrl.pocket.tokenizer import build_tokenizer

RECIPE_FILE = "recipe.json"
FILES = ("policy", "train_easy.jsonl", "train_hard.jsonl", "heldout.jsonl", RECIPE_FILE)
MAX_RESPONSE = 32  # tokens; the longest demonstration has 20
ProgressCallback = Callable[[int, int, str], None]  # (steps done, steps in total, what is done)


class PrintProgress:
    """A ProgressCallback that prints about ten lines, each with the time that is left."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self, done: int, total: int, text: str) -> None:
        if done % max(1, total // 10) == 0 or done == total:
            left = (time.perf_counter() - self.start) / done * (total - done)
            print(f"{text}: step {done}/{total}, {left:.0f} s left", flush=True)


def ensure(
    folder: Path | str,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    *,
    recipe: Recipe | None = None,
    force: bool = False,
) -> Path:
    """Make the pocket folder unless it exists with this recipe and seed. Returns `folder`.

    The folder holds `policy/` (a Hugging Face model folder), train_easy.jsonl, train_hard.jsonl,
    heldout.jsonl and recipe.json. It is built under another name and renamed when it is complete.
    Only one process builds at a time; the others wait and use its result.

    UserError if `folder` holds something else or cannot be written, or if the seed is not in
    0 to 2**63 - 1.
    """
    folder, recipe = Path(folder), recipe or Recipe()
    if not 0 <= seed < 2**63:
        raise UserError(f"the pocket seed must be from 0 to 2**63 - 1, not {seed}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            complete = all((folder / name).exists() for name in FILES)
            if complete and not force and _stored_identity(folder) == _identity(recipe, seed):
                return folder
            _check_replaceable(folder)
            for leftover in folder.parent.glob(f".{folder.name}.partial-*"):
                shutil.rmtree(leftover)
            partial = tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent)
            try:
                _build(Path(partial), recipe, seed, progress or (lambda done, total, text: None))
                _replace(Path(partial), folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"pocket folder {folder} cannot be written: {error}") from error
    return folder


def _identity(recipe: Recipe, seed: int) -> dict[str, Any]:
    """What a folder is made from, as JSON reads it back: with lists for tuples."""
    return json.loads(json.dumps({"seed": seed, "recipe": asdict(recipe)}))


def _stored_identity(folder: Path) -> dict[str, Any] | None:
    """The identity in a folder's recipe.json; None if it is not a complete pocket folder."""
    try:
        stored = read_json(folder / RECIPE_FILE)
        return {"seed": stored["seed"], "recipe": stored["recipe"]}
    except (UserError, KeyError):
        return None


def _check_replaceable(folder: Path) -> None:
    """UserError unless `folder` is missing, empty or a pocket folder."""
    if not folder.exists() or _stored_identity(folder) is not None:
        return
    if folder.is_file() or any(folder.iterdir()):
        raise UserError(f"{folder} exists and is not a pocket folder; choose another place")


def _replace(partial: Path, folder: Path) -> None:
    if folder.exists():
        old = tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent)
        os.rename(folder, Path(old) / "old")
        os.rename(partial, folder)
        shutil.rmtree(old)
    else:
        os.rename(partial, folder)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one CPU thread: faster at this size on a shared machine, and bit-identical results."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Disable the progress bars of transformers."""
    enabled = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            hf_logging.enable_progress_bar()


def _build(folder: Path, recipe: Recipe, seed: int, progress: ProgressCallback) -> None:
    """Write a pocket folder. recipe.json, which makes it valid, is written last."""
    start = time.perf_counter()
    train, heldout = split_sets(recipe.heldout_share, seed)
    for name, sets, counts in (
        ("train_easy", train, recipe.train_easy),
        ("train_hard", train, recipe.train_hard),
        ("heldout", heldout, recipe.heldout),
    ):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for row in data_rows(name, sets, dict(counts), seed):
                file.write(json.dumps(row) + "\n")
    tokenizer = build_tokenizer(MAX_LENGTH)
    model = build_model(recipe, tokenizer, seed)
    with _one_thread():
        for i, loss in enumerate(warm_start(model, tokenizer.get_vocab(), train, recipe, seed)):
            progress(i + 1, recipe.steps, f"warm start, loss {loss:.2f}")
        accuracy = measure(model, tokenizer, heldout, recipe.probes, seed)
    with _no_progress_bars():
        model.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
    record = {
        **_identity(recipe, seed),
        "heldout_accuracy_by_n": {str(n): round(a, 3) for n, a in accuracy.items()},
        "seconds": round(time.perf_counter() - start, 1),
        "torch": torch.__version__,
    }
    (folder / RECIPE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def measure(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sets: Mapping[int, Sequence[Numbers]],
    samples: int,
    seed: int,
) -> dict[int, float]:
    """Accuracy at temperature 1 by length: `samples` random sets of each, one response per set."""
    rng, accuracy = random.Random(f"measure/{seed}"), {}
    sampler: Any = model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for n in LENGTHS:
            problems = [rng.sample(s, n) for s in rng.choices(sets[n], k=samples)]
            chats = [[{"role": "user", "content": "".join(question(s))}] for s in problems]
            prompts: Any = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, return_dict=False
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
            responses = output[:, tokens.shape[1] :]
            texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
            golds = [box(sum(s) % MODULUS) for s in problems]
            correct = [text.endswith(gold) for text, gold in zip(texts, golds, strict=True)]
            accuracy[n] = sum(correct) / samples
    return accuracy
