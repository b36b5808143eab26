"""Systems, points, functions by cases, matrices as lists, and counting functions."""

import pytest

from asymrl.verifiers import math

ALIKE = r"""
(7,-2) <- BEGIN x=7\\y=-2 END
BEGIN x=7\\y=-2 END <- (7,-2)
(7,-2) <- \left\{\begin{array}{l}x=7\\y=-2\end{array}\right.
(7,-2) <- BEGIN x&=7,\\y&=-2. END
(0,3),(3,0) <- x=0,y=3 \text{ or } x=3,y=0
(0,3),(3,0) <- x=3, y=0, x=0, y=3
u=0,v=3 \text{ or } u=3,v=0 <- u=3,v=0 \text{ or } v=3,u=0
(0,3),(3,0) <- BEGIN x=3\\y=0 END\text{ or }BEGIN x=0\\y=3 END
(4,5) <- Q(4,5)
(4,5) <- Q_1(4,5)
(4,5),(6,7) <- M(4,5), N(6,7)
(4,5) <- 4\hat{i}+5\hat{j}
\langle 0,1,-2\rangle <- \hat{\jmath}-2\hat{k}
BEGIN 3&t<2\\t+1&t\ge2 END <- BEGIN t+1,&t\ge2\\3,&t<2 END
BEGIN 3&t<2\\t&t\ge2 END <- BEGIN 3&\text{if }t<2\\t&\text{otherwise} END
g(t)=BEGIN 3&t<2\\t&t\ge2 END <- BEGIN 3,&\text{for }t<2,\\t,&t\geq2. END
BEGIN m&\text{odd}\\0&\text{even} END <- BEGIN 0&\text{even}\\m&\text{odd} END
BEGIN 5&m\text{ odd} END <- BEGIN 5&m\text{ is odd} END
\begin{pmatrix}5&6\\7&8\end{pmatrix} <- [[5,6],[7,8]]
\sqrt{19} <- \begin{array}{c}\sqrt{19}\end{array}
\binom{m}{3} <- C(m,3)
210 <- P(7,3)
210 <- {}_7P_3
10 <- C(5,2)
"""
OTHER = r"""
(7,-2) <- BEGIN x=-2\\y=7 END
(7,-2) <- BEGIN x=7\\y=2 END
(0,3),(3,0) <- x=0,y=0 \text{ or } x=3,y=3
(0,3),(3,0) <- x=0,y=3
u=0,v=3 \text{ or } u=3,v=1 <- u=0,v=1 \text{ or } u=3,v=3
(4,5) <- Q(5,4)
P(4,5) <- Q(4,5)
(4,5) <- 5\hat{i}+4\hat{j}
(4,5) <- 4\hat{i}+5\hat{j}+\hat{k}
(4,5) <- 4\hat{i}+5\hat{j}+1
BEGIN 3&t<2\\t+1&t\ge2 END <- BEGIN 3&t\le2\\t+1&t>2 END
BEGIN 3&t<2\\t+1&t\ge2 END <- BEGIN t+1&t<2\\3&t\ge2 END
BEGIN 3&t<2\\t+1&t\ge2 END <- BEGIN 3&t<1\\t+1&\text{otherwise} END
BEGIN 3&t<2\\t+1&t\ge2 END <- 3
BEGIN 3&t<2\\t+1&t\ge2 END <- BEGIN 3&t<2 END
BEGIN m&\text{odd}\\0&\text{even} END <- BEGIN 0&\text{odd}\\m&\text{even} END
\begin{pmatrix}5&6\\7&8\end{pmatrix} <- [[5,7],[6,8]]
\begin{pmatrix}5&6\\7&8\end{pmatrix} <- ((5,6),(7,8))
\binom{m}{3} <- C(3,m)
210 <- P(3,7)
10 <- P(5,2)
(5,2) <- 10
"""


def pairs(text: str) -> list[tuple[str, ...]]:
    text = text.replace("BEGIN ", r"\begin{cases}").replace(" END", r"\end{cases}")
    return [tuple(line.split(" <- ")) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("gold", "answer"), pairs(ALIKE))
def test_the_same_system_point_or_cases_are_accepted(gold, answer):
    assert math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER))
def test_another_system_point_or_cases_are_not_accepted(gold, answer):
    assert math.compare(gold, answer) != "correct"
