"""Reads rows of problems: from JSONL, JSON, CSV and Parquet files, and from data sets on the hub.

Every row keeps the file and line that it comes from, for error messages. Knows nothing about
tokenizers or prompts, and imports neither torch nor transformers.
"""

from __future__ import annotations

import codecs
import csv
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from asymrl import pocket
from asymrl.data import hub
from asymrl.data.reasoning_gym import GymSettings, gym_records
from asymrl.data.sources import (
    ANSWER_FIELDS,
    PROBLEM_FIELDS,
    SOURCES,
    Source,
    Subset,
    find_field,
    hub_source,
    is_hub_source,
    use_own_columns,
)
from asymrl.errors import UserError, one_line, short_repr, shorten
from asymrl.files import parse_object, read_jsonl, short_name
from asymrl.types import frozen
from asymrl.verifiers.reasoning_gym import PREFIX, tasks_of

FIELDS_HINT = (
    "choose others with data.problem_field and data.answer_field, in eval.py with --problem-field "
    "and --answer-field"
)
FILE_HINT = "a local file works too: give its path, or --data-dir to eval.py"
SUBSET_HINT = (
    "data.config and data.split choose a part of it (benchmarks: eval.config and eval.split; "
    "eval.py: --data-config and --data-split)"
)
PLAIN_DTYPES = ("string", "large_string", "bool", "int", "uint", "float")  # as JSON has


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


@frozen
class Fields:
    """The columns with the problems and with the answers. None: found by their usual names.

    if_there: a data set without such a column is read by the usual names.
    """

    problem: str | None = None
    answer: str | None = None
    if_there: bool = False


def read_problem_rows(
    source: str,
    given: Fields = Fields(),  # noqa: B008, it is frozen
    *,
    known: str | None = None,
    subset: Subset = Subset(),  # noqa: B008, it is frozen
    gym: GymSettings = GymSettings(),  # noqa: B008
    heldout: bool = False,
) -> tuple[list[ProblemRow], Fields]:
    """The rows of a named source, a local file or a data set of the hub, and the columns used.
    UserError names file, line and field.

    given: columns of files and hub data sets; named sources know their own. known: the named source
    that a local file is a copy of, so that its columns are accepted too. subset: of a hub data set.
    gym, heldout: which problems of reasoning-gym.
    """
    if source in SOURCES:
        records, given, known = named_records(source, SOURCES[source]), Fields(), None
    elif source in pocket.DATA:
        records = ((f"{source}:{n}", row) for n, row in enumerate(pocket.DATA[source](), 1))
        given = Fields()
    elif tasks_of(source):
        records, given = gym_records(source, gym, heldout=heldout), Fields()
    elif is_hub_source(source):
        found = hub_source(source, subset)
        if found.id in {named.id for named in SOURCES.values()}:
            records, given = named_records(source, found), Fields()
        else:
            records = own_records(source, found, given)
    elif not Path(source).is_file():
        raise UserError(
            f"data file {source} does not exist; valid is a local .jsonl, .json, .csv or .parquet "
            f"file, a hub data set org/name, {PREFIX}<task>, or one of "
            f"{', '.join([*SOURCES, *pocket.DATA])}"
        )
    elif Path(source).suffix not in FILE_READERS:
        raise UserError(f"data file {source} must end in one of {', '.join(FILE_READERS)}")
    else:
        records = file_records(Path(source))
    if known:
        records = ((where, use_own_columns(record, SOURCES[known])) for where, record in records)
    first = next(records, None)
    if first is None:
        raise UserError(f"{source} contains no problems")
    fields = find_fields(first[1], Fields() if known else given)
    rows: dict[str, ProblemRow] = {}
    for number, (where, record) in enumerate(chain([first], records)):
        row = to_row(record, where, f"{short_name(source)}/{number}", fields)
        if row.id in rows:
            raise UserError(
                f"{where}: field 'id' = {row.id!r} is a duplicate of {rows[row.id].where}"
            )
        rows[row.id] = row
    return [*rows.values()], fields


def find_fields(record: Any, given: Fields) -> Fields:
    """The columns of a data set by its first record, the given ones or those with usual names."""
    names = record if isinstance(record, dict) else ()
    if given.if_there:
        given = Fields(
            problem=given.problem if given.problem in names else None,
            answer=given.answer if given.answer in names else None,
        )
    return Fields(
        problem=find_field(names, PROBLEM_FIELDS, given.problem),
        answer=find_field(names, ANSWER_FIELDS, given.answer),
    )


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


def to_row(record: Any, where: str, default_id: str, fields: Fields) -> ProblemRow:
    """A record as a row. default_id has no path, so that ids do not depend on the folder."""
    assert fields.problem and fields.answer, "find_fields comes first"
    if not isinstance(record, dict):
        raise UserError(f"{where}: a row must be an object with {fields.problem}, {fields.answer}")
    used = {fields.problem, fields.answer, "id"}
    return ProblemRow(
        id=default_id if record.get("id") in (None, "") else str(record["id"]),
        problem=text_of(record, fields.problem, where),
        gold=text_of(record, fields.answer, where),
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
        hint = "" if field in record else missing_hint(record, field)
        raise UserError(
            f"{where}: field {field!r} must be a non-empty text, not {short_repr(value)}{hint}"
        )
    if not value.isascii() and value != value.encode(errors="ignore").decode():
        raise UserError(f"{where}: field {field!r} contains a lone surrogate, which is not text")
    return value


def missing_hint(record: Mapping[str, Any], field: str) -> str:
    """For a sentence on a field that a record does not have: the usual names and its fields."""
    usual = next((names for names in (PROBLEM_FIELDS, ANSWER_FIELDS) if field in names), ())
    none_of = f"; it has none of {', '.join(usual)}" if not {*usual} & record.keys() else ""
    names = shorten(", ".join(map(str, record)), 160)
    return f"{none_of if usual else ''}; its fields are {names!r}; {FIELDS_HINT}"


def load_table(name: str, source: Source) -> Any:
    """A data set of the hub, at its revision if it is pinned, or of a local folder."""
    from datasets import disable_progress_bars, exceptions, load_dataset

    disable_progress_bars()
    if not os.path.isdir(source.id):
        hub.go_offline_if_unreachable()
    try:
        return load_dataset(source.id, source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError, exceptions.DatasetsError) as error:
        what, hint = f"data set {name} ({source.id})", FILE_HINT
        if name not in SOURCES:
            what, hint = f"{name} is not a data file, and as a data set it", SUBSET_HINT
        raise UserError(
            f"{what} cannot be loaded from the Hugging Face hub ({one_line(error)}); {hint}"
        ) from None


def own_records(name: str, source: Source, given: Fields) -> Iterator[tuple[str, Any]]:
    """(where, record) for every row of a data set that is not in SOURCES: the columns with plain
    values, and those with problems and answers."""
    from datasets import Value

    table = load_table(name, source)
    names = table.column_names
    fields = find_fields(dict.fromkeys(names), given)
    used = {fields.problem, fields.answer}
    for column, kind in table.features.items():
        if isinstance(kind, Value) and kind.dtype.startswith(PLAIN_DTYPES):
            used.add(column)
    for number, record in enumerate(table.select_columns([c for c in names if c in used])):
        yield f"{name} {source.split}[{number}]", dict(record)


def named_records(name: str, source: Source) -> Iterator[tuple[str, Any]]:
    """(where, record) for every row of a data set in SOURCES: its problem and its answer."""
    table = load_table(name, source)
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
