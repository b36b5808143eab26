r"""Trees -> values: exact where rational, else to 60 digits.

A value is a Fraction, or an mpmath number, real or complex. Two expressions with unknowns are the
same if they agree at every sample point: an identity test (Schwartz-Zippel for polynomials) that
simplifies nothing, so its time is bounded by the size of the tree. Rational arithmetic is exact, so
0 and 10^{-20}, or 2^{2005}+1 and 2^{2005}-1, are different. An expression that is undefined or too
large raises NoValue, and equals only itself. Does not know lists, equations or units.
"""

import math
import random
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache, reduce
from itertools import product
from typing import Any

import mpmath
from mpmath.libmp import NoConvergence
from sympy import integer_nthroot

from asymrl.verifiers.latex.tree import Node, children, map_children, symbols

DIGITS = 60
mpmath.mp.dps = DIGITS
SAME = mpmath.mpf(10) ** -40  # relative; rounding errors at 60 digits are far smaller
MAX_BITS = 100_000  # of an exact power or factorial
MAX_FLOATING_EXPONENT = 1 << 62
MAX_FACTORIAL = 5_000
MAX_DETERMINANT = 5
MAX_WORKING_DIGITS = 5_000
MIN_POINTS = 3  # where both expressions must have a value

# Ranges that sample values come from; positive first, where most functions are defined.
_POSITIVE = ((0.1, 0.9), (1.1, 4.0), (2.0, 9.0))
_EITHER_SIGN = ((-0.9, -0.1), (-4.0, -1.0), (-3.0, 3.0), (-9.0, 9.0), (-30.0, 30.0))
# Ranges where the pieces of a function can differ: near zero, far out, whole numbers.
_PIECES = ((1e-4, 1e-2), (-1e-2, -1e-4), (30.0, 2e3), (-2e3, -30.0), (1e5, 1e7), (-1e7, -1e5))
_WHOLE = (-12, 12)
_SMOOTH = frozenset(
    {
        "sin",
        "cos",
        "sinh",
        "cosh",
        "tanh",
        "sech",
        "csch",
        "coth",
        "arctan",
        "tan",
        "cot",
        "sec",
        "csc",
    }
)
_CONSTANT_VALUES = {"pi": mpmath.mp.pi, "e": mpmath.mp.e, "i": mpmath.mpc(0, 1)}
_FUNCTIONS = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot,
    "sec": mpmath.sec, "csc": mpmath.csc, "arcsin": mpmath.asin, "arccos": mpmath.acos,
    "arctan": mpmath.atan, "arccot": mpmath.acot, "sinh": mpmath.sinh, "cosh": mpmath.cosh,
    "tanh": mpmath.tanh, "sech": mpmath.sech, "csch": mpmath.csch, "coth": mpmath.coth,
}  # fmt: skip

Value = Any  # Fraction | mpmath.mpf | mpmath.mpc


class NoValue(Exception):
    """An expression is undefined, is not a number, or is too large to evaluate."""


def to_mpmath(value: Value) -> Value:
    """The value as an mpmath number."""
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def rounding_error() -> Value:
    """The largest relative error that rounding leaves in a difference of equal numbers."""
    return mpmath.mpf(10) ** (12 - mpmath.mp.dps)


def combine(a: Value, b: Value, operator: str) -> Value:
    """a + b, a * b or a / b. Exact for fractions; a sum that cancels to rounding errors is 0."""
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = to_mpmath(a), to_mpmath(b)
    elif max(bits(a), bits(b)) > 2 * MAX_BITS:
        raise NoValue("a rational number with too many digits")
    match operator:
        case "+":
            total = a + b
            if isinstance(a, Fraction):
                return total
            cancelled = mpmath.fabs(total) < rounding_error() * max(mpmath.fabs(a), mpmath.fabs(b))
            return Fraction(0) if cancelled else total
        case "*":
            return a * b
    return a / b


