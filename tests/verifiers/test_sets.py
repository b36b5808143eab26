"""Sets of numbers: in words, with marks on the letter, as differences and as alternatives."""

import pytest

from asymrl.verifiers import math

ALIKE = r"""
\mathbb{R} <- \text{all real numbers}
\mathbb{R} <- x \text{ is any real number}
(-\infty,\infty) <- \text{the set of real numbers}
\mathbb{R} <- \text{All reals}
(-\infty,0) <- \text{all negative real numbers}
[0,\infty) <- \text{all non-negative real numbers}
x\ge0 <- \mathbb{R}_{\ge 0}
(0,\infty) <- \mathbb{R}^+
x > 0 <- x \in \mathbb{R}^{+}
\mathbb{R}\setminus\{5\} <- \text{all real numbers except } 5
\mathbb{R}\setminus\{5\} <- \text{all real numbers other than } x=5
\mathbb{R}\setminus\{5,7\} <- \text{all real numbers except 5 and 7}
\mathbb{R}\setminus\{5\} <- \mathbb{R}-\{5\}
x \ne 0 <- \text{all nonzero real numbers}
(5,\infty) <- \text{all real numbers greater than } 5
x \le 5 <- \text{all real numbers less than or equal to } 5
\text{positive integers} <- \mathbb{Z}_{>0}
\mathbb{Z}^+ <- \text{all positive integers}
\mathbb{N}^* <- \mathbb{Z}_{+}
\mathbb{Z} <- \text{every integer}
\text{whole numbers} <- \text{all nonnegative integers}
\mathbb{Q} <- \text{all rational numbers}
\emptyset <- \text{There are no real solutions}
\text{no solution} <- \{\}
\emptyset <- \text{The system has no solution.}
M\cap N <- N\cap M
(p,q)\cup(r,s) <- (r,s)\cup(p,q)
\{3\}\cup(5,8] <- x=3 \text{ or } 5<x\le8
x<1 \text{ or } x=4 <- (-\infty,1)\cup\{4\}
"""
OTHER = r"""
\mathbb{R} <- \text{all rational numbers}
\mathbb{R} <- \text{not all real numbers}
\mathbb{R} <- \text{all real numbers except } 0
\mathbb{R} <- \text{some real numbers}
\mathbb{R} <- \text{a real number}
(0,\infty) <- \text{all non-negative real numbers}
(0,\infty) <- \mathbb{Z}^+
(0,\infty) <- \mathbb{R}^*
\mathbb{R}\setminus\{5\} <- \text{all real numbers except } -5
\mathbb{R}\setminus\{5,7\} <- \text{all real numbers except } 5
[5,\infty) <- \text{all real numbers greater than } 5
\mathbb{Z}^+ <- \text{all integers}
\mathbb{Z}^+ <- \mathbb{Z}_{\ge 0}
\mathbb{Z}^+ <- \text{all positive integers greater than } 5
\mathbb{Z} <- \mathbb{Z}_7
\emptyset <- \text{one solution}
\emptyset <- 0
0 <- \text{no solution}
M\cap N <- M\cup N
M\cap N <- M\cap M
M\setminus N <- N\setminus M
\{3\}\cup(5,8] <- x=3 \text{ or } 5<x<8
\{3\}\cup(5,8] <- x=3, 5<x\le8
\{3\}\cup(5,8] <- x=3 \text{ or } 5<y\le8
x=3 <- x=3 \text{ or } x>5
"""


def pairs(text: str) -> list[tuple[str, ...]]:
    return [tuple(line.split(" <- ")) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("gold", "answer"), pairs(ALIKE))
def test_the_same_set_in_other_words_or_signs_is_accepted(gold, answer):
    assert math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER))
def test_another_set_is_not_accepted(gold, answer):
    assert math.compare(gold, answer) != "correct"
