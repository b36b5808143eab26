"""The folder of an evaluation: settings.json, <benchmark>.jsonl (every sample), summary.json.

Samples are appended as they are generated. A folder is resumed only with the settings that it was
written with. Knows files; no engine and no model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asymrl.engines.model_folder import (
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    base_of_adapters,
)
from asymrl.errors import UserError, one_line, shorten
from asymrl.files import (
    check_unused,
    file_digest,
    parse_object,
    read_json,
    read_jsonl,
    sync_to_disk,
    write_atomically,
)
from asymrl.types import REASONS, Request

SETTINGS_FILE, SUMMARY_FILE = "settings.json", "summary.json"
# settings that say where the model came from and why; the weights' digest says which model it is
NOT_COMPARED = ("checkpoint", "source", "which")
SampleRow = dict[str, Any]
# field of a row -> whether a value is valid, and what is valid
FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "problem_id": (lambda value: isinstance(value, str), "a string"),
    "gold": (lambda value: isinstance(value, str), "a string"),
    "reason": (lambda value: value in REASONS, f"one of {', '.join(REASONS)}"),
    "answer": (lambda value: value is None or isinstance(value, str), "a string or null"),
    "truncated": (lambda value: isinstance(value, bool), "true or false"),
    "tokens": (lambda value: type(value) is int and 0 <= value < 2**53, "a number of tokens"),
}


def check_output(folder: Path, benchmarks: Sequence[str]) -> None:
    """UserError for a folder that holds other files and no evaluation."""
    if not (folder / SETTINGS_FILE).exists():
        own = {SUMMARY_FILE, *(f"{name}.jsonl" for name in benchmarks)}
        check_unused(folder, "--output", lambda path: path.name in own)


def check_same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """UserError if the folder holds samples generated with other settings; it names them.

    A benchmark that the folder does not have yet is not a difference: it is added.
    """
    recorded = recorded_settings(folder)
    for name in settings["benchmarks"]:
        if name not in recorded["benchmarks"] and (folder / f"{name}.jsonl").exists():
            raise UserError(
                f"{folder} holds {name}.jsonl, but no {SETTINGS_FILE} that names {name}, so its "
                "settings are unknown; choose another --output, or delete it with --replace"
            )
    if not recorded["benchmarks"]:
        return
    changes = [
        f"{key} ({old} there, {new} here)" for key, old, new in differing(recorded, settings)
    ]
    if changes:
        raise UserError(
            f"{folder} holds samples with other settings, which differ in "
            f"{'; '.join(changes[:6])}; use the same settings, another --output, or --replace to "
            "delete those samples"
        )


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The content of settings.json; without that file, settings that name no benchmark."""
    file = folder / SETTINGS_FILE
    if not file.exists():
        return {"benchmarks": {}}
    settings = read_json(file)
    benchmarks = settings.get("benchmarks")
    if not isinstance(benchmarks, dict) or not all(
        isinstance(b, dict) for b in benchmarks.values()
    ):
        raise UserError(f"{file}: `benchmarks` must be an object of objects, as eval.py writes it")
    return settings


