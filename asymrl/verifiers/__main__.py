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
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import track
from tabulate import tabulate

from asymrl.by_path import FORM
from asymrl.errors import UserError
from asymrl.files import read_jsonl, write_atomically
from asymrl.run.exit_codes import exit_code
from asymrl.types import Verdict
from asymrl.verifiers import VERIFIERS, Verifier, make
from asymrl.verifiers.extract import POLICY_EXTRACTORS


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
        futures.append(verifier.submit(row["gold"], text, prompt=row.get("prompt"), row=row))
    for future in futures:
        yield future.result()


def as_line(row: dict[str, Any], verdict: Verdict) -> str:
    line = {"id": row["id"]} if "id" in row else {}
    line |= {"reason": verdict.reason, "reward": verdict.reward, "answer": verdict.answer}
    return json.dumps(line | {"seconds": round(verdict.seconds, 6)})


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


def print_summary(rows: list[dict[str, Any]], verdicts: list[Verdict]) -> None:
    """Counts by reason; if rows have `expected`, agreement by tier and kind, and each mismatch."""
    reasons = Counter(verdict.reason for verdict in verdicts)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    lines = [f"{len(verdicts)} verdicts: {counts}"]
    labelled = [
        {
            "tier": str(row.get("tier", "all")),
            "kind": str(row.get("kind", "")),
            "cases": 1,
            "as expected": row["expected"] == verdict.reward,
            "accepted wrongly": row["expected"] < verdict.reward,
            "not accepted": row["expected"] > verdict.reward,
            "line": f"({verdict.reason}): {verdict.answer!r} for {row['gold']!r}",
            "id": f"{row['id']}: " if "id" in row else "",
        }
        for row, verdict in zip(rows, verdicts, strict=True)
        if isinstance(row.get("expected"), bool)
    ]
    if labelled:
        import pandas as pd  # takes most of a second

        cases = pd.DataFrame(labelled)
        totals = pd.DataFrame(cases.groupby(["tier", "kind"]).sum(numeric_only=True))
        kinds = totals.reset_index()
        lines += ["", tabulate(kinds, headers="keys", showindex=False, disable_numparse=[0, 1]), ""]
        tiers = pd.DataFrame(totals.groupby("tier").sum())
        for tier, total, right, wrongly, _ in tiers.itertuples():
            share = f"{right} of {total} as expected ({right / total:.1%})"
            lines.append(f"{tier}: {share}, {wrongly} accepted wrongly")
        for mismatch in ("accepted wrongly", "not accepted"):
            wrong = cases[cases[mismatch]]
            lines += [
                f"{id}{mismatch} {line}"[:300]
                for id, line in zip(wrong.id, wrong.line, strict=True)
            ]
    print(*lines, sep="\n", file=sys.stderr)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    names = f"{', '.join(VERIFIERS)}, or {FORM}"
    parser = argparse.ArgumentParser(prog="python -m asymrl.verifiers", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--out", type=Path, help="file for the verdicts (default: stdout)")
    parser.add_argument("--verifier", default="math", help=f"one of: {names}")
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
    verdicts: list[Verdict] = []
    settings = (options.unboxed, options.thinking, options.tolerance)
    verifier = make(options.verifier, options.workers, options.timeout, *settings)

    def lines() -> Iterator[str]:
        stream, console = verify_rows(rows, verifier), Console(stderr=True)
        progress = track(stream, "verifying", len(rows), console=console)
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
    print_summary(rows, verdicts)
    return 0


def main(arguments: list[str] | None = None) -> int:
    stdout = sys.stdout  # inside exit_code it hides write errors
    return exit_code(lambda: verify_file(arguments, stdout))


if __name__ == "__main__":
    sys.exit(main())
