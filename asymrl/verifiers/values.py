r"""Trees -> values: what an expression is worth, exactly where it is rational, else to 60 digits.

Knows arithmetic, elementary functions and sampling; not answers. Two expressions are the same when
they are at every sample point: an identity test (Schwartz-Zippel for polynomials) that never has to
simplify, so that its time is bounded by the size of the tree. Rational arithmetic is exact, so that
0 and 10^{-20}, or 2^{2005}+1 and 2^{2005}-1, are told apart; sizes are bounded, so that no power or
factorial can take long. What is beyond the bounds raises Beyond, and counts as equal to nothing but
itself.
"""

import math
import random
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath
from mpmath.libmp import NoConvergence

from asymrl.verifiers.expressions import Node

DIGITS = 60
mpmath.mp.dps = DIGITS
SAME = mpmath.mpf(10) ** -40  # relative; what rounding at 60 digits leaves is far below it
ZERO = mpmath.mpf(10) ** -48  # relative to what was subtracted
MAX_BITS = 100_000  # of an exact power or factorial
MAX_EXPONENT = 1 << 62  # of an inexact one
MAX_FACTORIAL = 5_000
POINTS = 8

Value = Any  # Fraction | mpmath.mpf | mpmath.mpc
_CONSTANTS = {"pi": mpmath.mp.pi, "e": mpmath.mp.e, "i": mpmath.mpc(0, 1)}
_FUNCTIONS = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot,
    "sec": mpmath.sec, "csc": mpmath.csc, "arcsin": mpmath.asin, "arccos": mpmath.acos,
    "arctan": mpmath.atan, "arccot": mpmath.acot, "sinh": mpmath.sinh, "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
}  # fmt: skip
_CIRCULAR = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})


class Beyond(Exception):
    """Undefined, not a number, or too large to be worked out."""


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly inside one."""
    if node[0] == "rel":
        return node[2]
    if node[0] == "matrix":
        return tuple(entry for row in node[1:] for entry in row)
    return tuple(child for child in node[1:] if isinstance(child, tuple))


def has(node: Node, kind: str) -> bool:
    """Whether a node of that kind is in the tree."""
    return node[0] == kind or any(has(child, kind) for child in children(node))


def symbols(node: Node) -> frozenset[str]:
    """The names in a tree that stand for unknowns."""
    if node[0] == "sym":
        return frozenset() if node[1] in _CONSTANTS else frozenset({node[1]})
    return frozenset().union(*map(symbols, children(node)))


@lru_cache(maxsize=50_000)
def constant(node: Node) -> Value:
    """The value of an expression without unknowns. Beyond if it has some."""
    return evaluate(node, {})


def evaluate(node: Node, at: Mapping[str, Value]) -> Value:
    """The value of an expression where its unknowns are as given. Beyond where there is none."""
    try:
        value = _evaluate(node, at)
    except (ValueError, ZeroDivisionError, OverflowError, NoConvergence) as error:
        raise Beyond(str(error)) from error
    if not isinstance(value, Fraction) and not mpmath.isfinite(value):
        raise Beyond("not finite")
    return value


def _evaluate(node: Node, at: Mapping[str, Value]) -> Value:
    kind = node[0]
    match kind:
        case "num":
            return node[1]
        case "sym":
            if node[1] in at:
                return at[node[1]]
            if node[1] not in _CONSTANTS:
                raise Beyond(f"{node[1]} is unknown")
            return +_CONSTANTS[node[1]]
        case "call":
            return _called(node, at)
        case "base":
            return Fraction(int(node[1], int(node[2])))
    values = [_evaluate(child, at) for child in node[1:] if isinstance(child, tuple)]
    match kind, values:
        case "add", _:
            total = values[0]
            for value in values[1:]:
                total = _mix(total, value, "+")
            return total
        case (("mul" | "div"), [a, b]):
            return _mix(a, b, "*" if kind == "mul" else "/")
        case "pow", [a, b]:
            return power(a, b)
        case "neg", [a]:
            return -a
        case "deg", [a]:
            return a
        case "pct", [a]:
            return a
        case "fact", [a]:
            return factorial(a)
        case "ratio", [a, b]:
            return _mix(a, b, "/")
    raise Beyond(f"a {kind} is no number")


def number(value: Value) -> Value:
    """As an mpmath number."""
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def _mix(a: Value, b: Value, operator: str) -> Value:
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = number(a), number(b)
    elif max(_bits(a), _bits(b)) > 2 * MAX_BITS:
        raise Beyond("too long")
    match operator:
        case "+":
            total = a + b
            if isinstance(a, Fraction):
                return total
            cancelled = mpmath.fabs(total) < ZERO * max(mpmath.fabs(a), mpmath.fabs(b))
            return Fraction(0) if cancelled else total
        case "*":
            return a * b
    return a / b


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def power(a: Value, b: Value) -> Value:
    """a^b; the real root of a negative number where its index is odd."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        if abs(b.numerator) * max(1, _bits(a)) <= MAX_BITS and b.denominator < 1000:
            exact = _rational_power(a, b)
            if exact is not None:
                return exact
        if a < 0 and b.denominator % 2:
            size = power(-a, b)
            return size if b.numerator % 2 == 0 else -size
    low, high = number(a), number(b)
    if low == 0:
        if mpmath.re(high) <= 0:
            raise Beyond("0 to a power that is not positive")
        return Fraction(0)
    if mpmath.fabs(high) * (abs(mpmath.log(mpmath.fabs(low))) + 1) > MAX_EXPONENT:
        raise Beyond("too large")
    return mpmath.power(low, high)


