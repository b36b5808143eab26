"""The models and tasks that a laptop can train, made on this machine on first use.

`pocket:N` is a small policy with a warm start of its own for every seed N, `pocket_short:N` one
for shorter sums; their tasks are in modular_sums.py. `smollm2_135m` is a real pretrained model,
converted from a PyPI package; its task is graded_sums.py. Importing this package does not load
torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from asymrl.errors import UserError
from asymrl.pocket import graded_sums, modular_sums

FOLDER = Path("runs/models")
SMOLLM2 = "smollm2_135m"
SEEDED = tuple(modular_sums.VARIANTS)  # models with one policy a seed
DATA: Mapping[str, Callable[[], Iterator[dict[str, Any]]]] = {
    **{f"{name}_train": partial(modular_sums.training_rows, name) for name in SEEDED},
    **{f"{name}_heldout": partial(modular_sums.heldout_rows, name) for name in SEEDED},
    "sums_train": graded_sums.training_rows,
    "sums_heldout": graded_sums.heldout_rows,
}
"""The data sets by name: their rows, the same on every machine."""


def is_made_here(path: str) -> bool:
    """Whether `path` names a model of this package, as opposed to a folder or a hub id."""
    return path.partition(":")[0] in SEEDED or path == SMOLLM2


def model_folder(path: str, *, force: bool = False) -> Path:
    """The Hugging Face folder of `pocket:N`, `pocket_short:N` or `smollm2_135m`, made now if it
    does not exist yet.

    `pocket` is `pocket:0`. force: make it again. UserError if N is not a whole number below 2**63,
    or if the folder cannot be made.
    """
    folder = folder_of(path)
    if path == SMOLLM2:
        from asymrl.pocket.smollm2 import convert  # loads torch

        return convert(folder, force=force)
    from asymrl.pocket.build import PrintProgress, build_policy  # loads torch

    variant, _, seed = path.partition(":")
    return build_policy(folder, int(seed or 0), PrintProgress(), variant=variant, force=force)


def folder_of(path: str) -> Path:
    """Where the model of that name is or will be; makes nothing."""
    if path == SMOLLM2:
        return FOLDER / SMOLLM2
    variant, _, seed = path.partition(":")
    seed = seed or "0"
    if not re.fullmatch("[0-9]{1,19}", seed) or int(seed) >= 2**63:
        raise UserError(f"model {path!r}: the seed after `{variant}:` must be a number below 2**63")
    return FOLDER / f"{variant}-{int(seed)}"
