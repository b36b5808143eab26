"""Run folders -> one HTML page that opens offline, and its figures as PNG files beside it.

    python -m asymrl.report RUN_DIR... [--out FILE.html]

A folder of runs stands for all runs below it. Runs that differ only in `seed` form one arm. Without
--out the page is report.html in the run's folder, or in the folder that holds all runs; folders
without a run do not count.
Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from asymrl.report.page import write_report
from asymrl.report.runs import has_runs
from asymrl.run.exit_codes import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m asymrl.report",
        description="Write one HTML page with figures that compares runs.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN_DIR", help="a run folder, or a folder of runs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the page; default: report.html in RUN_DIR, or in the folder that holds all of them",
    )
    options = parser.parse_args(arguments)
    return exit_code(partial(_run, options.runs, options.out))


def _run(folders: Sequence[Path], out: Path | None) -> None:
    out = out or default_page(folders)
    for sentence in write_report(folders, out):
        print(f"skipped: {sentence}", file=sys.stderr)
    print(f"wrote {out}, and its figures as PNG to {out.parent / 'figures'}")


def default_page(folders: Sequence[Path]) -> Path:
    """report.html in the folder with runs, or in the one that holds all of several; shown as the
    user wrote it where that is possible."""
    folders = [folder for folder in folders if has_runs(folder)] or folders
    if len(folders) == 1:
        return folders[0] / "report.html"
    shared = Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    inside = shared.is_relative_to(Path.cwd())
    return (shared.relative_to(Path.cwd()) if inside else shared) / "report.html"


if __name__ == "__main__":
    raise SystemExit(main())
