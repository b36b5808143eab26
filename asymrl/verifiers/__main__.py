"""Judges a file of responses: `python -m asymrl.verifiers FILE.jsonl [--out FILE]`.

Knows rows (JSON Lines with `gold` and `response` or `model_output`) and how to count verdicts; does
not know how they come about. Verdict rows, in the order of the file, go to stdout or to --out;
progress and a summary go to stderr.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import track

from asymrl.types import UserError, Verdict
from asymrl.verifiers import VERIFIERS, Verifier, make
from asymrl.verifiers.extract import answer_tag, box_list, closing_answer

# A row's `policy` -> what reads its answer instead of the last box. Policies that are not here
# state what the verifiers do anyway.
READERS: dict[str, Callable[[str], str | None]] = {
    "adjacent boxes form one answer list": box_list,
    "counts an <answer> tag": answer_tag,
    "counts an unboxed answer in an explicit closing sentence": closing_answer,
}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows, each with its text under `response`. UserError names file, line and field."""
    rows = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_row(line, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be an object with 'gold' and 'response'")
    text = "response" if "response" in row else "model_output"
    for field, name in (("gold", "'gold'"), (text, "'response' (or 'model_output')")):
        if not isinstance(row.get(field), str):
            problem = "must be a string" if field in row else "is missing"
            raise UserError(f"{where}: field {name} {problem}")
    return row | {"response": row[text]}


def judge(rows: list[dict[str, Any]], verifier: Verifier) -> Iterator[Verdict]:
    """A verdict a row, in order, each as soon as it and those before it are there."""
    futures = []
    for row in rows:
        text, reader = row["response"], READERS.get(str(row.get("policy")))
        if reader and (answer := reader(text)) is not None:
            text = f"\\boxed{{{answer}}}"
        futures.append(verifier.submit(row["gold"], text))
    for future in futures:
        yield future.result()


def as_line(row: dict[str, Any], verdict: Verdict) -> str:
    known = {"id": row["id"]} if "id" in row else {}
    return json.dumps(
        known
        | {
            "reason": verdict.reason,
            "reward": verdict.reward,
            "answer": verdict.answer,
            "seconds": round(verdict.seconds, 6),
        }
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A file to write that appears under its name when all is written, or not at all."""
    if path.is_dir() or not path.name:
        raise UserError(f"cannot write {path}: it is a folder")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    draft = Path(name)
    try:
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o666 & ~umask)  # mkstemp's own mode is private
        with draft.open("w", encoding="utf-8") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def summarise(rows: list[dict[str, Any]], verdicts: list[Verdict]) -> list[str]:
    """Counts by reason, and agreement with `expected` by tier where rows carry it."""
    reasons = Counter(verdict.reason for verdict in verdicts)
    summary = [f"{len(verdicts)} verdicts: {', '.join(f'{n} {r}' for r, n in reasons.items())}"]
    tiers: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for row, verdict in zip(rows, verdicts, strict=True):
        if isinstance(row.get("expected"), bool):
            tiers[str(row.get("tier", "all"))].append((row["expected"], verdict.reward == 1))
    for tier, pairs in sorted(tiers.items()):
        agree = sum(expected == got for expected, got in pairs)
        wrongly = sum(got and not expected for expected, got in pairs)
        summary.append(
            f"{tier}: {agree} of {len(pairs)} as expected ({agree / len(pairs):.1%}), "
            f"{wrongly} accepted wrongly"
        )
    return summary


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m asymrl.verifiers", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--out", type=Path, help="where verdicts go (default: stdout)")
    parser.add_argument("--verifier", default="math", help=f"one of: {', '.join(VERIFIERS)}")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds a response (5)")
    chosen = parser.parse_args(arguments)
    for name, valid in (("workers", chosen.workers >= 1), ("timeout", 0 < chosen.timeout <= 3600)):
        if not valid:
            raise UserError(f"--{name} {getattr(chosen, name)} must be more than 0")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    try:
        chosen = options(arguments)
        rows = read_rows(chosen.file)
        verdicts: list[Verdict] = []
        with (
            make(chosen.verifier, chosen.workers, chosen.timeout) as verifier,
            whole_file(chosen.out) if chosen.out else contextlib.nullcontext(sys.stdout) as file,
        ):
            found = judge(rows, verifier)
            shown = track(found, "verifying", len(rows), console=Console(stderr=True))
            for row, verdict in zip(rows, shown, strict=True):
                verdicts.append(verdict)
                print(as_line(row, verdict), file=file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    print("\n".join(summarise(rows, verdicts)), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
