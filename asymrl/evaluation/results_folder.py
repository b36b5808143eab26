"""The folder of an evaluation: settings.json, <benchmark>.jsonl (every sample), summary.json.

Samples are appended as they come and never lost: a folder whose settings are those asked for is
gone on with, another one is refused. Knows files; no engine and no model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asymrl.errors import UserError
from asymrl.files import file_digest as of_file
from asymrl.files import locked, sync_to_disk, write_atomically
from asymrl.types import REASONS, Problem, Request

SETTINGS, SUMMARY = "settings.json", "summary.json"
INFORMATIVE = ("checkpoint", "source", "which")  # where it lay, and why it: not what it was
DEEPEST = 32  # levels of settings; what is deeper is no file of ours
FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {  # of a row; what is valid
    "problem_id": (lambda given: isinstance(given, str), "a text"),
    "gold": (lambda given: isinstance(given, str), "a text"),
    "reason": (lambda given: given in REASONS, f"one of {', '.join(REASONS)}"),
    "answer": (lambda given: given is None or isinstance(given, str), "a text or null"),
    "truncated": (lambda given: isinstance(given, bool), "true or false"),
    "tokens": (lambda given: type(given) is int and 0 <= given < 2**53, "a number of tokens"),
}
Row = dict[str, Any]


@contextmanager
def open_results_folder(folder: Path) -> Iterator[None]:
    """The folder, made if need be, and ours alone. UserError where another process has it."""
    refused = f"--output {folder} cannot be made a folder"
    with locked(folder, refused=refused, busy=f"another process is evaluating into {folder}"):
        yield


def check_same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """UserError where the folder holds samples drawn with other settings, naming them.

    A benchmark that was not asked for before is no difference: it is added.
    """
    held = recorded_settings(folder) or {"benchmarks": {}}
    for name in settings["benchmarks"]:
        if name not in held["benchmarks"] and (folder / f"{name}.jsonl").exists():
            raise UserError(
                f"{folder} holds {name}.jsonl but no {SETTINGS} that names it, so nobody knows how "
                "it was made; give another --output, or --replace"
            )
    if not held["benchmarks"]:
        return
    found = [f"{key} ({old} there, {new} here)" for key, old, new in differing(held, settings)]
    if found:
        raise UserError(
            f"{folder} holds samples drawn with other settings, which differ in "
            f"{'; '.join(found[:6])}: give the same, another --output, or --replace, which drops "
            "those samples"
        )


def recorded_settings(folder: Path) -> dict[str, Any] | None:
    """settings.json, None where there is none."""
    file = folder / SETTINGS
    try:
        held = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged and cannot be read: {error}") from None
    if not isinstance(held, dict) or not isinstance(held.get("benchmarks"), dict):
        raise UserError(f"{file} is damaged: it names no benchmarks")
    if not all(isinstance(of, dict) for of in held["benchmarks"].values()) or too_deep(held):
        raise UserError(f"{file} is damaged: it is not as eval.py writes it")
    return held


def too_deep(given: Any) -> bool:
    """Whether there are more than DEEPEST levels; without recursion, which has a depth too."""
    level = [given]
    for _ in range(DEEPEST):
        level = [
            member
            for one in level
            if isinstance(one, dict | list)
            for member in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


def differing(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """(dotted key, old, new), shortened; of benchmarks, only those that both have."""
    both = prefix == "benchmarks."
    keys = [key for key in {**old, **new} if not both or (key in old and key in new)]
    for key in keys:
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differing(one, other, f"{prefix}{key}.")
        elif one != other and key not in INFORMATIVE:
            yield f"{prefix}{key}", shortened(one), shortened(other)


def shortened(given: Any) -> str:
    text = json.dumps(given)
    return text if len(text) <= 60 else f"{text[:57]}..."


def record_settings(folder: Path, settings: Mapping[str, Any], *, anew: bool) -> None:
    """Write settings.json, with the benchmarks that it named before; anew: what is there goes."""
    if anew:
        drop(folder, settings)
    held = recorded_settings(folder) or {"benchmarks": {}}
    benchmarks = held["benchmarks"] | settings["benchmarks"]
    merged = {**settings, "benchmarks": benchmarks}
    write_atomically(folder / SETTINGS, json.dumps(merged, indent=2) + "\n")


def usable(folder: Path, settings: Mapping[str, Any], *, replace: bool) -> bool:
    """Whether what the folder holds is of these settings. Other samples are refused, or with
    `replace` are to go: `record` drops them, once others can be drawn. Changes nothing."""
    try:
        check_same_settings(folder, settings)
    except UserError:
        if not replace:
            raise
        return False
    return True


def drop(folder: Path, settings: Mapping[str, Any]) -> None:
    """Remove all samples. Their settings go last: killed on the way, it is still known what they
    were."""
    for name in {*recorded_names(folder), *settings["benchmarks"]}:
        (folder / f"{name}.jsonl").unlink(missing_ok=True)
    for file in (folder / SUMMARY, folder / SETTINGS):
        file.unlink(missing_ok=True)


def recorded_names(folder: Path) -> list[str]:
    try:
        return list((recorded_settings(folder) or {"benchmarks": ()})["benchmarks"])
    except UserError:  # damaged, and about to go
        return []


def reusable_rows(file: Path, requests: Sequence[Request], size: int, *, cut: bool) -> list[Row]:
    """The rows of `file` that need not be drawn again: whole chunks of `size` problems, in order.

    What was half-written when a process died is dropped; with `cut` from the file too. A whole
    line that is not the row that belongs there is damage: UserError with its number.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    lines = content.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    places = [(r.problem.id, r.draw, i) for r in requests for i in range(r.samples)]
    if len(lines) > len(places):
        raise UserError(f"{file} has {len(lines)} samples, {len(places)} were asked for; move it")
    rows = []
    for number, (line, place) in enumerate(zip(lines, places, strict=False), 1):
        row = parsed(line, f"{file}:{number}")
        if (row.get("problem_id"), row.get("draw"), row.get("sample")) != place:
            raise UserError(f"{file}:{number}: another sample belongs here; mend or move the file")
        rows.append(row)
    chunk = size * requests[0].samples
    whole = len(rows) if len(rows) == len(places) else len(rows) // chunk * chunk
    if cut:
        os.truncate(file, sum(map(len, lines[:whole])))
    return rows[:whole]


