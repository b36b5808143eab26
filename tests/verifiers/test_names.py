r"""Words and names before a value, and ranges after it: what an answer may say beside the value."""

import pytest

from asymrl.verifiers import math
from tests.verifiers.test_notation import pairs

ALIKE = r"""
21 <- p+q+r=21
21 <- \det M=21
21 <- f(g(5))=21
21 <- (g\circ f)(4)=21
21 <- [PQRS]=21
5.25 <- E[Y]=\frac{21}{4}
\frac27 <- P(B\mid C)=\frac27
\frac27 <- \Pr(Y\ge 3)=\frac27
21 <- \dim W=21
2.5 <- \operatorname{Var}(Y)=\frac52
21 <- \max g(t)=21
21 <- \lim_{t\to 0} g(t)=21
21 <- \sum_{k=1}^{9} b_k=21
21 <- b_1+b_2+\cdots+b_9=21
21 <- |B\cap C|=21
21 <- \|\mathbf{w}\|=21
21 <- \#\{y\}=21
21 <- m\angle PQR=21
21 <- pq=21
21 <- \tan\beta=21
21 <- \sigma^2=21
21 <- a^2+b^2=21
21 <- x+y+z=21
21 <- \lfloor t \rfloor=21
g^{-1}(x)=\frac{x+2}{5} <- \frac{x+2}{5}
2x <- \frac{dy}{dx}=2x
2x <- (f\circ g)(x)=2x
21 <- \text{Total: } 21
21 <- \textbf{Final answer: } 21
21 <- \text{Thus } 21
21 <- \therefore 21
21 <- \implies 21
21 <- Therefore 21
(4,1) <- \text{the point } (4,1)
\sqrt7 <- \sqrt7\approx2.646
\sqrt7 <- \sqrt7\ (\approx 2.646)
\pi <- \pi\approx 3.1416
\frac94 <- \frac94\ (=2.25)
\frac94 <- \frac94 \text{ (approximately } 2.25)
7 <- \text{seven}
\gcd(a,b) <- \gcd(b,a)
4 <- \gcd(12,8)
24 <- \operatorname{lcm}(12,8)
\operatorname{sech} t <- \frac{1}{\cosh t}
\frac38 <- {3\over 8}
\frac38 <- \text{$\frac38$}
"""
OTHER = r"""
0 <- t^2-4t+3=0
0 <- 2x+y-3=0
1 <- x^2+y^2=1
6 <- 2x+3y=6
7 <- 2t+1=7
6 <- (t-1)(t-2)=6
5 <- t(t-4)=5
21 <- p+q+r=20
21 <- \det M=12
\frac27 <- P(B\mid C)=\frac57
21 <- \text{not } P(B\mid C)=21
21 <- \text{Wrong answer: } 21
21 <- \text{Rejected: } 21
21 <- \text{At most: } 21
21 <- 20 \approx 21
\sqrt7 <- 2.646
\sqrt7 <- 2.646\ (\approx\sqrt7)
\frac94 <- \frac94 \text{ or } 2.3
7 <- \text{eight}
4 <- \gcd(12,18)
\gcd(a,b) <- \operatorname{lcm}(a,b)
\frac38 <- {8\over 3}
"""


@pytest.mark.parametrize(("gold", "answer"), pairs(ALIKE))
def test_a_value_with_its_name_answers_the_value(gold, answer):
    assert math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER))
def test_an_equation_a_denial_or_another_value_does_not(gold, answer):
    assert math.compare(gold, answer) != "correct"