def differing(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """(dotted key, old, new) for each difference, values shortened. Only benchmarks that both have
    are compared."""
    compare_common = prefix == "benchmarks."
    for key in {**old, **new}:
        if compare_common and not (key in old and key in new):
            continue
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differing(one, other, f"{prefix}{key}.")
        elif one != other and key not in NOT_COMPARED:
            yield f"{prefix}{key}", json_value(one), json_value(other)


def json_value(value: Any) -> str:
    return shorten(json.dumps(value), 60)


def record_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write settings.json and keep the benchmarks that it already names."""
    benchmarks = recorded_settings(folder)["benchmarks"] | settings["benchmarks"]
    content = json.dumps({**settings, "benchmarks": benchmarks}, indent=2)
    write_atomically(folder / SETTINGS_FILE, content + "\n")


def can_resume(folder: Path, settings: Mapping[str, Any], replace: bool) -> bool:
    """Whether the samples in the folder have these settings. UserError for others, unless the
    caller will `replace` them."""
    try:
        check_same_settings(folder, settings)
    except UserError:
        if not replace:
            raise
        return False
    return True


def remove_samples(folder: Path, benchmarks: Iterable[str]) -> None:
    """Delete the samples of these and all recorded benchmarks, then their settings: if this is
    interrupted, what is left still has its settings."""
    try:
        recorded = recorded_settings(folder)["benchmarks"]
    except UserError:  # an invalid file, which is deleted below
        recorded = {}
    for file in (
        *(f"{name}.jsonl" for name in {*recorded, *benchmarks}),
        SUMMARY_FILE,
        SETTINGS_FILE,
    ):
        (folder / file).unlink(missing_ok=True)


def reusable_rows(file: Path, requests: Sequence[Request], *, truncate: bool) -> list[SampleRow]:
    """The rows of `file` that need not be generated again: those of complete problems.

    What a killed process left half-written is dropped, with `truncate` also from the file. A
    complete line that is not the expected row raises UserError with its line number.
    """
    if not file.exists():
        return []
    lines = file.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    expected = [(r.problem.id, r.draw, i) for r in requests for i in range(r.samples)]
    if len(lines) > len(expected):
        raise UserError(
            f"{file} has {len(lines)} samples, but these settings give {len(expected)}; move it"
        )
    rows = []
    for number, (line, key) in enumerate(zip(lines, expected, strict=False), 1):
        where = f"{file}:{number}"
        row = checked_row(parse_object(line, where), where)
        if (row["problem_id"], row.get("draw"), row.get("sample")) != key:
            problem, _, sample = key
            raise UserError(
                f"{where}: expected sample {sample} of problem {problem}; repair or move the file"
            )
        rows.append(row)
    samples = requests[0].samples
    count = len(rows) // samples * samples
    if truncate:
        os.truncate(file, sum(map(len, lines[:count])))
    return rows[:count]


def checked_row(row: SampleRow, where: str) -> SampleRow:
    """The row itself. UserError if a field that is scored is missing or invalid."""
    if missing := sorted(FIELDS.keys() - row.keys()):
        raise UserError(f"{where}: the row has no {', '.join(missing)}")
    for name, (is_valid, valid) in FIELDS.items():
        if not is_valid(row[name]):
            raise UserError(
                f"{where}: {name} is {json_value(row[name])}; valid is {valid}; repair or move the "
                "file"
            )
    return row


def append_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append complete lines and return once they are on disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    is_new = not file.exists()
    with file.open("ab") as lines:
        lines.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        lines.flush()
        os.fsync(lines.fileno())
    if is_new:
        sync_to_disk(file.parent)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    write_atomically(folder / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")


def weights_digest(folder: Path) -> str | None:
    """A hash of a model folder: config, tokenizer and every byte of the weights, since fine-tuning
    can change any part; of LoRA adapters alone, of them and of their model's folder. About a second
    a GB (files.digest). None if there are no weights (a hub id)."""
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    hasher = hashlib.blake2b(digest_size=8)
    if base := base_of_adapters(folder):
        weights = [folder / ADAPTER / ADAPTER_WEIGHTS]
        hasher.update(str(weights_digest(Path(base[0])) or base).encode())
        hasher.update((folder / ADAPTER / ADAPTER_CONFIG).read_bytes())
    files = sorted(file for file in weights if file.is_file())
    for name in ("config.json", "tokenizer.json"):
        if (folder / name).is_file():
            hasher.update((folder / name).read_bytes())
    for path in files:
        hasher.update(f"{path.name} {file_digest(path)} ".encode())
    return hasher.hexdigest() if files else None


def read_results(folder: Path) -> dict[str, dict[str, list[SampleRow]]]:
    """benchmark -> problem id -> its rows. UserError if the folder holds no finished evaluation."""
    file = folder / SUMMARY_FILE
    if not file.is_file():
        raise UserError(
            f"{folder} has no {SUMMARY_FILE}: it holds no evaluation, or an unfinished one; run "
            "the same eval.py command to finish it"
        )
    try:
        counts = {
            name: int(entry.get("problems", 0)) * int(entry.get("samples", 0))
            for name, entry in read_json(file)["benchmarks"].items()
        }
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not as eval.py writes it: {one_line(repr(error))}") from None
    if not counts:
        raise UserError(f"{file} names no benchmark; run eval.py with at least one benchmark")
    return {name: read_benchmark(folder, name, count) for name, count in counts.items()}


def read_benchmark(folder: Path, name: str, count: int) -> dict[str, list[SampleRow]]:
    """problem id -> its rows, the same number for each. count: how many rows there should be; 0 if
    summary.json does not say."""
    file = folder / f"{name}.jsonl"
    rows = [checked_row(row, where) for where, row in read_jsonl(file)]
    if not rows or len(rows) != (count or len(rows)):
        expected = f"{SUMMARY_FILE} says {count}" if count else "at least one is expected"
        raise UserError(f"{file} has {len(rows)} samples, but {expected}")
    by_problem: dict[str, list[SampleRow]] = {}
    for row in rows:
        by_problem.setdefault(row["problem_id"], []).append(row)
    if len({len(rows) for rows in by_problem.values()}) != 1:
        raise UserError(f"{file}: some problems have more samples than others")
    return by_problem
