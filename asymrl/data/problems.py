"""Data sets -> problems: how rows are read, how prompts are rendered, which problem comes when.

Knows tokenizers and the `datasets` library; nothing of models or training. The order of training
is a pure function of (seed, draw), so a resumed run continues it without replaying anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from jinja2 import TemplateError

from asymrl.data.readers import BROKEN, read_rows
from asymrl.data.sources import SOURCES, count_note
from asymrl.errors import UserError, one_line, rust_error_to_value_error, short_repr
from asymrl.types import Problem, Request, derive_seed, frozen
from asymrl.verifiers import Verifier, unreadable

# Parameters of apply_chat_template itself, and so nothing that a template can be told.
TAKEN = {
    "conversation",
    "tools",
    "documents",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
}


def render_prompt(
    tokenizer: Any, problem: str, *, system: str | None, user: str, template_kwargs: Mapping
) -> tuple[str, tuple[int, ...]]:
    """The prompt as text and ids: the tokenizer's own chat template around the user turn."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": user.replace("{problem}", problem)})
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template, and prompts are rendered with one; valid is a "
            "model folder with chat_template.jinja"
        )
    if taken := sorted(template_kwargs.keys() & TAKEN):
        raise UserError(f"data.chat_template_kwargs.{taken[0]} is not for a template to set")
    try:
        with ExitStack() as stack:
            stack.push(rust_error_to_value_error)
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **template_kwargs
            )
            ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    except (TemplateError, *BROKEN) as error:  # a template is a small program
        raise UserError(
            "the tokenizer, or its chat template, refuses the prompt of "
            f"{short_repr(problem)}: {one_line(error)}"
        ) from None
    if not ids:
        raise UserError("the tokenizer's chat template makes a prompt without a token")
    return text, ids


@frozen
class Loaded:
    """The problems of a source, and in sentences what was dropped or will be judged otherwise."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def load_problems(
    source: str,
    *,
    tokenizer: Any,
    prompt: Mapping[str, Any],
    max_prompt_tokens: int,
    limit: int | None = None,
    problem_field: str = "problem",
    answer_field: str = "answer",
    verifier: Verifier,
    refuse_unparseable: bool = False,
    known: str | None = None,
    any_count: bool = False,
) -> Loaded:
    """Read, render and check a source.

    known: the named source that a local file is a copy of, if any; then it must have as many
    problems, unless any_count, and may have its columns.

    prompt: system, user and template_kwargs of `render`. Over-long prompts are dropped, counted
    and reported. Golds that the verifier cannot read are named, and judged by exact match (or
    refused).
    """
    rows = read_rows(source, problem_field, answer_field, known)
    notes = source_notes(source, known, len(rows), any_count)
    rows = rows[:limit]
    for index in unreadable(verifier, [row.gold for row in rows]):
        sentence = f"{rows[index].where}: gold {rows[index].gold!r} does not parse"
        if refuse_unparseable:
            raise UserError(f"{sentence} (data.unparseable_gold is refuse)")
        notes.append(f"{sentence}; judged by exact match")
    problems, dropped = [], []
    for row in rows:
        text, ids = render_prompt(tokenizer, row.problem, **prompt)
        if len(ids) > max_prompt_tokens:
            dropped.append(row.id)
            continue
        problems.append(
            Problem(
                id=row.id,
                prompt_ids=ids,
                prompt_text=text,
                gold=row.gold,
                source=source,
                meta={"problem": row.problem, **row.meta},
            )
        )
    if dropped:
        notes.append(
            f"{source}: dropped {len(dropped)} of {len(rows)} problems, their prompts are over "
            f"{max_prompt_tokens} tokens: {', '.join(dropped[:5])}{', ...' * (len(dropped) > 5)}"
        )
    if not problems:
        raise UserError(
            f"{source}: every prompt is over data.max_prompt_tokens = {max_prompt_tokens} tokens"
        )
    return Loaded(problems=tuple(problems), notes=tuple(notes))


def source_notes(source: str, known: str | None, found: int, any_count: bool) -> list[str]:
    """What is to be said of a named source, or of a local copy of one; see sources.count_note."""
    name = source if source in SOURCES else known
    if name is None:
        return []
    notes = [count_note(name, source, found, any_count=any_count)]
    if name == source and SOURCES[name].revision is None:
        notes.append(f"{name} is not pinned to a revision; these are the problems of today")
    return [note for note in notes if note]


def sample_prompts(
    problems: Sequence[Problem], count: int, *, samples: int, first_draw: int, seed: int, step: int
) -> list[Request]:
    """The next `count` prompt draws. Each epoch is a fresh shuffle; the last partial batch of one
    is filled up from the next. Which problems come depends on (seed, first_draw) alone.
    """
    size = len(problems)
    orders: dict[int, np.ndarray] = {}
    requests = []
    for number in range(first_draw, first_draw + count):
        epoch, place = divmod(number, size)
        if epoch not in orders:
            shuffle = np.random.Generator(np.random.Philox(derive_seed(seed, "epoch", epoch)))
            orders[epoch] = shuffle.permutation(size)
        requests.append(
            Request(
                problem=problems[orders[epoch][place]],
                draw=number,
                samples=samples,
                seed=derive_seed(seed, "rollout", step, number),
            )
        )
    return requests


def problems_digest(problems: Sequence[Problem]) -> str:
    """Identifies problems and their order by ids, prompt tokens and golds."""
    digest = hashlib.blake2b(digest_size=8)
    for problem in problems:
        digest.update(json.dumps([problem.id, problem.prompt_ids, problem.gold]).encode())
    return digest.hexdigest()
