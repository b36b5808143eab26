"""The CPU-scale task, tokenizer, model and warm start: all that a pocket run needs, made here.

`ensure(folder)` makes it, `ready()` makes it at its usual place on first use. Nothing is
downloaded.
"""

from pathlib import Path

from asymrl.pocket.build import ensure
from asymrl.pocket.model import Recipe
from asymrl.pocket.show import ensure_shown

FOLDER = Path("runs/pocket")
DATA = {
    "pocket_easy": "train_easy.jsonl",
    "pocket_hard": "train_hard.jsonl",
    "pocket_heldout": "heldout.jsonl",
}


def ready() -> Path:
    """FOLDER, made if it is not there, with its progress shown."""
    return ensure_shown(FOLDER)


__all__ = ["DATA", "FOLDER", "Recipe", "ensure", "ready"]
