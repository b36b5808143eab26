r"""The pocket task: add distinct residues mod 13, one number at a time, in plain arithmetic text.

    What is 4 + 9 + 8 + 5 (mod 13)?          4 + 9 = 0; 0 + 8 = 8; 8 + 5 = \boxed{0}

The numbers may be taken in any order (n! right ways), and a sloppy response adds two or more of
them before it writes a sum. Only the last box is judged, so guessing earns 1/13.

This module knows the text and the arithmetic. It knows no tokenizer, no model and no files.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from asymrl.types import frozen

MODULUS = 13
RESIDUES = range(MODULUS)
LENGTHS = tuple(range(2, 8))
END = "<|im_end|>"
ASK = " (mod 13)?"

Numbers = tuple[int, ...]


def first_asked(x: int) -> str:
    return f"What is {x}"


def first(x: int) -> str:
    return f"{x}"


def plus(x: int) -> str:
    return f" + {x}"


def subtotal(x: int) -> str:
    """A sum written down and carried on: `= 7; 7`."""
    return f" = {x}; {x}"


def box(x: int) -> str:
    return f" = \\boxed{{{x}}}"


PIECES = (
    ASK,
    *(piece(x) for piece in (first_asked, plus, first, subtotal, box) for x in RESIDUES),
)
"""Every piece of text that is one token."""


@frozen
class Style:
    """How the demonstrations are written: the chance of each habit, at every place it may come.

    skip: leave a subtotal out; wrong: write a wrong sum (and go on from it); reuse: add a number
    a second time.
    """

    skip: float
    wrong: float
    reuse: float


def question(numbers: Sequence[int]) -> list[str]:
    """The prompt as pieces; joined, it is the `problem` field of a data row."""
    return [first_asked(numbers[0]), *(plus(x) for x in numbers[1:]), ASK]


def demonstration(numbers: Sequence[int], style: Style, rng: random.Random) -> list[str]:
    """One response as pieces, the end token among them, in a random order of the numbers."""
    order = rng.sample(numbers, len(numbers))
    total = order[0]
    pieces = [first(total)]
    for i in range(1, len(order)):
        added = [order[i]]
        if rng.random() < style.reuse:
            added.append(order[rng.randrange(i)])
        pieces += [plus(x) for x in added]
        total = (total + sum(added)) % MODULUS
        is_last = i == len(order) - 1
        if not is_last and rng.random() < style.skip:
            continue
        if rng.random() < style.wrong:
            total = rng.randrange(MODULUS)
        pieces.append(box(total) if is_last else subtotal(total))
    return [*pieces, END]


def split(heldout_share: float, seed: int) -> tuple[dict[int, list[Numbers]], ...]:
    """All sets of 2 to 7 residues, by size, as (training, held-out): no set is in both."""
    rng = random.Random(f"split/{seed}")
    train, heldout = {}, {}
    for n in LENGTHS:
        sets = list(combinations(RESIDUES, n))
        rng.shuffle(sets)
        cut = round(heldout_share * len(sets))
        heldout[n], train[n] = sets[:cut], sets[cut:]
    return train, heldout


def rows(
    name: str,
    sets: Mapping[int, Sequence[Numbers]],
    counts: Mapping[int, int],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Data rows of file `name`, counts[n] of n numbers each, shuffled.

    A set comes again, in another order, only when there are fewer sets than rows are wanted.
    """
    rng = random.Random(f"{name}/{seed}")
    drawn: list[Numbers] = []
    for n, count in counts.items():
        pool = sets[n]
        whole, rest = divmod(count, len(pool))
        drawn += [*pool] * whole + rng.sample(pool, rest)
    rng.shuffle(drawn)
    for i, numbers in enumerate(drawn):
        ordered = rng.sample(numbers, len(numbers))
        yield {
            "id": f"{name}/{i}",
            "problem": "".join(question(ordered)),
            "answer": str(sum(ordered) % MODULUS),
            "n": len(ordered),
            "numbers": ordered,
        }