def bits(value: Fraction) -> int:
    """The bit length of the numerator or denominator, whichever is longer."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def is_too_long(a: Value, b: Value) -> bool:
    """Whether a^b is rational but too long to compute exactly."""
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)) or abs(a) in (0, 1):
        return False
    return b.denominator == 1 and abs(b.numerator) * bits(a) > MAX_BITS


def power(a: Value, b: Value) -> Value:
    """a^b; for a negative a and an odd root the real root. 0^0 raises ZeroDivisionError."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        if a == b == 0:
            raise ZeroDivisionError("0^0")
        if abs(b.numerator) * bits(a) <= MAX_BITS and b.denominator < 1000:
            exact = _rational_power(a, b)
            if exact is not None:
                return exact
    negative = not isinstance(a, mpmath.mpc) and a < 0
    if negative and isinstance(b, Fraction) and b.denominator % 2 and b.denominator > 1:
        size = power(-a, b)
        return size if b.numerator % 2 == 0 else -size
    low, high = to_mpmath(a), to_mpmath(b)
    if low == 0:
        if mpmath.re(high) <= 0:
            raise NoValue("0 to a power that is not positive")
        return Fraction(0)
    if mpmath.fabs(high) * (abs(mpmath.log(mpmath.fabs(low))) + 1) > MAX_FLOATING_EXPONENT:
        raise NoValue("too large")
    return mpmath.power(low, high)


def determinant(rows: list[list[Value]]) -> Value:
    """The determinant, expanded along the first row."""
    if len(rows) != len(rows[0]) or len(rows) > MAX_DETERMINANT:
        raise NoValue("a matrix that is not square, or is too large")
    if len(rows) == 1:
        return rows[0][0]
    total: Value = Fraction(0)
    for column, entry in enumerate(rows[0]):
        minor = determinant([[*row[:column], *row[column + 1 :]] for row in rows[1:]])
        total = combine(total, combine(entry, -minor if column % 2 else minor, "*"), "+")
    return total


def _rational_power(a: Fraction, b: Fraction) -> Fraction | None:
    """a^b if that is rational, else None."""
    if b.denominator == 1:
        return a ** int(b)
    if a < 0 and b.denominator % 2 == 0:
        return None
    (over, over_exact), (under, under_exact) = (
        integer_nthroot(abs(part), b.denominator) for part in (a.numerator, a.denominator)
    )
    root = Fraction(over, under) * (-1 if a < 0 else 1)
    return root**b.numerator if over_exact and under_exact else None


def factorial(a: Value) -> Value:
    """a!, by the gamma function where a is not whole."""
    if isinstance(a, Fraction) and a.denominator == 1:
        if not 0 <= a <= MAX_FACTORIAL:
            raise NoValue("a factorial that is negative, or too large to compare exactly")
        return Fraction(math.factorial(int(a)))
    if mpmath.fabs(to_mpmath(a)) > 1e12:
        raise NoValue("too large")
    return mpmath.gamma(to_mpmath(a) + 1)


def binomial(n: Value, k: Value) -> Value:
    """The binomial coefficient n over k."""
    if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1:
        if 0 <= k <= n <= 2 * MAX_FACTORIAL:
            return Fraction(math.comb(int(n), int(k)))
        raise NoValue("a binomial out of range")
    if max(mpmath.fabs(to_mpmath(n)), mpmath.fabs(to_mpmath(k))) > 1e9:
        raise NoValue("too large")
    return mpmath.binomial(to_mpmath(n), to_mpmath(k))


