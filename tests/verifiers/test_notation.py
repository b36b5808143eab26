r"""How answers are written: markup of TeX and Markdown, marks, decimals that repeat, angles."""

import pytest

from asymrl.verifiers import math

ALIKE = r"""
\frac{5}{9} <- \sfrac{5}{9}
\frac{5}{9} <- \nicefrac59
\frac{5}{9} <- \textcolor{green}{\frac59}
\frac{5}{9} <- {\color{green}\frac59}
\frac{5}{9} <- \hspace{3mm}\frac59
\frac{5}{9} <- \frac59 \tag{2}
\frac{5}{9} <- \frac59 \\
\frac{5}{9} <- \begin{aligned}\frac59\end{aligned}
\begin{pmatrix}3\\8\end{pmatrix} <- \begin{bmatrix}3\\[6pt]8\end{bmatrix}
3, 8 <- 3,\quad8
x_1=3,\quadx_2=8 <- x_1=3, x_2=8
0.17 <- 17 pct
17\% <- 17\text{ percentage}
-7 <- {-}7
\sqrt{11} <- \surd 11
23 <- **23**
23 <- `23`
23 <- "23"
23 <- “23”
23 <- *23*.
"23" <- 23
3, 8 <- 3、8
23 <- 23。
\sqrt[3]{5} <- ∛5
\lceil x \rceil <- ⌈x⌉
45^\circ <- 45˚
4.2\times10^{-9} <- 4.2\text{E-}9
2300000 <- 2\text{,}300\text{,}000
23/4 <- 5\,3/4
\frac{2}{3} <- 0.666...
\frac{2}{3} <- 0.(6)
\frac{2}{3} <- 0.\dot{6}
\frac{7}{6} <- 1.1666\ldots
\frac{5}{37} <- 0.\dot{1}3\dot{5}
0.(12) <- \frac{4}{33}
40.5^\circ <- 40^\circ30'
40.5^\circ <- 40^{\circ} 30'
12.51^\circ <- 12^\circ 30' 36''
(-3,5) <- ]-3,5[
(-3,5] <- ]-3;5]
[0,1)\cup(2,3) <- [0,1[\cup]2,3[
417_8 <- 417_{(8)}
417_8 <- 417_{\text{eight}}
417_8 <- 417 \text{ in base } 8
417_8 <- 417\text{ (base 8)}
417_8 <- 417 \text{ base eight}
"""
OTHER = r"""
\frac{5}{9} <- \sfrac{9}{5}
\frac{5}{9} <- \textcolor{green}{\frac95}
\begin{pmatrix}3\\8\end{pmatrix} <- \begin{bmatrix}8\\[6pt]3\end{bmatrix}
23 <- **32**
3, 8 <- 3、7
\frac{2}{3} <- 0.6667...
\frac{2}{3} <- 0.666
4.7 <- 4.7\ldots
\frac{2}{3} <- 0.(3)
0.\overline{12} <- 0.\overline{21}
40.5^\circ <- 40^\circ 50'
x' <- x
(-3,5) <- [-3,5]
(-3,5) <- ]-3,5]
417_8 <- 417 \text{ (base 9)}
417_8 <- 417
23/4 <- 53/4
"""


def pairs(text: str) -> list[tuple[str, ...]]:
    return [tuple(line.split(" <- ")) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("gold", "answer"), pairs(ALIKE))
def test_the_same_answer_in_other_markup_is_accepted(gold, answer):
    assert math.compare(gold, answer) == "correct"


def test_full_width_digits_are_digits():
    assert math.compare("23", "\uff12\uff13") == "correct"


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER))
def test_another_answer_in_other_markup_is_not_accepted(gold, answer):
    assert math.compare(gold, answer) != "correct"
