"""Data files and data sets of the hub -> rows of text, each with where it came from."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asymrl import pocket
from asymrl.data import hub
from asymrl.data.sources import SOURCES, Source, own_columns
from asymrl.errors import UserError, one_line, short_repr
from asymrl.types import frozen

# What a template raises that does not go with its prompt; it is a small program.
BROKEN = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)


@frozen
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
    return check_rows(rows, source)


def file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, row) of a local file; UserError where the disk or its rights do not give it."""
    try:
        yield from READERS[path.suffix](path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def check_rows(rows: list[Row], source: str) -> list[Row]:
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
        raise UserError(f"{path} cannot be read as json: {one_line(error)}") from None
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
                raise UserError(f"{refused}: two columns are called {short_repr(twice)}")
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
            f"{path} cannot be read as parquet: {one_line(error.__cause__ or error)}"
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
        found = "" if field in record else f"; there are {short_repr(', '.join(record))}"
        raise UserError(
            f"{where}: field {field!r} must be a non-empty text, not {short_repr(given)}{found}"
        )
    if not given.isascii() and given != given.encode(errors="ignore").decode():
        raise UserError(
            f"{where}: field {field!r} holds half of a surrogate pair, which is no text"
        )
    return given


def hub_rows(name: str, source: Source) -> list[Row]:
    from datasets import exceptions, load_dataset

    hub.go_offline_if_unreachable()
    try:
        table = load_dataset(source.id, source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError, exceptions.DatasetsError) as error:
        raise UserError(
            f"data set {name} ({source.id}) cannot be loaded from the Hugging Face hub "
            f"({one_line(error)}); a local file works too: give its path, or --data-dir to eval.py"
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
    return check_rows(rows, name)
