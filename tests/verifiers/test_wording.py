"""Text golds, choices and dates: which words around an answer add nothing."""

import pytest

from asymrl.verifiers import math

ALIKE = r"""
\text{ellipse} <- \text{an ellipse}
\text{ellipse} <- \text{It is an ellipse.}
\text{ellipse} <- The curve is an ellipse
\text{Bob} <- \text{Bob wins}
\text{Bob} <- \text{Bob has the winning strategy}
\text{Second player} <- \text{the second player can always win}
\text{odd} <- \text{an odd function}
\text{diverges} <- \text{The series diverges}
\text{does not exist} <- \text{the integral does not exist}
\text{no solution} <- \text{There are no real solutions.}
\text{No} <- \text{No, it is not continuous}
\text{Yes} <- \text{Yes, this is the case}
\text{July 4} <- \text{4 July}
\text{July 4} <- \text{the 4th of July}
\text{July 4, 1990} <- \text{4th July 1990}
\text{Jul 4} <- July 4th
even $k$ <- k \text{ is even}
\text{all prime } p <- p \text{ must be prime}
2 \text{ and all even squares} <- \text{all even squares and } 2
D <- \text{Option D}
D <- \text{choice (D)}
D <- \textbf{D}\quad\text{the last one}
B, E <- BE
BE <- \text{E and B}
②④ <- ②, ④
\textbf{(E)}\ 36 <- 36
\textbf{(E)}\ 36 <- \text{E}
"""
OTHER = r"""
\text{ellipse} <- \text{not an ellipse}
\text{ellipse} <- \text{half an ellipse}
\text{Bob} <- \text{Bob loses}
\text{Bob} <- \text{Bob does not win}
\text{Bob} <- \text{Alice or Bob wins}
\text{odd} <- \text{odd or even}
\text{odd} <- \text{neither even nor odd}
\text{True} <- \text{The converse is true}
\text{diverges} <- \text{The series converges}
\text{no solution} <- \text{one solution}
\text{no solution} <- \text{no positive solution}
\text{No} <- \text{No, yes it is}
\text{Yes} <- \text{Yes, but only for odd numbers}
\text{Yes} <- \text{Yes, or maybe no}
\text{Yes} <- \text{Yes, it is not}
\text{Yes} <- \text{Yesterday, it was}
\text{July 4} <- \text{July 5}
\text{July 4} <- \text{4 June}
\text{July 4} <- \text{4}
\text{July 4, 1990} <- \text{July 4}
even $k$ <- odd $k$
even $k$ <- even $n$
2 \text{ and all even squares} <- \text{all even squares}
2 \text{ and all even squares} <- \text{all even squares and } 3
D <- \text{Option A}
D <- \text{Option D or A}
D <- \textbf{D}\quad\text{or }\textbf{A}
B, E <- BEF
BE <- B
BE <- \text{B or E}
②④ <- ②
②④ <- 2+4
\textbf{(E)}\ 36 <- 63
\textbf{(E)}\ 36 <- \text{(A) } 36
\text{the Jones family} <- \text{Jones}
"""


def pairs(text: str) -> list[tuple[str, ...]]:
    return [tuple(line.split(" <- ")) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("gold", "answer"), pairs(ALIKE))
def test_the_same_answer_in_other_words_is_accepted(gold, answer):
    assert math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER))
def test_words_that_change_the_answer_make_another(gold, answer):
    assert math.compare(gold, answer) != "correct"
