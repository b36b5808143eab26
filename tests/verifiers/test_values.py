"""Notation, units, identities and numbers: pairs that are equal, and pairs that only look equal."""

import pytest

from asymrl import verifiers
from asymrl.verifiers import math
from asymrl.verifiers.equality.symbolic import evaluate_operators
from asymrl.verifiers.equality.values import NoValue
from asymrl.verifiers.latex.tree import OPERATORS, has

ALIKE = r"""
\frac{dx}{dt} = kx - a <- \frac{dx}{dt} + a = kx
PV=nRT <- P = \frac{nRT}{V}
\frac{2d}{3d} <- \frac{2}{3}
3-4i <- \overline{3+4i}
\overline{z} <- \bar{z}
\vec{v} <- \overrightarrow{v}
\vec{v}=(1,2) <- (1,2)
\angle A = 30^\circ <- 30^\circ
3 <- 10 \bmod 7
4 <- -1 \bmod 5
17 <- 17 \pmod{23}
x \equiv 1 \pmod 4 <- x = 1\ (\mathrm{mod}\ 4)
x=2 \text{ when } y=3 <- x=2 \text{ where } y=3
x^2 <- x^2 \text{ for all real } x
k\pi <- k\pi, \text{ where } k \text{ is an integer}
-2 <- \begin{vmatrix}1&2\\3&4\end{vmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} <- \begin{bmatrix}1&2\\3&4\end{bmatrix}
\pm 3 <- \mp 3
\frac12 <- \sin(60^\circ-30^\circ)
\sin 30^\circ <- \sin \frac{\pi}{6}
\cos 20^\circ\cos 40^\circ\cos 80^\circ <- \frac18
{5 \choose 2} <- 10
{n+1 \choose 2} <- \frac{n(n+1)}{2}
7!! <- 105
12 <- 12^{\text{th}}
5 <- 5 apples
5 <- \text{Total area} = 5
xln(x) <- x\ln x
2pir <- 2\pi r
5 \text{ m} <- 500 \text{ cm}
x=5 \text{ m} <- 500 \text{ cm}
36 \text{ km/h} <- 10 \text{ m/s}
5 \text{ cubic feet} <- 5 \text{ ft}^3
60 \text{ mph} <- 60 \text{ miles per hour}
5\text{ sec} <- 5
\$5 <- 500 \text{ cents}
0.5 <- \$0.50 \text{ per pound}
\pi \text{ rad} <- 180^\circ
25^\circ\text{C} <- 25
|x| <- \sqrt{x^2}
\lfloor x+1\rfloor <- \lfloor x\rfloor+1
\max(a,b) <- \frac{a+b+|a-b|}{2}
84x\sqrt{2x} <- 84\sqrt{2}x^{3/2}
\sqrt[3]{\pi x} <- \sqrt[3]{\pi}\sqrt[3]{x}
\frac{x^2-4}{x-2} <- x+2
\frac{3^{1000}\pi}{3^{999}} <- 3\pi
2^{1000000} <- 2^{1000000}
"""
OTHER = r"""
\frac{dx}{dt} = kx - a <- \frac{dt}{dx} = kx - a
\frac{d^2x}{dt^2} = x <- \frac{dx}{dt} = x
\frac{d}{dx} x^2 <- x
\frac{dy}{dx} <- \frac{y}{x}
3+4i <- \overline{3+4i}
z <- \bar{z}
AB <- \vec{AB}
x <- \hat{x}
27 <- \overline{27}
\triangle ABC <- ABC
\angle ABC <- \angle BAC
5 <- 5 \angle 30
10 <- 10 \bmod 7
3 <- 10 \pmod 7
x \equiv 1 \pmod 4 <- x \equiv 1 \pmod 8
x=3 <- x=3 \text{ for } x>5
x=3 \text{ for } x>0 <- x=3
x=3 \text{ for } x>0 <- x=3 \text{ for } x<0
\begin{pmatrix}1&2\\3&4\end{pmatrix} <- \begin{vmatrix}1&2\\3&4\end{vmatrix}
1\pm2\mp3 <- 1\pm2\pm3
\sin 30^\circ <- \sin 30
\sin 30 <- \sin 30^\circ
\sqrt{\sin 30^\circ} <- \sqrt{\sin 30}
\pi/360 <- \sin 30^\circ
(3!)! <- 3!!
24abcd <- 24
24 <- 24abcd
3st <- 3
5 <- 5abcd
15 <- 5 \text{ ft } 3 \text{ in}
5 \text{ m} <- 5 \text{ cm}
x = 5 \text{ m} <- x = 5 \text{ cm}
(5 \text{ m}, 2) <- (5 \text{ cm}, 2)
5 \text{ square feet} <- 5 \text{ feet}
12\text{ m/s} <- 12 \text{ m}
\$5 <- 5 \text{ cents}
9 \text{ a.m.} <- 9\text{ p.m.}
90^\circ <- 90 \text{ rad}
5\% <- 5 \text{ cm}
25^\circ\text{C} <- 25^\circ\text{F}
\sqrt{x^2} <- x
\sqrt x <- \sqrt{|x|}
\ln|x| <- \ln x
\ln x^2 <- 2\ln x
|x| <- x
\arcsin(\sin x) <- x
0 <- \lfloor x^2/100\rfloor
\lfloor x\rfloor <- \lceil x\rceil-1
\min(x,1000) <- x
\max(x,-5) <- x
|x|+|y| <- |x+y|
|x-100| <- 100-x
10^{1000000} <- 10^{1000000}+1
6000! <- 6000!+1
\sqrt{10^{100}+1} <- 10^{50}
\pi <- \pi+10^{-1000}
1 <- 0^0
"""


