"""Domains after a formula, definitions, and names that do not matter."""

import pytest

from asymrl.verifiers import math

ALIKE = r"""
3k-2 <- 3k-2, k \ge 1
3k-2 <- 3k-2 \text{ for all } k \geq 1
3k-2 <- 3k-2\ (k \in \mathbb{N})
b_m = 4^m-1 <- b_m = 4^m-1 \quad (m \geq 1)
b_m = 4^m-1, m\ge1 <- 4^m-1
m = 7j <- m = 7j, j\in\mathbb{Z}
g(x)=3-x <- g(x)=3-x, x\in\mathbb{R}
g(x)=3-x <- g(x)=3-x \text{ for all } x \in \mathbb{R}
\frac{2}{x} <- \frac{2}{x}, x\ne0
y=\sqrt{x-5} <- y=\sqrt{x-5}\ (x \ge 5)
\ln(2-x) <- \ln(2-x), x<2
\lceil\beta n\rceil, \text{ where } \beta=\sqrt7 <- \lceil n\sqrt7 \rceil
2ab, \text{ where } a=3 <- 6b
g(x)=3-x <- g(u)=3-u
b_n=3n+5 <- b_i=3i+5
e^x+C <- e^x+c
\frac{x^2}{2}+x+C <- K+x+\frac{x^2}{2}
y=C_1e^x+C_2e^{-x} <- y=Be^{-x}+Ae^{x}
\frac{2}{9} <- P(Y=4)=\frac{2}{9}
\frac{2}{9} <- \Pr(2\le Y<4)=\frac{2}{9}
"""
OTHER = r"""
3k-2 <- 3k+2, k \ge 1
3k-2 <- 3k-2, k \ge 12
3k-2 <- 3k-2, k \le 1
3k-2 <- k \ge 1
x^2 <- x^2, x>0
x^2 <- x^2\ (x \ge 1)
|x| <- x, x \ge 0
x=3 <- x=3, x>5
m = 7j <- m = 7j, j\in\mathbb{N}
m = 7j <- m = 7j, j \ge 1
x=j\pi <- x=j\pi, j\in\mathbb{N}
\frac{2}{x} <- \frac{2}{x}, x\ne1
\sqrt{x-5} <- \sqrt{x-5}, x\ge6
\ln(2-x) <- \ln(2-x), x<1
2ab, \text{ where } a=3 <- 5b
g(x)=3-x <- g(u)=3-x
g(x)=3-x <- h(u)=3-u
g(x)=x+u <- g(u)=u+x
b_n=3n+5 <- b_i=3n+5
b_n=3n+5 <- c_i=3i+5
e^x+C <- e^x
e^x+C <- e^x+x
e^x+C <- 2e^x+c
Ce^x <- ce^x
ABC <- ABD
ACD <- ABD
a+b+C <- a+b+D
C(n,2) <- A(n,2)
y=C_1e^x+C_2e^{-x} <- y=Ae^{x}+Ae^{-x}
y=C_1e^x+C_2e^{-x} <- y=Ae^{x}+Be^{-2x}
\frac{2}{9} <- P(Y=\frac{2}{9})
"""


def pairs(text: str) -> list[tuple[str, ...]]:
    return [tuple(line.split(" <- ")) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("gold", "answer"), pairs(ALIKE))
def test_domains_and_names_that_say_nothing_new_do_not_matter(gold, answer):
    assert math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER))
def test_conditions_and_names_that_change_the_answer_do(gold, answer):
    assert math.compare(gold, answer) != "correct"
