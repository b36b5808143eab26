"""Lists with dots: written out if they end, else a progression or the list itself."""

import pytest

from asymrl.verifiers import math

ALIKE = r"""
3,5,7,9,11 <- 3,5,\ldots,11
3, 5, ..., 11 <- 3,5,7,9,11
4,5,6,7 <- \{4,\dots,7\}
10,9,8,7 <- 10,9,\cdots,7
2,4,\ldots,2m <- 2, 4, 6, \dots, 2m
\{0,1,\ldots,m-1\} <- 0,1,...,m-1
\{a_1,\ldots,a_m\} <- a_1,\dots,a_m
5,10,15,\ldots <- \{5,10,\ldots\}
\mathbb{Z}^+ <- \{1,2,3,\ldots\}
0,1,2,\ldots <- \mathbb{Z}_{\ge 0}
3m+4 <- 3m+4, m=0,1,2,\ldots
x=\frac{j\pi}{3}, j\in\mathbb{Z} <- x=\frac{j\pi}{3}, j=0,\pm1,\pm2,\ldots
"""
OTHER = r"""
3,5,7,9,11 <- 3,5,\ldots,13
3,5,7,9,11 <- 3,\ldots,11
3,5,7,9,11 <- 3,5,\ldots
3,5,\ldots,11 <- 3,5,\ldots,12
2,4,\ldots,2m <- 2,4,\ldots,2m+2
2,4,\ldots,2m <- 1,2,\ldots,2m
2,4,8,\ldots <- 2,4,\ldots
1,2,\ldots,m <- 1,2,m
4.71 <- 4.71\ldots
\mathbb{Z}^+ <- \{0,1,2,\ldots\}
m=5j <- m=5j, j=1,2,3,\ldots
7 <- 1,\ldots,7
1,\ldots,1001000 <- 1
"""


def pairs(text: str) -> list[tuple[str, ...]]:
    return [tuple(line.split(" <- ")) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("gold", "answer"), pairs(ALIKE))
def test_dots_stand_for_the_members_between(gold, answer):
    assert math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER))
def test_other_members_behind_dots_are_not_accepted(gold, answer):
    assert math.compare(gold, answer) != "correct"
