"""The models and tasks that a laptop can train, made on this machine on first use.

`pocket:N` is a small policy with a warm start of its own for every seed N; its task is
modular_sums.py. `smollm2_135m` is a real pretrained model, converted from a PyPI package; its task
is graded_sums.py. Importing this package does not load torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asymrl.errors import UserError
from asymrl.pocket import graded_sums, modular_sums

FOLDER = Path("runs/models")
POCKET, SMOLLM2 = "pocket", "smollm2_135m"
DATA: Mapping[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "pocket_train": modular_sums.training_rows,
    "pocket_heldout": modular_sums.heldout_rows,
    "sums_train": graded_sums.training_rows,
    "sums_heldout": graded_sums.heldout_rows,
}
"""The data sets by name: their rows, the same on every machine."""


def is_made_here(path: str) -> bool:
    """Whether `path` names a model of this package, as opposed to a folder or a hub id."""
    return path.partition(":")[0] == POCKET or path == SMOLLM2


def model_folder(path: str, *, force: bool = False) -> Path:
    """The Hugging Face folder of `pocket:N` or `smollm2_135m`, made now if it does not exist yet.

    `pocket` is `pocket:0`. force: make it again. UserError if N is not a whole number below 2**63,
    or if the folder cannot be made.
    """
    if path == SMOLLM2:
        from asymrl.pocket.smollm2 import convert  # loads torch

        return convert(FOLDER / SMOLLM2, force=force)
    seed = path.partition(":")[2] or "0"
    if not re.fullmatch("[0-9]{1,19}", seed) or int(seed) >= 2**63:
        raise UserError(f"model {path!r}: the seed after `pocket:` must be a number below 2**63")
    from asymrl.pocket.build import PrintProgress, build_policy  # loads torch

    folder = FOLDER / f"pocket-{int(seed)}"
    return build_policy(folder, int(seed), PrintProgress(), force=force)
