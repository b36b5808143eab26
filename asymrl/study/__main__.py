"""The command line of studies; see the package's docstring."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from asymrl.types import UserError


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m asymrl.study", description="Many pocket runs, and what they show."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    studies = ("claims", "table2", "grid")
    told = {
        "claims": "the paper's six claims on two mixes -> claims.md",
        "table2": "the paper's table on the pocket task -> table2-pocket.md",
        "grid": "accuracy over beta_pos x beta_neg -> grid-pocket.md",
        "plan": "what would run and what is predicted; runs nothing",
    }
    for name, text in told.items():
        command = commands.add_parser(name, help=text)
        if name == "plan":
            command.add_argument("study", choices=studies)
        command.add_argument("--seeds", type=int, help="default: 8, of the grid 2")
        command.add_argument("--jobs", type=int, help="runs at a time; default: the cores")
        command.add_argument("--out", type=Path, default=Path("runs/study"), help="run folders")
        command.add_argument("--steps", type=int, help="in place of the configs' own")
        command.add_argument("--docs", type=Path, default=Path("docs"), help="for the document")
    table = commands.add_parser("paper-table", help="the paper's table of a backbone, from runs/")
    table.add_argument("model", help="such as qwen3_4b")
    table.add_argument("--runs", type=Path, default=Path("runs"))
    table.add_argument("--out", type=Path, help="default: RUNS/table2-<MODEL>.md")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        return run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it stopped", file=sys.stderr)
        return 130


def make_folder(flag: str, folder: Path) -> None:
    """Before any run, so that hours of them end in a document."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be made a folder: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{flag} {folder} cannot be written to")


def run(arguments: argparse.Namespace) -> int:
    from asymrl.study import paper, studies

    if arguments.command == "paper-table":
        out = arguments.out or arguments.runs / f"table2-{arguments.model}.md"
        make_folder("--out", out.parent)
        if out.is_dir():
            raise UserError(f"--out {out} is a folder; valid is a file")
        print(paper.write(arguments.model, arguments.runs, out))
        return 0
    for name in ("seeds", "jobs", "steps"):
        given = getattr(arguments, name)
        most = 20 if name == "seeds" else 100_000
        if given is not None and not 1 <= given <= most:
            raise UserError(f"--{name} {given} must be from 1 to {most}")
    name = arguments.study if arguments.command == "plan" else arguments.command
    study = studies.STUDIES[name]
    if arguments.command != "plan":
        for flag, folder in (("--out", arguments.out), ("--docs", arguments.docs)):
            make_folder(flag, folder)
    jobs = study.jobs(arguments.seeds or study.seeds, arguments.out, arguments.steps)
    if arguments.command == "plan":
        print(studies.plan(study, jobs))
        return 0
    workers = arguments.jobs or os.cpu_count() or 1
    seeds = arguments.seeds or study.seeds
    steps = f" --steps {arguments.steps}" if arguments.steps else ""
    command = f"python -m asymrl.study {name} --seeds {seeds}{steps}"
    return studies.carry_out(study, jobs, workers, arguments.out, arguments.docs, command)


if __name__ == "__main__":
    sys.exit(main())
