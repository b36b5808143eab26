"""The CPU-scale task, tokenizer, model and warm start: all that a pocket run needs, made here.

`ensure(folder)` is the whole interface; nothing is downloaded.
"""

from pathlib import Path

from asymrl.pocket.build import ensure
from asymrl.pocket.model import Recipe

FOLDER = Path("runs/pocket")
DATA = {
    "pocket_easy": "train_easy.jsonl",
    "pocket_hard": "train_hard.jsonl",
    "pocket_heldout": "heldout.jsonl",
}

__all__ = ["DATA", "FOLDER", "Recipe", "ensure"]
