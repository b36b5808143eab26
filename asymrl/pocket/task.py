r"""The pocket task: add distinct residues mod 13, one number at a time, in plain arithmetic text.

    What is 4 + 9 + 8 + 5 (mod 13)?          4 + 9 = 0; 0 + 8 = 8; 8 + 5 = \boxed{0}

A response may add the numbers in any order (n! correct ways). A sloppy response adds two or more
numbers before it writes a sum. Only the last box is verified, so a guess is correct 1 time in 13.

Knows the text and the arithmetic, and nothing about tokenizers, models or files.
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


def question_start(x: int) -> str:
    return f"What is {x}"


def response_start(x: int) -> str:
    return f"{x}"


def plus(x: int) -> str:
    return f" + {x}"


def subtotal(x: int) -> str:
    """A sum, and the same number as the start of the next addition: `= 7; 7`."""
    return f" = {x}; {x}"


def box(x: int) -> str:
    return f" = \\boxed{{{x}}}"


PIECES = (
    ASK,
    *(
        piece(x)
        for piece in (question_start, plus, response_start, subtotal, box)
        for x in RESIDUES
    ),
)
"""Every piece of text that is a single token."""


@frozen
class Style:
    """The probability of each bad habit in a demonstration, wherever it can occur.

    skip: omit a subtotal. wrong: write a random sum and continue from it. reuse: add a number for
    a second time.
    """

    skip: float
    wrong: float
    reuse: float


def question(numbers: Sequence[int]) -> list[str]:
    """The prompt as pieces. Joined, they are the `problem` field of a data row."""
    return [question_start(numbers[0]), *(plus(x) for x in numbers[1:]), ASK]


def demonstration(numbers: Sequence[int], style: Style, rng: random.Random) -> list[str]:
    """One response as pieces, with the end token, for a random order of the numbers."""
    order = rng.sample(numbers, len(numbers))
    total = order[0]
    pieces = [response_start(total)]
    for i in range(1, len(order)):
        terms = [order[i]]
        if rng.random() < style.reuse:
            terms.append(order[rng.randrange(i)])
        pieces += [plus(x) for x in terms]
        total = (total + sum(terms)) % MODULUS
        is_last = i == len(order) - 1
        if not is_last and rng.random() < style.skip:
            continue
        if rng.random() < style.wrong:
            total = rng.randrange(MODULUS)
        pieces.append(box(total) if is_last else subtotal(total))
    return [*pieces, END]


def split_sets(heldout_share: float, seed: int) -> tuple[dict[int, list[Numbers]], ...]:
    """All sets of 2 to 7 residues, by size, as (training, held-out). No set is in both."""
    rng = random.Random(f"split/{seed}")
    train, heldout = {}, {}
    for n in LENGTHS:
        sets = list(combinations(RESIDUES, n))
        rng.shuffle(sets)
        cut = round(heldout_share * len(sets))
        heldout[n], train[n] = sets[:cut], sets[cut:]
    return train, heldout


def data_rows(
    name: str,
    sets: Mapping[int, Sequence[Numbers]],
    counts: Mapping[int, int],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """The rows of data file `name`, shuffled: counts[n] rows with n numbers each.

    A set is repeated, in another order, only if there are fewer sets than rows.
    """
    rng = random.Random(f"{name}/{seed}")
    chosen: list[Numbers] = []
    for n, count in counts.items():
        pool = sets[n]
        whole, rest = divmod(count, len(pool))
        chosen += [*pool] * whole + rng.sample(pool, rest)
    rng.shuffle(chosen)
    for i, numbers in enumerate(chosen):
        ordered = rng.sample(numbers, len(numbers))
        yield {
            "id": f"{name}/{i}",
            "problem": "".join(question(ordered)),
            "answer": str(sum(ordered) % MODULUS),
            "n": len(ordered),
            "numbers": ordered,
        }
