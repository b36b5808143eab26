"""Reads rows of problems: from JSONL, JSON, CSV and Parquet files, and from data sets on the hub.

Every row keeps the file and line that it comes from, for error messages. Knows nothing about
tokenizers or prompts, and imports neither torch nor transformers.
"""

from __future__ import annotations

import codecs
import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asymrl import pocket
from asymrl.data import hub
from asymrl.data.sources import SOURCES, Source, use_own_columns
from asymrl.errors import UserError, one_line, short_repr
from asymrl.files import parse_object, read_jsonl
from asymrl.types import frozen


@frozen
class ProblemRow:
    """A problem as text, before tokenization. where: its file and line, for messages. row: the
    whole record, for a verifier of the user's own."""

    id: str
    problem: str
    gold: str
    where: str
    meta: Mapping[str, Any]
    row: Mapping[str, Any]


def read_problem_rows(
    source: str, problem_field: str, answer_field: str, known: str | None = None
) -> list[ProblemRow]:
    """The rows of a named source or a local file. UserError names file, line and field.

    known: the named source that a local file is a copy of, so that its columns are accepted too.
    """
    if source in SOURCES:
        records = hub_records(source, SOURCES[source])
        problem_field, answer_field, known = "problem", "answer", None
    elif source in pocket.DATA:
        records = ((f"{source}:{n}", row) for n, row in enumerate(pocket.DATA[source](), 1))
    elif not Path(source).is_file():
        raise UserError(
            f"data file {source} does not exist; valid is a local .jsonl, .json, .csv or .parquet "
            f"file or one of {', '.join([*SOURCES, *pocket.DATA])}"
        )
    elif Path(source).suffix not in FILE_READERS:
        raise UserError(f"data file {source} must end in one of {', '.join(FILE_READERS)}")
    else:
        records = file_records(Path(source))
    if known:
        records = ((where, use_own_columns(record, SOURCES[known])) for where, record in records)
    rows: dict[str, ProblemRow] = {}
    for number, (where, record) in enumerate(records):
        default_id = f"{short_name(source)}/{number}"
        row = to_row(record, where, default_id, problem_field, answer_field)
        if row.id in rows:
            raise UserError(
                f"{where}: field 'id' = {row.id!r} is a duplicate of {rows[row.id].where}"
            )
        rows[row.id] = row
    if not rows:
        raise UserError(f"{source} contains no problems")
    return [*rows.values()]


def short_name(source: str) -> str:
    """The name of a source in metrics and file names: a file's name without folder and suffix."""
    return source if source in SOURCES or source in pocket.DATA else Path(source).stem


def short_names(sources: Sequence[str]) -> list[str]:
    """The short name of every source. UserError if two are the same."""
    names = [short_name(source) for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two benchmarks are called {name}; rename one of the files")
    return names


def file_records(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, record) for every row of a local file. UserError if the file cannot be read."""
    try:
        yield from FILE_READERS[path.suffix](path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def json_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a JSON list, or of a file with one object per line.

    A table library would give each column one type, so that a large integer next to a decimal
    number would lose its last digits.
    """
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if not text.lstrip().startswith(b"["):
        return read_jsonl(path)
    records = parse_object(text, str(path), list)
    return ((f"{path}, row {number}", record) for number, record in enumerate(records, 1))


def csv_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a CSV file. Every field stays text, so that 007, 0.10 and None do not change."""
    csv.field_size_limit(2**31 - 1)  # solutions can be long
    number, prefix = 0, f"{path} cannot be read as csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, strict=True)
            names = [name for name in reader.fieldnames or () if name]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UserError(f"{prefix}: two columns are called {short_repr(twice)}")
            for number, record in enumerate(reader, 1):
                if None in record:
                    raise UserError(f"{prefix}: row {number} has more fields than the header")
                yield f"{path}, row {number}", record
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{prefix} after row {number}: {error}") from None


def parquet_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a Parquet file."""
    from datasets import disable_progress_bars, exceptions, load_dataset, logging

    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)  # errors are reported by the sentence below
    try:
        table = load_dataset("parquet", data_files=str(path), split="train")
    except (
        *(exceptions.DatasetsError, OSError, RuntimeError, StopIteration, ValueError, TypeError),
        *(AttributeError, LookupError, ArithmeticError),
    ) as error:
        raise UserError(
            f"{path} cannot be read as parquet: {one_line(error.__cause__ or error)}"
        ) from None
    return ((f"{path}, row {number}", record) for number, record in enumerate(table, 1))


FILE_READERS: Mapping[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".jsonl": read_jsonl,
    ".json": json_records,
    ".csv": csv_records,
    ".parquet": parquet_records,
}


def to_row(
    record: Any, where: str, default_id: str, problem_field: str, answer_field: str
) -> ProblemRow:
    """A record as a row. default_id has no path, so that ids do not depend on the folder."""
    if not isinstance(record, dict):
        raise UserError(f"{where}: a row must be an object with {problem_field}, {answer_field}")
    used = {problem_field, answer_field, "id"}
    return ProblemRow(
        id=default_id if record.get("id") in (None, "") else str(record["id"]),
        problem=text_of(record, problem_field, where),
        gold=text_of(record, answer_field, where),
        where=where,
        meta={key: field for key, field in record.items() if key not in used},
        row=record,
    )


def text_of(record: Mapping[str, Any], field: str, where: str) -> str:
    """A field as text. A finite number is accepted too, since tables store integer answers."""
    value = record.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        fields = "" if field in record else f"; its fields are {short_repr(', '.join(record))}"
        raise UserError(
            f"{where}: field {field!r} must be a non-empty text, not {short_repr(value)}{fields}"
        )
    if not value.isascii() and value != value.encode(errors="ignore").decode():
        raise UserError(f"{where}: field {field!r} contains a lone surrogate, which is not text")
    return value


def hub_records(name: str, source: Source) -> Iterator[tuple[str, Any]]:
    """(where, record) for every row of a data set on the hub, at its pinned revision."""
    from datasets import exceptions, load_dataset

    hub.go_offline_if_unreachable()
    try:
        table = load_dataset(source.id, source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError, exceptions.DatasetsError) as error:
        raise UserError(
            f"data set {name} ({source.id}) cannot be loaded from the Hugging Face hub "
            f"({one_line(error)}); a local file works too: give its path, or --data-dir to eval.py"
        ) from None
    if missing := {source.problem, source.answer} - set(table.column_names):
        raise UserError(
            f"data set {name} ({source.id}) has no column {', '.join(sorted(missing))}; it has "
            f"{', '.join(table.column_names)}; a local file with problem and answer works too"
        )
    for number, record in enumerate(map(dict, table)):
        columns = {column: record[column] for column in (source.problem, source.answer)}
        fields = use_own_columns(columns, source)
        yield (
            f"{source.id} {source.split}[{number}]",
            {"problem": fields["problem"], "answer": fields.get("answer")},
        )
