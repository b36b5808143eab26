"""`python -m asymrl.pocket`: make a model of the laptop tasks from the command line."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from asymrl import pocket
from asymrl.errors import UserError
from asymrl.files import read_json
from asymrl.run.exit_codes import exit_code


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m asymrl.pocket",
        description=f"Make a model for the laptop tasks in {pocket.FOLDER}/.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        default="pocket:0",
        help="pocket:N or pocket_short:N, a small policy of seed N (default: pocket:0), or "
        "smollm2_135m",
    )
    parser.add_argument("--force", action="store_true", help="make it again if it exists")
    return exit_code(partial(make, parser.parse_args(argv)))


def make(arguments: argparse.Namespace) -> None:
    if not pocket.is_made_here(arguments.model):
        raise UserError(f"{arguments.model!r} is not pocket:N, pocket_short:N or smollm2_135m")
    from asymrl.pocket.folders import RECORD  # loads torch

    folder = pocket.model_folder(arguments.model, force=arguments.force)
    print(f"{folder} is ready")
    if accuracy := read_json(folder / RECORD).get("heldout_accuracy"):
        print(
            "Held-out accuracy before training: "
            f"greedy {accuracy['greedy']:.2f}, at temperature 1 {accuracy['t1']:.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
