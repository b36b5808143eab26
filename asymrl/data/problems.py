"""Problems: rows with their prompts rendered and tokenized, and which ones a step draws.

Knows chat templates and verifiers, and nothing about models or training. The order of problems is
a pure function of (seed, draw), so that a resumed run continues it without replaying draws.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from jinja2 import TemplateError

from asymrl.data.readers import FIELDS_HINT, Fields, ProblemRow, read_problem_rows
from asymrl.data.reasoning_gym import GymSettings
from asymrl.data.sources import Subset, source_notes
from asymrl.errors import UserError, one_line, rust_error_to_value_error, short_repr
from asymrl.types import Problem, Request, derive_seed, frozen
from asymrl.verifiers import Verifier, unreadable
from asymrl.verifiers.golds import has_several_boxes
from asymrl.verifiers.reasoning_gym import tasks_of

# What a chat template, which is a small program, can raise.
TEMPLATE_ERRORS = (
    TemplateError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)


def render_prompt(
    tokenizer: Any,
    problem: str,
    *,
    system: str | None,
    user: str,
    template_kwargs: Mapping,
    raw: bool = False,
) -> tuple[str, tuple[int, ...]]:
    """The prompt as text and as token ids, rendered with the tokenizer's chat template.

    raw: the prompt is `user` alone, with the special tokens that the tokenizer adds to a text.
    """
    if raw:
        text = user.replace("{problem}", problem)
        return text, tuple(tokenizer(text)["input_ids"])
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": user.replace("{problem}", problem)})
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template (chat_template.jinja in the model folder); set "
            "data.chat_template to a Jinja file, or to none for prompts without a template"
        )
    from transformers import PreTrainedTokenizerBase  # reading problem files must not load it

    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    if reserved := sorted(template_kwargs.keys() & parameters.keys()):
        raise UserError(
            f"data.chat_template_kwargs.{reserved[0]} is reserved: it is a parameter of "
            "apply_chat_template, not of the template"
        )
    try:
        with ExitStack() as stack:
            stack.push(rust_error_to_value_error)
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **template_kwargs
            )
            ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    except TEMPLATE_ERRORS as error:
        raise UserError(
            f"rendering the prompt of problem {short_repr(problem)} with the tokenizer's chat "
            f"template failed: {one_line(error)}"
        ) from None
    if not ids:
        raise UserError("the tokenizer's chat template renders an empty prompt")
    return text, ids


@frozen
class LoadedProblems:
    """The problems of a source. notes: sentences for the user, such as which ones were dropped."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


