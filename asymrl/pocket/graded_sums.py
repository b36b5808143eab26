"""Graded sums: additions of two whole numbers, a task within reach of a small pretrained model.

A row is `27 + 35` with the gold `62`. A third of the rows each have numbers up to 20, 50 and 99.
The difficulty is spread so that at the start of training of SmolLM2-135M some groups are unsolved
and some are mixed. Training and held-out rows share no pair of numbers, in either order, and have
none of the sums that the prompt of configs/smollm2_135m.yaml shows as examples.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any

RANGES = (20, 50, 99)  # the largest number of a row
TRAINING, HELDOUT = 400, 64  # rows of each range
SEED = 0
EXAMPLES = {(3, 4), (5, 12), (6, 8)}  # in the prompt

Pair = tuple[int, int]


def training_rows() -> Iterator[dict[str, Any]]:
    return _rows("sums_train")


def heldout_rows() -> Iterator[dict[str, Any]]:
    return _rows("sums_heldout")


def _rows(name: str) -> Iterator[dict[str, Any]]:
    """The rows of one set, determined by SEED. A training pair is repeated, in random order, only
    if a range has fewer pairs than rows."""
    rng = random.Random(f"sums/{SEED}")
    heldout: list[Pair] = []
    for largest in RANGES:
        heldout += rng.sample([p for p in _pairs(largest) if p not in heldout], HELDOUT)
    chosen = heldout
    if name == "sums_train":
        chosen = []
        for largest in RANGES:
            pairs = [p for p in _pairs(largest) if p not in heldout]
            whole, rest = divmod(TRAINING, len(pairs))
            chosen += pairs * whole + rng.sample(pairs, rest)
    rng.shuffle(chosen)
    for i, pair in enumerate(chosen):
        a, b = rng.sample(pair, 2)
        yield {"id": f"{name}/{i}", "problem": f"{a} + {b}", "answer": str(a + b)}


def _pairs(largest: int) -> list[Pair]:
    """All unordered pairs of numbers from 1 to `largest`, without those of the prompt."""
    pairs = combinations_with_replacement(range(1, largest + 1), 2)
    return [pair for pair in pairs if pair not in EXAMPLES]