def close(a: Value, b: Value) -> bool:
    """Whether two values are equal: exactly if both are rational, else within rounding errors."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = to_mpmath(a), to_mpmath(b)
    return bool(mpmath.fabs(a - b) <= SAME * max(mpmath.fabs(a), mpmath.fabs(b)))


@lru_cache(maxsize=256)  # enough for the members of two lists; trees can be large
def constant_value(node: Node) -> Value:
    """The value of an expression without unknowns. Raises NoValue if it has unknowns."""
    return value_at(node, {})


def value_at(node: Node, at: Mapping[str, Value]) -> Value:
    """The value of an expression, given its unknowns. Raises NoValue if it has none."""
    try:
        value = _evaluate(node, at)
    except (ValueError, ZeroDivisionError, OverflowError, NoConvergence) as error:
        raise NoValue(str(error)) from error
    if not isinstance(value, Fraction) and not mpmath.isfinite(value):
        raise NoValue("not finite")
    return value


def _evaluate(node: Node, at: Mapping[str, Value]) -> Value:
    kind = node[0]
    match kind:
        case "num":
            return node[1]
        case "sym":
            if node[1] in at:
                return at[node[1]]
            if node[1] not in _CONSTANT_VALUES:
                raise NoValue(f"{node[1]} has no value")
            return +_CONSTANT_VALUES[node[1]]
        case "call":
            return _call(node, at)
        case "base":
            return Fraction(int(node[1], int(node[2])))
        case "det":
            return determinant([[_evaluate(entry, at) for entry in row] for row in node[1:]])
    values = [_evaluate(child, at) for child in node[1:] if isinstance(child, tuple)]
    match kind, values:
        case "add", _:
            return reduce(lambda total, value: combine(total, value, "+"), values)
        case "mul", [a, b]:
            return combine(a, b, "*")
        case (("div" | "ratio"), [a, b]):
            return combine(a, b, "/")
        case "pow", [a, b]:
            if is_too_long(a, b) and not symbols(node):
                raise NoValue("a power too large to compare exactly")
            return power(a, b)
        case "neg", [a]:
            return -a
        case (("deg" | "pct" | "unit"), [a]):
            return a
        case "fact", [a]:
            return factorial(a)
    raise NoValue(f"a {kind} is not a number")


def _call(node: Node, at: Mapping[str, Value]) -> Value:
    name, *inner = node[1:]
    if name == "overline" and (symbols(node) or inner[0][0] == "num"):
        raise NoValue("a bar over an unknown or over digits")
    values = [_evaluate(child, at) for child in inner]
    if name in _FUNCTIONS and len(values) == 1:
        angle = to_mpmath(values[0])
        if mpmath.fabs(angle) > 1e15:
            raise NoValue("too large")
        value = _FUNCTIONS[name](angle)
        if name in ("sech", "csch"):  # these are small far out, without rounding errors
            return value
        return Fraction(0) if mpmath.fabs(value) < rounding_error() * mpmath.fabs(angle) else value
    match name, values:
        case "abs", [a]:
            return abs(a)
        case "log", [a, b]:
            return mpmath.log(to_mpmath(a)) / mpmath.log(to_mpmath(b))
        case (("log" | "ln"), [a]):
            return mpmath.log(to_mpmath(a))
        case "lg", [a]:
            return mpmath.log10(to_mpmath(a))
        case "cbrt", [a]:
            return power(a, Fraction(1, 3))
        case (("floor" | "ceil"), [a]):
            if isinstance(a, Fraction):
                return Fraction(math.floor(a) if name == "floor" else math.ceil(a))
            if mpmath.fabs(a) > 1e30:
                raise NoValue("too large")
            return (mpmath.floor if name == "floor" else mpmath.ceil)(a)
        case (("min" | "max"), [_, *_]) if not any(isinstance(v, mpmath.mpc) for v in values):
            return (min if name == "min" else max)(values, key=to_mpmath)
        case (("gcd" | "lcm"), [Fraction(), *_]) if all(_is_whole(value) for value in values):
            return Fraction((math.gcd if name == "gcd" else math.lcm)(*map(int, values)))
        case "overline", [a]:
            return a if isinstance(a, Fraction) else mpmath.conj(a)
        case "mod", [Fraction() as a, Fraction() as b] if a.denominator == b.denominator == 1:
            return a % b
        case "double", [Fraction() as a] if a.denominator == 1 and 0 <= a <= MAX_FACTORIAL:
            return Fraction(math.prod(range(int(a), 0, -2)))
        case "binom", [n, k]:
            return binomial(n, k)
    raise NoValue(f"unknown function {name}")


def _is_whole(value: Value) -> bool:
    return isinstance(value, Fraction) and value.denominator == 1


def folded(node: Node) -> Node:
    """The tree with its rational parts replaced by their values, where these are short."""
    if node[0] in ("rel", "matrix", "det", "base"):
        return node
    node = map_children(folded, node)
    try:
        value = constant_value(node) if children(node) else None
    except NoValue:
        return node
    return ("num", value) if isinstance(value, Fraction) and bits(value) < 4096 else node


def sample_points(names: frozenset[str], piecewise: bool = False) -> list[dict[str, Value]]:
    """Points at which to compare expressions in these unknowns: first positive, then any sign.

    piecewise: many more points, for functions defined in pieces or only in places.
    """
    source, ordered = random.Random(20_260_101), sorted(names)
    spans = [(span,) for span in _POSITIVE for _ in range(2)]
    spans += [_EITHER_SIGN] * (10 if piecewise else 4)
    spans += [(*_EITHER_SIGN, *_PIECES)] * (12 if piecewise else 0)
    points: list[dict[str, Value]] = [
        {name: _random_value(source, source.choice(choices)) for name in ordered}
        for choices in spans
    ]
    if not piecewise:
        return points
    for moved, span in product(ordered[:4], (*_EITHER_SIGN[:2], *_PIECES)):
        ranges = {name: span if name == moved else (0.5, 5) for name in ordered}
        points.append({name: _random_value(source, ranges[name]) for name in ordered})
    points += [{name: Fraction(source.randint(*_WHOLE)) for name in ordered} for _ in range(10)]
    return points


def _random_value(source: random.Random, span: tuple[float, float]) -> Fraction:
    return Fraction(source.uniform(*span)).limit_denominator(9973)


def identical(one: Node, other: Node) -> bool:
    """Whether two expressions agree wherever both are defined, and are real in the same places.

    Unknowns are real. A point where one side has no value is ignored: it can be a pole that the
    other side has cancelled. Both must have a value at MIN_POINTS or more.
    """
    names = symbols(one) | symbols(other)
    if not names:
        return same_constants(one, other)
    real, complex_ = 0, []
    for at in sample_points(names, _is_piecewise(one) or _is_piecewise(other)):
        try:
            pair = value_at(one, at), value_at(other, at)
        except NoValue:
            continue
        are_real = [_is_real(value) for value in pair]
        if are_real[0] != are_real[1]:
            return False
        if not are_real[0]:
            complex_.append(close(*pair))
        elif close(*pair):
            real += 1
        else:
            return False
    return real >= MIN_POINTS or (real + len(complex_) >= MIN_POINTS and all(complex_))


def same_constants(one: Node, other: Node) -> bool:
    """Whether two expressions without unknowns are equal: exactly if both are rational.

    Else to 40 digits, and once more to several times the digits of the numbers in them, so that
    sqrt(10^100 + 1) differs from 10^50.
    """
    a, b = constant_value(one), constant_value(other)
    if not close(a, b):
        return False
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return True
    digits = int(2 * DIGITS + 3 * (_digits(one) + _digits(other)))
    if digits > MAX_WORKING_DIGITS:
        raise NoValue("too many digits to compare")
    with mpmath.workdps(digits):
        a, b = to_mpmath(value_at(one, {})), to_mpmath(value_at(other, {}))
        size = max(mpmath.fabs(a), mpmath.fabs(b))
        return bool(mpmath.fabs(a - b) <= size * mpmath.mpf(10) ** (40 - digits))


def _digits(node: Node) -> float:
    """The number of digits in a tree, with powers written out."""
    if node[0] == "num":
        return (node[1].numerator.bit_length() + node[1].denominator.bit_length() - 1) / 3.3
    if node[0] == "pow" and isinstance(exponent := constant_value(node[2]), Fraction):
        return _digits(node[1]) * max(1.0, float(abs(exponent)))
    return sum(map(_digits, children(node)))


def _is_piecewise(node: Node) -> bool:
    """Whether a function in the tree can be undefined in places or change its formula."""
    if node[0] == "pow" and symbols(node):
        exponent = node[2]
        while exponent[0] == "neg":
            exponent = exponent[1]
        if exponent[0] != "num" or exponent[1].denominator != 1:
            return True
    if node[0] == "call" and node[1] not in _SMOOTH and symbols(node):
        return True
    return any(map(_is_piecewise, children(node)))


def _is_real(value: Value) -> bool:
    value = to_mpmath(value)
    return bool(mpmath.fabs(mpmath.im(value)) <= SAME * mpmath.fabs(value))
