"""The laptop-scale task: its problems, tokenizer, model and warm start, all made on this machine.

`ready()` makes them in `runs/pocket` on first use; nothing is downloaded. Importing this package
does not load torch.
"""

from pathlib import Path

FOLDER = Path("runs/pocket")
DATA = {
    "pocket_easy": "train_easy.jsonl",
    "pocket_hard": "train_hard.jsonl",
    "pocket_heldout": "heldout.jsonl",
}


def ready() -> Path:
    """FOLDER. If it does not exist yet, it is made, with progress on stdout."""
    from asymrl.pocket.build import PrintProgress, ensure

    return ensure(FOLDER, progress=PrintProgress())