def pairs(text: str) -> list[tuple[str, ...]]:
    return [tuple(line.split(" <- ")) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("gold", "answer"), pairs(ALIKE))
def test_the_same_value_is_accepted(gold, answer):
    assert math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER))
def test_a_different_value_is_not_accepted(gold, answer):
    assert math.compare(gold, answer) != "correct"


OPERATIONS = r"""
\sum_{k=1}^{10} k <- 55
\sum_{k=1}^{n} k^3 <- \frac{n^2(n+1)^2}{4}
\sum_{k=0}^{\infty}\frac{1}{2^k} <- 2
\sum_{k=1}^{\infty} \frac{1}{k^2} <- \frac{\pi^2}{6}
\prod_{k=1}^{5} k <- 120
\int_0^1 x^2 dx <- \frac13
2\int_0^{\pi} \sin x \, dx <- 4
\int_0^1 \sqrt{1-x^2} dx <- \pi/4
\lim_{x\to 0} \frac{\sin x}{x} <- 1
\lim_{n\to\infty}(1+\frac1n)^n <- e
"""


def test_sums_and_integrals_in_golds_are_evaluated_inside_the_sandbox():
    with verifiers.make("math", workers=1, timeout=10) as verifier:
        for gold, answer in pairs(OPERATIONS):
            assert verifier.check(gold).result(), gold
            assert verifier.submit(gold, rf"\boxed{{{answer}}}").result().reason == "correct", gold
            assert verifier.submit(gold, rf"\boxed{{{answer}+1}}").result().reason == "wrong", gold


@pytest.mark.parametrize(("gold", "answer"), pairs(OPERATIONS))
def test_an_answer_must_be_evaluated_unless_it_is_the_gold(gold, answer):
    assert math.compare(answer, gold) == "unparseable"
    assert math.compare(gold, gold.replace("x", "x ")) == "correct"


@pytest.mark.parametrize(
    "gold",
    [
        r"\sum_{k=1}^{1000000} k!",
        r"\int_0^1 x^x dx",
        r"\prod_{k=1}^{10^{9}} k",
        r"\sum_{k=1}^{n} k!",
    ],
)
def test_operators_that_sympy_cannot_evaluate_have_no_value(gold):
    (tree,) = math.trees(gold)
    assert has(tree, *OPERATORS)
    with pytest.raises(NoValue):
        evaluate_operators(tree)
