"""Verifies a file of responses: `python -m asymrl.verifiers FILE.jsonl [--out FILE]`.

Each row has `gold` and `response` (or `model_output`). One verdict per row, in order, goes to
stdout or to --out. Progress and a summary go to stderr; if rows have `expected`, the summary has a
table by tier and kind. Knows rows and counts, not how a verdict comes about.
"""

import argparse
import contextlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table

from asymrl.errors import UserError
from asymrl.files import read_jsonl, write_atomically
from asymrl.run.exit_codes import exit_code
from asymrl.types import Verdict
from asymrl.verifiers import VERIFIERS, Verifier, make
from asymrl.verifiers.extract import POLICY_EXTRACTORS

COUNTS = ("cases", "as expected", "share", "wrongly accepted", "wrongly rejected")


def read_responses(path: Path) -> list[dict[str, Any]]:
    """The rows, each with its text under `response`. UserError names file, line and field."""
    rows = []
    for where, row in read_jsonl(path):
        text = "response" if "response" in row else "model_output"
        for field, name in (("gold", "'gold'"), (text, "'response' (or 'model_output')")):
            if not isinstance(row.get(field), str):
                problem = "must be a string" if field in row else "is missing"
                raise UserError(f"{where}: field {name} {problem}")
        rows.append(row | {"response": row[text]})
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def verify_rows(rows: list[dict[str, Any]], verifier: Verifier) -> Iterator[Verdict]:
    """One verdict per row, in order, each as soon as it and those before it are ready."""
    futures = []
    for row in rows:
        text, extract = row["response"], POLICY_EXTRACTORS.get(str(row.get("policy")))
        if extract and (answer := extract(text)) is not None:
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


def check_output(out: Path) -> None:
    """Raises UserError if no file can be written here, before any work is done."""
    if out.is_dir() or not out.name:
        raise UserError(f"cannot write {out}: it is a folder")
    if not out.exists() and not out.resolve().parent.is_dir():
        raise UserError(f"cannot write {out}: its folder does not exist")


def write_lines(lines: Iterable[str], out: Path | None, stdout: TextIO) -> None:
    """Writes lines to a file, or to stdout if out is None.

    A regular file appears complete at the end or not at all; links are followed. A device, a pipe
    and stdout get each line as it comes.
    """
    if out is None or (out.exists() and not out.is_file()):
        opened = out.open("w", encoding="utf-8") if out else contextlib.nullcontext(stdout)
        with opened as stream:
            for line in lines:
                print(line, file=stream)
            stream.flush()
    else:
        write_atomically(out.resolve(), "".join(f"{line}\n" for line in lines))


def print_summary(rows: list[dict[str, Any]], verdicts: list[Verdict], console: Console) -> None:
    """Counts by reason; if rows have `expected`, agreement by tier and kind, and each mismatch."""
    reasons = Counter(verdict.reason for verdict in verdicts)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    console.print(f"{len(verdicts)} verdicts: {counts}", highlight=False, soft_wrap=True)
    labelled = [
        (row, verdict, row["expected"], verdict.reward == 1)
        for row, verdict in zip(rows, verdicts, strict=True)
        if isinstance(row.get("expected"), bool)
    ]
    if not labelled:
        return
    columns = [Column(name, justify="right") for name in COUNTS]
    table = Table("tier", Column("kind", no_wrap=True), *columns, box=SIMPLE)
    tiers: dict[str, dict[str, list[tuple[bool, bool]]]] = defaultdict(lambda: defaultdict(list))
    for row, _, expected, accepted in labelled:
        kind = str(row.get("kind", ""))
        tiers[str(row.get("tier", "all"))][kind].append((expected, accepted))
    for tier, kinds in sorted(tiers.items()):
        for kind, pairs in sorted(kinds.items()):
            table.add_row(escape(tier), escape(kind), str(len(pairs)), *tally(pairs))
        table.add_section()
    console.print(table)
    for tier, kinds in sorted(tiers.items()):
        pairs = [pair for kind in kinds.values() for pair in kind]
        right, share, wrongly, _ = tally(pairs)
        line = f"{tier}: {right} of {len(pairs)} as expected ({share}), {wrongly} accepted wrongly"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for row, verdict, expected, accepted in labelled:
        if expected != accepted:
            what = "accepted wrongly" if accepted else "not accepted"
            name = f"{row['id']}: " if "id" in row else ""
            line = f"{name}{what} ({verdict.reason}): {verdict.answer!r} for {row['gold']!r}"
            console.print(line[:300], highlight=False, markup=False, soft_wrap=True)


def tally(pairs: list[tuple[bool, bool]]) -> list[str]:
    """For (expected, accepted): agreements, their share, wrongly accepted, wrongly rejected."""
    agree = sum(expected == accepted for expected, accepted in pairs)
    wrongly = sum(accepted and not expected for expected, accepted in pairs)
    counts = [str(agree), f"{agree / len(pairs):.1%}", str(wrongly)]
    return [*counts, str(len(pairs) - agree - wrongly)]


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m asymrl.verifiers", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--out", type=Path, help="file for the verdicts (default: stdout)")
    parser.add_argument("--verifier", default="math", help=f"one of: {', '.join(VERIFIERS)}")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds per response (5)")
    parser.add_argument("--unboxed", action="store_true", help='accept "the answer is 7"')
    parser.add_argument("--thinking", action="store_true", help="accept text before </think>")
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative, for decimal golds")
    options = parser.parse_args(arguments)
    for name, valid, bounds in (
        ("workers", 1 <= options.workers <= 1024, "from 1 to 1024"),
        ("timeout", 0 < options.timeout <= 3600, "more than 0 and at most 3600"),
        ("tolerance", 0 <= options.tolerance < 1, "from 0 to 1"),
    ):
        if not valid:
            raise UserError(f"--{name} {getattr(options, name)} must be {bounds}")
    return options


def verify_file(arguments: list[str] | None, stdout: TextIO) -> int:
    options = parse_options(arguments)
    rows = read_responses(options.file)
    if options.out:
        check_output(options.out)
    console = Console(stderr=True)
    verdicts: list[Verdict] = []
    verifier = make(
        options.verifier,
        options.workers,
        options.timeout,
        unboxed=options.unboxed,
        thinking=options.thinking,
        tolerance=options.tolerance,
    )

    def lines() -> Iterator[str]:
        progress = track(verify_rows(rows, verifier), "verifying", len(rows), console=console)
        for row, verdict in zip(rows, progress, strict=True):
            verdicts.append(verdict)
            yield as_line(row, verdict)

    try:
        with verifier:
            write_lines(lines(), options.out, stdout)
    except OSError as error:
        if options.out is None:  # drops what stdout still buffers, which would fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as in `| head`
            return 0
        where = options.out or "the verdicts"
        raise UserError(f"cannot write {where}: {error.strerror}") from None
    print_summary(rows, verdicts, console)
    return 0


def main(arguments: list[str] | None = None) -> int:
    stdout = sys.stdout  # inside exit_code it hides write errors
    return exit_code(lambda: verify_file(arguments, stdout))


if __name__ == "__main__":
    sys.exit(main())
