r"""The pocket task: add distinct residues mod 13, by a policy that misremembers some facts.

    What is 4 + 9 + 8 + 5 (mod 13)?          4 + 9 = 0; 0 + 8 = 8; 8 + 5 = \boxed{0}

A fact is the sum of a running total and the next number. The policy first learns from
demonstrations (supervised). For a share of the 169 facts they contain a wrong sum, always the same
one, so the policy believes it before any training with rewards ("untrained"). A response may add
the numbers in any order: training can find an order that avoids the wrong facts, or correct them.
Some demonstrations also skip subtotals. Only the last box is verified, so a guess is correct 1 time
in 13.

Problems and golds are the same for every seed of the policy; the misremembered facts are not.
Knows the text and the arithmetic, and nothing about tokenizers, models or files.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations
from types import MappingProxyType
from typing import Any

from asymrl.types import frozen

MODULUS = 13
RESIDUES = range(MODULUS)
LENGTHS = tuple(range(2, 8))
HELDOUT_SHARE = 0.2  # of all sets of a length; the warm start uses only the others
SPLIT_SEED = 0
END = "<|im_end|>"
ASK = " (mod 13)?"

Numbers = tuple[int, ...]
Facts = Mapping[tuple[int, int], int]
"""(running total, number added) -> the sum that is remembered, for the misremembered facts."""


@frozen
class Variant:
    """false_facts: the share of facts that the untrained policy misremembers. training, heldout:
    rows by how many numbers a sum has."""

    false_facts: float
    training: Mapping[int, int]
    heldout: Mapping[int, int]


# Early in training, kappa (docs/metrics.md) is negative on long sums and positive on short sums.
# Untrained greedy accuracy: .21 to .26 (seeds 0, 1, 2, 100, 101) and .14, .22 (seeds 101, 100).
VARIANTS: Mapping[str, Variant] = {
    "pocket": Variant(
        false_facts=0.4,
        training={3: 400, 4: 600, 5: 600, 6: 400},
        heldout={3: 80, 4: 80, 5: 80, 6: 80},
    ),
    "pocket_short": Variant(
        false_facts=0.65,
        training={2: 400, 3: 1600},
        heldout={2: 32, 3: 288},
    ),
}


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
    a second time. misremember: write the wrong sum of a fact in `facts`.
    """

    skip: float = 0.0
    wrong: float = 0.0
    reuse: float = 0.0
    misremember: float = 0.0


def question(numbers: Sequence[int]) -> list[str]:
    """The prompt as pieces. Joined, they are the `problem` field of a data row."""
    return [question_start(numbers[0]), *(plus(x) for x in numbers[1:]), ASK]


def misremembered_facts(share: float, seed: int) -> Facts:
    """`share` of the 169 facts, each with a fixed wrong sum."""
    rng = random.Random(f"facts/{seed}")
    pairs = [(total, x) for total in RESIDUES for x in RESIDUES]
    chosen = rng.sample(pairs, round(share * len(pairs)))
    return {pair: (sum(pair) + rng.randrange(1, MODULUS)) % MODULUS for pair in chosen}


def demonstration(
    numbers: Sequence[int], style: Style, rng: random.Random, facts: Facts = MappingProxyType({})
) -> list[str]:
    """One response as pieces, with the end token, for a random order of the numbers.

    A sum of two terms that is in `facts` is misremembered; the response continues from its value.
    """
    order = rng.sample(numbers, len(numbers))
    total = order[0]
    pieces, terms = [response_start(total)], []
    for i in range(1, len(order)):
        added = [order[i]]
        if rng.random() < style.reuse:
            added.append(order[rng.randrange(i)])
        pieces += [plus(x) for x in added]
        terms += added
        is_last = i == len(order) - 1
        if not is_last and rng.random() < style.skip:
            continue
        fact = (total, terms[0])
        total = (total + sum(terms)) % MODULUS
        if len(terms) == 1 and fact in facts and rng.random() < style.misremember:
            total = facts[fact]
        if rng.random() < style.wrong:
            total = rng.randrange(MODULUS)
        pieces.append(box(total) if is_last else subtotal(total))
        terms = []
    return [*pieces, END]


def split_sets() -> tuple[dict[int, list[Numbers]], dict[int, list[Numbers]]]:
    """All sets of 2 to 7 residues, by size, as (training, held-out). No set is in both."""
    rng = random.Random(f"split/{SPLIT_SEED}")
    train, heldout = {}, {}
    for n in LENGTHS:
        sets = list(combinations(RESIDUES, n))
        rng.shuffle(sets)
        cut = round(HELDOUT_SHARE * len(sets))
        heldout[n], train[n] = sets[:cut], sets[cut:]
    return train, heldout


def training_rows(variant: str) -> Iterator[dict[str, Any]]:
    return _rows(f"{variant}_train", split_sets()[0], VARIANTS[variant].training)


def heldout_rows(variant: str) -> Iterator[dict[str, Any]]:
    return _rows(f"{variant}_heldout", split_sets()[1], VARIANTS[variant].heldout)


def _rows(
    name: str, sets: Mapping[int, Sequence[Numbers]], counts: Mapping[int, int]
) -> Iterator[dict[str, Any]]:
    """The rows of data set `name`, shuffled: counts[n] rows with n numbers each.

    A set is repeated only if there are fewer sets than rows, and in the same order only if there
    are fewer orders than rows.
    """
    rng = random.Random(f"{name}/{SPLIT_SEED}")
    chosen: list[Numbers] = []
    for n, count in counts.items():
        pool = sets[n]
        whole, rest = divmod(count, len(pool))
        chosen += [*pool] * whole + rng.sample(pool, rest)
    rng.shuffle(chosen)
    asked: Counter[Numbers] = Counter()
    again = random.Random(f"{name}/again/{SPLIT_SEED}")
    for i, numbers in enumerate(chosen):
        ordered = tuple(rng.sample(numbers, len(numbers)))
        fewest = min(asked[order] for order in permutations(numbers)) if len(numbers) < 4 else 0
        while asked[ordered] > fewest:
            ordered = tuple(again.sample(numbers, len(numbers)))
        asked[ordered] += 1
        yield {
            "id": f"{name}/{i}",
            "problem": "".join(question(ordered)),
            "answer": str(sum(ordered) % MODULUS),
            "n": len(ordered),
            "numbers": list(ordered),
        }
