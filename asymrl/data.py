"""Data sets -> problems: how rows are read, how prompts are rendered, which problem comes when.

Knows tokenizers and the `datasets` library; nothing of models or training. The order of training
is a pure function of (seed, draw), so a resumed run continues it without replaying anything.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from asymrl import hub, pocket
from asymrl.engines.rollout import derive_seed
from asymrl.folders import name_bare
from asymrl.sources import SOURCES, Source, count_note, own_columns
from asymrl.types import Problem, Request, UserError, said, shown, value
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
# What a template raises that does not go with its prompt; it is a small program.
BROKEN = (
    TemplateError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)


@value
class Row:
    """A problem as text, before a tokenizer has seen it. where: its file and line, for messages."""

    id: str
    problem: str
    gold: str
    where: str
    meta: Mapping[str, Any]


def read_rows(
    source: str, problem_field: str, answer_field: str, known: str | None = None
) -> list[Row]:
    """The rows of a named source or a local file. Raises UserError with file, line and field.

    known: the named source that a local file is a copy of; its own columns are read too.
    """
    if source in SOURCES:
        return hub_rows(source, SOURCES[source])
    if source in pocket.DATA:
        records = jsonl(pocket.ready() / pocket.DATA[source])
    elif not Path(source).is_file():
        raise UserError(
            f"data file {source} does not exist; valid is a local .jsonl, .json, .csv or .parquet "
            f"file or one of {', '.join([*SOURCES, *pocket.DATA])}"
        )
    elif Path(source).suffix not in READERS:
        raise UserError(f"{source}: valid data files end in {', '.join(READERS)}")
    else:
        records = file_rows(Path(source))
    if known:
        records = ((where, own_columns(record, SOURCES[known])) for where, record in records)
    rows = [
        to_row(record, where, f"{short_name(source)}/{n}", problem_field, answer_field)
        for n, (where, record) in enumerate(records)
    ]
    return checked(rows, source)


def file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, row) of a local file; UserError where the disk or its rights do not give it."""
    try:
        yield from READERS[path.suffix](path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def checked(rows: list[Row], source: str) -> list[Row]:
    if not rows:
        raise UserError(f"{source} holds no problems")
    first_seen: dict[str, str] = {}
    for row in rows:
        if row.id in first_seen:
            raise UserError(
                f"{row.where}: field 'id' = {row.id!r} was used before, in {first_seen[row.id]}"
            )
        first_seen[row.id] = row.where
    return rows


def short_name(source: str) -> str:
    """What a source is called in metrics and file names."""
    return source if source in SOURCES or source in pocket.DATA else Path(source).stem


def short_names(sources: Sequence[str]) -> list[str]:
    """UserError where two would be called the same."""
    names = [short_name(source) for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two benchmarks are called {name}; each needs a name of its own")
    return names


def jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig")
                if text.strip():
                    yield where, json.loads(text)
            except UnicodeDecodeError:
                raise UserError(f"{where}: the line is not UTF-8") from None
            except (ValueError, RecursionError) as error:  # a number of too many digits is one too
                raise UserError(f"{where}: the line is not JSON ({error})") from None


def json_list(path: Path) -> Iterator[tuple[str, Any]]:
    """A list of rows, or one a line. Not by way of a table: its columns are of one kind, and a
    large number beside a decimal would lose its last digits."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        held = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError) as error:  # not UTF-8, or no JSON
        raise UserError(f"{path} cannot be read as json: {said(error)}") from None
    if held is None:
        return jsonl(path)
    return ((f"{path}, row {number}", record) for number, record in enumerate(held, 1))


def csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """All fields as the text that is there: 007, 0.10 and None too."""
    csv.field_size_limit(2**31 - 1)  # solutions can be long
    number, refused = 0, f"{path} cannot be read as csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, strict=True)
            names = [name for name in reader.fieldnames or () if name]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UserError(f"{refused}: two columns are called {shown(twice)}")
            for number, record in enumerate(reader, 1):
                if None in record:
                    raise UserError(f"{refused}: row {number} has more fields than the first line")
                yield f"{path}, row {number}", record
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{refused} after row {number}: {error}") from None


def parquet(path: Path) -> Iterator[tuple[str, Any]]:
    from datasets import disable_progress_bars, exceptions, load_dataset, logging

    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)  # the sentence below says it
    try:
        table = load_dataset("parquet", data_files=str(path), split="train")
    except (exceptions.DatasetsError, OSError, RuntimeError, StopIteration, *BROKEN) as error:
        raise UserError(
            f"{path} cannot be read as parquet: {said(error.__cause__ or error)}"
        ) from None
    return ((f"{path}, row {number}", record) for number, record in enumerate(table, 1))


READERS = {".jsonl": jsonl, ".json": json_list, ".csv": csv_rows, ".parquet": parquet}


def to_row(record: Any, where: str, name: str, problem_field: str, answer_field: str) -> Row:
    """name: its id where it has none of its own; no path is in it, since files move."""
    if not isinstance(record, dict):
        raise UserError(f"{where}: a row must be an object with {problem_field}, {answer_field}")
    used = {problem_field, answer_field, "id"}
    return Row(
        id=name if record.get("id") in (None, "") else str(record["id"]),
        problem=as_text(record, problem_field, where),
        gold=as_text(record, answer_field, where),
        where=where,
        meta={key: field for key, field in record.items() if key not in used},
    )


def as_text(record: Mapping[str, Any], field: str, where: str) -> str:
    """A field as text; a bare number is one too, as tables hold integer answers. NaN, by which
    they say that there is none, is not."""
    given = record.get(field)
    if isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < math.inf:
        return str(given)
    if not isinstance(given, str) or not given.strip():
        found = "" if field in record else f"; there are {shown(', '.join(record))}"
        raise UserError(
            f"{where}: field {field!r} must be a non-empty text, not {shown(given)}{found}"
        )
    if not given.isascii() and given != given.encode(errors="ignore").decode():
        raise UserError(
            f"{where}: field {field!r} holds half of a surrogate pair, which is no text"
        )
    return given


def hub_rows(name: str, source: Source) -> list[Row]:
    from datasets import exceptions, load_dataset

    hub.reach()
    try:
        table = load_dataset(source.id, source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError, exceptions.DatasetsError) as error:
        raise UserError(
            f"data set {name} ({source.id}) cannot be loaded from the Hugging Face hub "
            f"({said(error)}); a local file works too: give its path, or --data-dir to eval.py"
        ) from None
    if lacking := {source.problem, source.answer} - set(table.column_names):
        raise UserError(
            f"data set {name} ({source.id}) has no column {', '.join(sorted(lacking))}; it has "
            f"{', '.join(table.column_names)}; a local file with problem and answer works too"
        )
    rows = []
    for number, record in enumerate(map(dict, table)):
        own = own_columns({c: record[c] for c in (source.problem, source.answer)}, source)
        texts = {"problem": own["problem"], "answer": own.get("answer")}
        where = f"{source.id} {source.split}[{number}]"
        rows.append(to_row(texts, where, f"{name}/{number}", "problem", "answer"))
    return checked(rows, name)


def render(
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
            stack.push(name_bare)
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **template_kwargs
            )
            ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    except BROKEN as error:
        raise UserError(
            "the tokenizer, or its chat template, refuses the prompt of "
            f"{shown(problem)}: {said(error)}"
        ) from None
    if not ids:
        raise UserError("the tokenizer's chat template makes a prompt without a token")
    return text, ids


@value
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
        text, ids = render(tokenizer, row.problem, **prompt)
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


def draw(
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
