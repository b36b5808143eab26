"""`python -m asymrl.pocket`: make the pocket folder from the command line."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from asymrl.files import read_json
from asymrl.run.exit_codes import exit_code


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m asymrl.pocket",
        description="Make the data of the pocket task and its small warm-started model.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/pocket"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--force", action="store_true", help="make the folder even if it exists")
    return exit_code(partial(make_folder, parser.parse_args(argv)))


def make_folder(arguments: argparse.Namespace) -> None:
    from asymrl.pocket.build import RECIPE_FILE, PrintProgress, ensure  # imports torch: slow

    folder = ensure(arguments.output, arguments.seed, PrintProgress(), force=arguments.force)
    accuracy = read_json(folder / RECIPE_FILE)["heldout_accuracy_by_n"]
    by_length = "  ".join(f"{n}: {a:.2f}" for n, a in accuracy.items())
    print(f"{folder} is ready. Held-out accuracy at temperature 1, by number of terms: {by_length}")


if __name__ == "__main__":
    sys.exit(main())
