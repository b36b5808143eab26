"""`python -m asymrl.pocket`: make the pocket folder from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from asymrl.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m asymrl.pocket",
        description="Make the pocket task's data and its small warm-started model, once.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/pocket"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--force", action="store_true", help="make it anew even if it is there")
    options = parser.parse_args(arguments)
    from asymrl.pocket.build import RECIPE_FILE  # slow to import: after the arguments
    from asymrl.pocket.show import ensure_shown

    try:
        folder = ensure_shown(options.output, options.seed, force=options.force)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    made = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    by_n = "  ".join(f"{n}: {a:.2f}" for n, a in made["heldout_accuracy_by_n"].items())
    print(f"{folder} is ready. Held-out accuracy at temperature 1, by how many numbers: {by_n}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