def parsed(line: bytes, where: str) -> Row:
    """A row with all that is counted in it. UserError says what it lacks, or what is not valid."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{where}: the line is damaged; mend or move the file")
    if missing := sorted(FIELDS.keys() - row.keys()):
        raise UserError(f"{where}: the row has no {', '.join(missing)}")
    for name, (valid, what) in FIELDS.items():
        if not valid(row[name]):
            raise UserError(
                f"{where}: {name} is {shortened(row[name])}; valid is {what}; mend or move the file"
            )
    return row


def append(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add whole lines, and have them on disk before going on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    with file.open("ab") as lines:
        lines.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        lines.flush()
        os.fsync(lines.fileno())
    if new:
        sync_to_disk(file.parent)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")


def digest(problems: Sequence[Problem]) -> str:
    """What was asked, in order: ids, prompts as tokens, golds."""
    hashed = hashlib.blake2b(digest_size=8)
    for problem in problems:
        hashed.update(json.dumps([problem.id, problem.prompt_ids, problem.gold]).encode())
    return hashed.hexdigest()


def weights(folder: Path) -> str | None:
    """Which model a folder holds, by config, tokenizer and weights, every byte: a fine-tuned part
    can lie anywhere. About a second a GB (files.digest); None where there are none (a hub id)."""
    named = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    files = sorted(file for file in named if file.is_file())
    hashed = hashlib.blake2b(digest_size=8)
    for name in ("config.json", "tokenizer.json"):
        if (folder / name).is_file():
            hashed.update((folder / name).read_bytes())
    for path in files:
        hashed.update(f"{path.name} {of_file(path)} ".encode())
    return hashed.hexdigest() if files else None


def read_results(folder: Path) -> dict[str, dict[str, list[Row]]]:
    """benchmark -> problem id -> its rows, of a finished evaluation. UserError where it is none."""
    file = folder / SUMMARY
    try:
        benchmarks = json.loads(file.read_bytes())["benchmarks"]
        wanted = {
            name: int(facts.get("problems", 0)) * int(facts.get("samples", 0))
            for name, facts in benchmarks.items()
        }
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} has no {SUMMARY}: it holds no evaluation, or one that is not finished (the "
            "same eval.py command finishes it)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged and cannot be read: {error!r}") from None
    if not wanted:
        raise UserError(f"{file} names no benchmark; valid is the folder of an evaluation of some")
    return {name: of_problems(folder, name, count) for name, count in wanted.items()}


def of_problems(folder: Path, name: str, wanted: int) -> dict[str, list[Row]]:
    """problem id -> its rows, equally many. wanted: how many in all, 0 if that is not known."""
    file = folder / f"{name}.jsonl"
    try:
        lines = file.read_bytes().splitlines()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(f"{file} cannot be read: {error}") from None
    if not lines or len(lines) != (wanted or len(lines)):
        raise UserError(f"{file} has {len(lines)} samples, and {SUMMARY} is of {wanted or 'some'}")
    found: dict[str, list[Row]] = {}
    for number, line in enumerate(lines, 1):
        row = parsed(line, f"{file}:{number}")
        found.setdefault(row["problem_id"], []).append(row)
    if len({len(rows) for rows in found.values()}) != 1:
        raise UserError(f"{file}: its problems do not have equally many samples")
    return found
