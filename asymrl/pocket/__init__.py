"""The laptop-scale task: its problems, tokenizer, model and warm start, all made on this machine.

`ready()` makes them in `runs/pocket` on first use; nothing is downloaded. Importing this package
loads no torch.
"""

from pathlib import Path

FOLDER = Path("runs/pocket")
DATA = {
    "pocket_easy": "train_easy.jsonl",
    "pocket_hard": "train_hard.jsonl",
    "pocket_heldout": "heldout.jsonl",
}


def ready() -> Path:
    """FOLDER, made with a progress display if it does not exist yet."""
    from asymrl.pocket.show import ensure_shown

    return ensure_shown(FOLDER)
