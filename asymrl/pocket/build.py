"""Makes the pocket policy of a seed: a small Qwen3 after its warm start, as a model folder."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from asymrl.pocket.folders import make_once, no_progress_bars
from asymrl.pocket.model import MAX_LENGTH, Recipe, build_model, warm_start
from asymrl.pocket.modular_sums import VARIANTS, heldout_rows, split_sets
from asymrl.pocket.tokenizer import build_tokenizer

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


def build_policy(
    folder: Path,
    seed: int = 0,
    progress: ProgressCallback = lambda done, total, text: None,
    *,
    variant: str = "pocket",
    recipe: Recipe | None = None,
    force: bool = False,
) -> Path:
    """Create `folder` with the policy of `seed`, unless it exists with this recipe and seed.

    A Hugging Face folder; its record also has the accuracy on the held-out problems before any
    training with rewards, greedy and at temperature 1. UserError: see folders.make_once.
    """
    recipe = recipe or Recipe(false_facts=VARIANTS[variant].false_facts)
    made_from = json.loads(json.dumps({"seed": seed, "recipe": asdict(recipe)}))  # no tuples
    write = partial(_write, variant=variant, recipe=recipe, seed=seed, progress=progress)
    return make_once(folder, made_from, write, force=force)


def _write(
    folder: Path, *, variant: str, recipe: Recipe, seed: int, progress: ProgressCallback
) -> Mapping[str, Any]:
    start = time.perf_counter()
    tokenizer = build_tokenizer(MAX_LENGTH)
    model = build_model(recipe, tokenizer, seed)
    training_sets, _ = split_sets()
    with _one_thread():
        losses = warm_start(model, tokenizer.get_vocab(), training_sets, recipe, seed)
        for i, loss in enumerate(losses):
            progress(i + 1, recipe.steps, f"warm start of {variant}:{seed}, loss {loss:.2f}")
        accuracy = {
            name: round(measure(model, tokenizer, variant, temperature, seed), 3)
            for name, temperature in (("greedy", 0.0), ("t1", 1.0))
        }
    with no_progress_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return {
        "heldout_accuracy": accuracy,
        "seconds": round(time.perf_counter() - start, 1),
        "torch": torch.__version__,
    }


def measure(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    variant: str,
    temperature: float,
    seed: int,
) -> float:
    """Accuracy on the held-out problems, one response each; temperature 0 is greedy."""
    rows, correct = list(heldout_rows(variant)), 0
    sampler: Any = model.eval()
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for n in VARIANTS[variant].heldout:  # prompts with the same n are equally long
            part = [row for row in rows if row["n"] == n]
            chats = [[{"role": "user", "content": row["problem"]}] for row in part]
            prompts: Any = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            output = sampler.generate(**prompts, max_new_tokens=MAX_RESPONSE, **sampling)
            responses = output[:, prompts["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
            golds = [f"\\boxed{{{row['answer']}}}" for row in part]
            correct += sum(t.endswith(gold) for t, gold in zip(texts, golds, strict=True))
    return correct / len(rows)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one CPU thread: faster at this size on a shared machine, and bit-identical results."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
