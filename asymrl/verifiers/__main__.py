"""Judges a file of responses: `python -m asymrl.verifiers FILE.jsonl [--out FILE]`.

Knows rows (JSON Lines with `gold` and `response` or `model_output`) and how to count verdicts; does
not know how they come about. Verdict rows, in the order of the file, go to stdout or to --out;
progress and a summary go to stderr: a table by tier and kind where rows carry `expected`.
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

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table

from asymrl.errors import UserError
from asymrl.types import Verdict
from asymrl.verifiers import VERIFIERS, Verifier, make
from asymrl.verifiers.extract import answer_tag, box_list, closing_answer

# A row's `policy` -> what reads its answer instead of the last box. Policies that are not here
# state what the verifiers do anyway.
READERS: dict[str, Callable[[str], str | None]] = {
    "adjacent boxes form one answer list": box_list,
    "counts an <answer> tag": answer_tag,
    "counts an unboxed answer in an explicit closing sentence": closing_answer,
}

COUNTED = ("cases", "as expected", "share", "wrongly accepted", "wrongly refused")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows, each with its text under `response`. UserError names file, line and field."""
    rows = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_row(line, f"{path}, line {number}"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not UTF-8 ({error.reason})") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise UserError(f"{where}: not JSON that can be read: {error}") from error
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
    """A file to write that appears under its name when all is written, or not at all.

    What is there and is no plain file (a device, a pipe) is written to as it is. Through a link.
    """
    if path.is_dir() or not path.name:
        raise UserError(f"cannot write {path}: it is a folder")
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as file:
                yield file
            return
        path = path.resolve()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".verdicts.")
        os.close(handle)
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
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def summarise(rows: list[dict[str, Any]], verdicts: list[Verdict], console: Console) -> None:
    """Counts by reason; where rows carry `expected`, agreement by tier and kind, and each miss."""
    reasons = Counter(verdict.reason for verdict in verdicts)
    counted = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
    console.print(f"{len(verdicts)} verdicts: {counted}", highlight=False, soft_wrap=True)
    judged = [
        (row, verdict, row["expected"], verdict.reward == 1)
        for row, verdict in zip(rows, verdicts, strict=True)
        if isinstance(row.get("expected"), bool)
    ]
    if not judged:
        return
    numbers = [Column(name, justify="right") for name in COUNTED]
    table = Table("tier", Column("kind", no_wrap=True), *numbers, box=SIMPLE)
    groups: dict[str, dict[str, list[tuple[bool, bool]]]] = defaultdict(lambda: defaultdict(list))
    for row, _, expected, got in judged:
        groups[str(row.get("tier", "all"))][str(row.get("kind", ""))].append((expected, got))
    for tier, kinds in sorted(groups.items()):
        for kind, pairs in sorted(kinds.items()):
            table.add_row(escape(tier), escape(kind), str(len(pairs)), *tally(pairs))
        table.add_section()
    console.print(table)
    for tier, kinds in sorted(groups.items()):
        pairs = [pair for kind in kinds.values() for pair in kind]
        right, share, wrongly, _ = tally(pairs)
        line = f"{tier}: {right} of {len(pairs)} as expected ({share}), {wrongly} accepted wrongly"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for row, verdict, expected, got in judged:
        if expected != got:
            what = "accepted wrongly" if got else "not accepted"
            name = f"{row['id']}: " if "id" in row else ""
            line = f"{name}{what} ({verdict.reason}): {verdict.answer!r} for {row['gold']!r}"
            console.print(line[:300], highlight=False, markup=False, soft_wrap=True)


def tally(pairs: list[tuple[bool, bool]]) -> list[str]:
    """Of (expected, got): how many agree, their share, how many wrongly accepted and rejected."""
    agree = sum(expected == got for expected, got in pairs)
    accepted = sum(got and not expected for expected, got in pairs)
    counts = [str(agree), f"{agree / len(pairs):.1%}", str(accepted)]
    return [*counts, str(len(pairs) - agree - accepted)]


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m asymrl.verifiers", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--out", type=Path, help="where verdicts go (default: stdout)")
    parser.add_argument("--verifier", default="math", help=f"one of: {', '.join(VERIFIERS)}")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds a response (5)")
    parser.add_argument("--unboxed", action="store_true", help='"the answer is 7" counts, unboxed')
    parser.add_argument("--thinking", action="store_true", help="text before </think> counts")
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative, of decimal golds")
    chosen = parser.parse_args(arguments)
    for name, valid, bounds in (
        ("workers", 1 <= chosen.workers <= 1024, "from 1 to 1024"),
        ("timeout", 0 < chosen.timeout <= 3600, "more than 0 and at most 3600"),
        ("tolerance", 0 <= chosen.tolerance < 1, "from 0 to 1"),
    ):
        if not valid:
            raise UserError(f"--{name} {getattr(chosen, name)} must be {bounds}")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    try:
        chosen = options(arguments)
        rows = read_rows(chosen.file)
        verdicts: list[Verdict] = []
        with (
            make(
                chosen.verifier,
                chosen.workers,
                chosen.timeout,
                unboxed=chosen.unboxed,
                thinking=chosen.thinking,
                tolerance=chosen.tolerance,
            ) as verifier,
            whole_file(chosen.out) if chosen.out else contextlib.nullcontext(sys.stdout) as file,
        ):
            found = judge(rows, verifier)
            shown = track(found, "verifying", len(rows), console=Console(stderr=True))
            for row, verdict in zip(rows, shown, strict=True):
                verdicts.append(verdict)
                print(as_line(row, verdict), file=file)
            file.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `| head` has seen enough
            return 0
        print(f"error: cannot write the verdicts: {error.strerror}", file=sys.stderr)
        return 2
    summarise(rows, verdicts, Console(stderr=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