def _rational_power(a: Fraction, b: Fraction) -> Fraction | None:
    """Exactly, where the root is rational."""
    if b.denominator == 1:
        return a ** int(b)
    if a < 0 and b.denominator % 2 == 0:
        return None
    roots = [_root(abs(part), b.denominator) for part in (a.numerator, a.denominator)]
    if roots[0] is None or roots[1] is None:
        return None
    root = Fraction(roots[0], roots[1]) * (-1 if a < 0 else 1)
    return root**b.numerator


def _root(whole: int, index: int) -> int | None:
    if index == 2:
        root = math.isqrt(whole)
    elif whole.bit_length() > 3000:
        return None
    else:
        root = int(mpmath.nint(mpmath.root(whole, index)))
    return root if root**index == whole else None


def factorial(a: Value) -> Value:
    if isinstance(a, Fraction) and a.denominator == 1:
        if a < 0:
            raise Beyond("the factorial of a negative number")
        if a <= MAX_FACTORIAL:
            return Fraction(math.factorial(int(a)))
    if mpmath.fabs(number(a)) > 1e12:
        raise Beyond("too large")
    return mpmath.gamma(number(a) + 1)


def _called(node: Node, at: Mapping[str, Value]) -> Value:
    name, *inner = node[1:]
    values = [_evaluate(child, at) for child in inner]
    if name in _FUNCTIONS and len(values) == 1:
        angle = number(values[0])
        if name in _CIRCULAR and any(child[0] == "deg" for child in inner):
            angle = angle * mpmath.mp.pi / 180
        if mpmath.fabs(angle) > 1e15:
            raise Beyond("too large")
        value = _FUNCTIONS[name](angle)
        return Fraction(0) if mpmath.fabs(value) < ZERO * mpmath.fabs(angle) else value
    match name, values:
        case "abs", [a]:
            return abs(a)
        case "log", [a, b]:
            return mpmath.log(number(a)) / mpmath.log(number(b))
        case (("log" | "ln"), [a]):
            return mpmath.log(number(a))
        case "lg", [a]:
            return mpmath.log10(number(a))
        case "cbrt", [a]:
            return power(a, Fraction(1, 3))
        case (("floor" | "ceil"), [a]):
            if isinstance(a, Fraction):
                return Fraction(math.floor(a) if name == "floor" else math.ceil(a))
            if mpmath.fabs(a) > 1e30:
                raise Beyond("too large")
            return (mpmath.floor if name == "floor" else mpmath.ceil)(a)
        case (("min" | "max"), [_, *_]) if all(isinstance(value, Fraction) for value in values):
            return (min if name == "min" else max)(values)
        case "binom", [n, k]:
            return _binomial(n, k)
    raise Beyond(f"{name} is unknown")


def _binomial(n: Value, k: Value) -> Value:
    if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1:
        if 0 <= k <= n <= 2 * MAX_FACTORIAL:
            return Fraction(math.comb(int(n), int(k)))
        raise Beyond("a binomial out of range")
    if max(mpmath.fabs(number(n)), mpmath.fabs(number(k))) > 1e9:
        raise Beyond("too large")
    return mpmath.binomial(number(n), number(k))


def close(a: Value, b: Value) -> bool:
    """Exactly equal if both are rational, else to within what rounding explains."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = number(a), number(b)
    return bool(mpmath.fabs(a - b) <= SAME * max(mpmath.fabs(a), mpmath.fabs(b)))


def points(names: frozenset[str]) -> list[dict[str, Value]]:
    """Where to compare expressions in these unknowns: small, large, positive and negative."""
    source = random.Random(20_260_101)
    ranges = [(0.1, 0.9), (0.1, 0.9), (1.1, 4), (1.1, 4), (2, 9), (-0.9, -0.1), (-4, -1), (-3, 3)]
    return [
        {name: Fraction(source.uniform(*span)).limit_denominator(9973) for name in sorted(names)}
        for span in ranges[:POINTS]
    ]


def identical(one: Node, other: Node) -> bool:
    """Whether two expressions agree wherever both are real (or wherever both are defined).

    Unknowns are taken as real. At least three points must decide.
    """
    names = symbols(one) | symbols(other)
    if not names:
        return close(constant(one), constant(other))
    real, complex_ = [], []
    for at in points(names):
        try:
            pair = evaluate(one, at), evaluate(other, at)
        except Beyond:
            continue
        agree = close(*pair)
        if all(map(_is_real, pair)):
            if not agree:
                return False
            real.append(agree)
        else:
            complex_.append(agree)
    if len(real) >= 3:
        return True
    return len(real) + len(complex_) >= 3 and all(complex_)


def _is_real(value: Value) -> bool:
    value = number(value)
    return bool(mpmath.fabs(mpmath.im(value)) <= SAME * mpmath.fabs(value))


def folded(node: Node) -> Node:
    """The tree with its rational parts worked out, where they are short."""
    if node[0] in ("rel", "matrix", "base"):
        return node
    node = tuple(folded(part) if isinstance(part, tuple) else part for part in node)
    try:
        value = constant(node) if children(node) else None
    except Beyond:
        return node
    return ("num", value) if isinstance(value, Fraction) and _bits(value) < 4096 else node
