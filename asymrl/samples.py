"""The folder of an evaluation: settings.json, <benchmark>.jsonl (every sample), summary.json.

Samples are appended as they come and never lost: a folder whose settings are those asked for is
gone on with, another one is refused. Knows files; no engine and no model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asymrl.files import locked, sync, write_atomically
from asymrl.types import Problem, Request, UserError

SETTINGS, SUMMARY = "settings.json", "summary.json"
INFORMATIVE = ("checkpoint", "source")  # where something lay says nothing of what it was
Row = dict[str, Any]


@contextmanager
def opened(folder: Path) -> Iterator[None]:
    """The folder, made if need be, and ours alone. UserError where another process has it."""
    refused = f"--output {folder} cannot be made a folder"
    with locked(folder, refused=refused, busy=f"another process is evaluating into {folder}"):
        yield


def refuse_other(folder: Path, settings: Mapping[str, Any]) -> None:
    """UserError where the folder holds samples drawn with other settings, naming them.

    A benchmark that was not asked for before is no difference: it is added.
    """
    held = recorded(folder) or {"benchmarks": {}}
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


def recorded(folder: Path) -> dict[str, Any] | None:
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
    return held


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


def record(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write settings.json, with the benchmarks that it named before."""
    held = recorded(folder) or {"benchmarks": {}}
    benchmarks = held["benchmarks"] | settings["benchmarks"]
    merged = {**settings, "benchmarks": benchmarks}
    write_atomically(folder / SETTINGS, json.dumps(merged, indent=2) + "\n")


def settle(folder: Path, settings: Mapping[str, Any], *, replace: bool) -> None:
    """Leave samples of these settings in the folder, or none: others are refused, or dropped."""
    try:
        refuse_other(folder, settings)
    except UserError:
        if not replace:
            raise
        for name in {*recorded_names(folder), *settings["benchmarks"]}:
            (folder / f"{name}.jsonl").unlink(missing_ok=True)
        for file in (folder / SUMMARY, folder / SETTINGS):
            file.unlink(missing_ok=True)


def recorded_names(folder: Path) -> list[str]:
    try:
        return list((recorded(folder) or {"benchmarks": ()})["benchmarks"])
    except UserError:  # damaged, and about to go
        return []


def kept(file: Path, requests: Sequence[Request], size: int, *, cut: bool) -> list[Row]:
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
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{where}: the line is damaged; mend or move the file")
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
        sync(file.parent)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")


def digest(problems: Sequence[Problem]) -> str:
    """What was asked, in order: ids, prompts as tokens, golds."""
    hashed = hashlib.blake2b(digest_size=8)
    for problem in problems:
        hashed.update(json.dumps([problem.id, problem.prompt_ids, problem.gold]).encode())
    return hashed.hexdigest()


def weights(folder: Path) -> str | None:
    """Which model a folder holds: config and tokenizer whole, and names, sizes and last MiB of the
    weight files, so that a large model costs no time; None where there are none (a hub id)."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    hashed = hashlib.blake2b(digest_size=8)
    for name in ("config.json", "tokenizer.json"):
        if (folder / name).is_file():
            hashed.update((folder / name).read_bytes())
    for path in files:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2**20))
            hashed.update(f"{path.name} {size} ".encode() + file.read())
    return hashed.hexdigest() if files else None


def read(folder: Path) -> dict[str, dict[str, list[Row]]]:
    """benchmark -> problem id -> its rows, of a finished evaluation. UserError where it is none."""
    try:
        benchmarks = dict(json.loads((folder / SUMMARY).read_text())["benchmarks"])
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no {SUMMARY}: it holds no evaluation, or one that is not finished (the "
            "same eval.py command finishes it)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder / SUMMARY} is damaged and cannot be read: {error!r}") from None
    found: dict[str, dict[str, list[Row]]] = {}
    for name in benchmarks:
        file = folder / f"{name}.jsonl"
        try:
            lines = file.read_bytes().splitlines()
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from None
        facts = benchmarks[name] if isinstance(benchmarks[name], dict) else {}
        wanted = facts.get("problems", 0) * facts.get("samples", 0) or len(lines)
        if len(lines) != wanted:
            raise UserError(f"{file} has {len(lines)} samples, and {SUMMARY} is of {wanted}")
        of_problems: dict[str, list[Row]] = {}
        for number, line in enumerate(lines, 1):
            row = parsed(line, f"{file}:{number}")
            missing = {"problem_id", "gold", "reason", "answer", "truncated", "tokens"} - row.keys()
            if missing:
                raise UserError(f"{file}:{number}: the row has no {', '.join(sorted(missing))}")
            of_problems.setdefault(str(row["problem_id"]), []).append(row)
        if len({len(rows) for rows in of_problems.values()}) != 1:
            raise UserError(f"{file}: its problems do not have equally many samples")
        found[name] = of_problems
    return found