@frozen
class ProblemLoader:
    """Reads sources, checks their golds and renders their prompts.

    fields: the columns of files and hub data sets; named sources know their own. gym: which
    problems of reasoning-gym. prompt: the keyword arguments of `render_prompt`. Prompts over
    max_prompt_tokens are dropped, with a note. Golds that the verifier cannot parse are verified by
    exact match, with a note; with reject_unparseable, and if they are most of the golds, they raise
    UserError. Solutions that box different answers in different places have no gold: they are
    dropped, with a note. The golds of reasoning-gym are not checked: its scorer made them.
    """

    tokenizer: Any
    verifier: Verifier
    prompt: Mapping[str, Any]
    max_prompt_tokens: int
    fields: Fields = Fields()
    reject_unparseable: bool = False
    own_verifier: bool = False  # a function by path, which reads golds in its own way
    gym: GymSettings = GymSettings()

    def load(
        self,
        source: str,
        *,
        limit: int | None = None,
        known: str | None = None,
        any_count: bool = False,
        subset: Subset = Subset(),  # noqa: B008, it is frozen
        heldout: bool = False,
    ) -> LoadedProblems:
        """The problems of a named source, a local file, a hub data set or reasoning-gym; the first
        `limit` rows.

        subset: which part of a hub data set. heldout: its held-out problems, which only
        reasoning-gym has. known: the named source that a local file is a copy of, if any; the file
        may then have that source's columns, and must have as many problems unless any_count is set.
        """
        rows, fields = read_problem_rows(
            source, self.fields, known=known, subset=subset, gym=self.gym, heldout=heldout
        )
        notes = source_notes(source, known, len(rows), any_count=any_count)
        if self.fields != fields != Fields(problem="problem", answer="answer"):
            notes.append(
                f"{source}: problems from the column {fields.problem}, answers from {fields.answer}"
            )
        rows = rows[:limit]
        if not tasks_of(source):
            rows = self._with_one_gold(rows, source, notes)
            notes += self._unreadable_golds(rows, source)
        problems, dropped = [], []
        for row in rows:
            text, ids = render_prompt(self.tokenizer, row.problem, **self.prompt)
            if len(ids) > self.max_prompt_tokens:
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
                    row=row.row,
                )
            )
        if not problems:
            raise UserError(
                f"{source}: every prompt is over data.max_prompt_tokens = {self.max_prompt_tokens} "
                "tokens"
            )
        if dropped:
            ids_dropped = ", ".join(dropped[:5]) + ", ..." * (len(dropped) > 5)
            notes.append(
                f"{source}: dropped {len(dropped)} of {len(rows)} problems with prompts over "
                f"{self.max_prompt_tokens} tokens: {ids_dropped}"
            )
        return LoadedProblems(problems=tuple(problems), notes=tuple(notes))

    def _with_one_gold(
        self, rows: list[ProblemRow], source: str, notes: list[str]
    ) -> list[ProblemRow]:
        """The rows whose gold does not box different answers; a note says which do."""
        several = [row for row in rows if "box" in row.gold and has_several_boxes(row.gold)]
        if self.own_verifier or not several:
            return rows
        which = f"{len(several)} of {len(rows)} problems: their golds box different answers"
        if len(several) == len(rows):
            raise UserError(f"{source}: cannot use {which}, such as {examples(several)}")
        notes.append(f"{source}: dropped {which}, such as {examples(several)}")
        dropped = {row.id for row in several}
        return [row for row in rows if row.id not in dropped]

    def _unreadable_golds(self, rows: Sequence[ProblemRow], source: str) -> list[str]:
        """A note on the golds that the verifier cannot parse, if any."""
        golds = [row.gold for row in rows]
        bad = [rows[index] for index in unreadable(self.verifier, golds)]
        if not bad:
            return []
        sentence = f"{source}: {len(bad)} of {len(rows)} golds cannot be parsed: {examples(bad)}"
        if self.reject_unparseable:
            raise UserError(f"{sentence} (data.unparseable_gold=exact accepts them)")
        if len(bad) > max(1, len(rows) // 2):
            raise UserError(
                f"{sentence}; a gold is a final answer, or a solution with a box or ####; "
                f"{FIELDS_HINT}"
            )
        return [f"{sentence}; they are verified by exact match"]


EXAMPLES = 3  # of golds, in a note


def examples(rows: Sequence[ProblemRow]) -> str:
    """The first few golds and where they are."""
    few = "; ".join(f"{short_repr(row.gold)} ({row.where})" for row in rows[:EXAMPLES])
    return few + "; ..." * (len(rows) > EXAMPLES)


def try_verifier(verifier: Verifier, problem: Problem) -> None:
    """Verify three made-up responses by a function of the user's own. UserError if it cannot be
    called, raises for each of them or does not return True or False, before minutes of generation
    are spent."""
    context = {"prompt": problem.prompt_text, "row": problem.row}
    responses = ("", problem.gold, f"The answer is {problem.gold}.")
    verdicts = [verifier.submit(problem.gold, text, **context).result() for text in responses]
    if all(verdict.error for verdict in verdicts):
        last_line = str(verdicts[-1].error).rpartition("\n")[2]
        raise UserError(
            f"verifier.name raises for each of three responses to problem {problem.id}, such as "
            f"{short_repr(responses[-1])}: {one_line(last_line)}; return False for a response that "
            "cannot be read"
        )


def sample_prompts(
    problems: Sequence[Problem], count: int, *, samples: int, first_draw: int, seed: int, step: int
) -> list[Request]:
    """The next `count` draws of a prompt.

    Every epoch is a new shuffle; the last batch of an epoch is filled from the next one. Which
    problems are drawn depends only on (seed, first_draw).
    """
    size = len(problems)
    orders: dict[int, np.ndarray] = {}
    requests = []
    for draw in range(first_draw, first_draw + count):
        epoch, place = divmod(draw, size)
        if epoch not in orders:
            shuffle = np.random.Generator(np.random.Philox(derive_seed(seed, "epoch", epoch)))
            orders[epoch] = shuffle.permutation(size)
        requests.append(
            Request(
                problem=problems[orders[epoch][place]],
                draw=draw,
                samples=samples,
                seed=derive_seed(seed, "rollout", step, draw),
            )
        )
    return requests


def problems_digest(problems: Sequence[Problem]) -> str:
    """Identifies problems and their order by ids, prompt tokens and golds."""
    digest = hashlib.blake2b(digest_size=8)
    for problem in problems:
        digest.update(json.dumps([problem.id, problem.prompt_ids, problem.gold]).encode())
    return digest.hexdigest()
