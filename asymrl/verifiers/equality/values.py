r"""Numbers: rational ones exactly, the rest to 60 digits; sums, powers, factorials, bounded.

Knows no trees. A value is a Fraction, or an mpmath number, real or complex. What is undefined
(0/0, 0^0) raises ZeroDivisionError, what is too large to be worked out raises Beyond.

Trees -> values: what an expression is worth, exactly where it is rational, else to 60 digits.

Knows elementary functions and sampling; not answers. Two expressions are the same when they are at
every sample point: an identity test (Schwartz-Zippel for polynomials) that never has to simplify,
so that its time is bounded by the size of the tree. Rational arithmetic is exact, so that 0 and
10^{-20}, or 2^{2005}+1 and 2^{2005}-1, are told apart. What is beyond the bounds of `arithmetic`
raises Beyond, and counts as equal to nothing but itself.
"""

import math
import random
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath
from mpmath.libmp import NoConvergence

from asymrl.verifiers.latex.tree import Node

DIGITS = 60
mpmath.mp.dps = DIGITS
SAME = mpmath.mpf(10) ** -40  # relative; what rounding at 60 digits leaves is far below it
MAX_BITS = 100_000  # of an exact power or factorial
MAX_EXPONENT = 1 << 62  # of an inexact one
MAX_FACTORIAL = 5_000
MAX_DETERMINANT = 5

Value = Any  # Fraction | mpmath.mpf | mpmath.mpc


class Beyond(Exception):
    """Undefined, not a number, or too large to be worked out."""


def number(value: Value) -> Value:
    """As an mpmath number."""
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def negligible() -> Value:
    """What rounding may leave of a difference, relative to what was subtracted."""
    return mpmath.mpf(10) ** (12 - mpmath.mp.dps)


def mix(a: Value, b: Value, operator: str) -> Value:
    """a + b, a * b or a / b."""
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = number(a), number(b)
    elif max(bits(a), bits(b)) > 2 * MAX_BITS:
        raise Beyond("too long")
    match operator:
        case "+":
            total = a + b
            if isinstance(a, Fraction):
                return total
            cancelled = mpmath.fabs(total) < negligible() * max(mpmath.fabs(a), mpmath.fabs(b))
            return Fraction(0) if cancelled else total
        case "*":
            return a * b
    return a / b


def bits(value: Fraction) -> int:
    """Of its longer half."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def too_long(a: Value, b: Value) -> bool:
    """Whether a^b is a rational number that is not worked out exactly."""
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)) or abs(a) in (0, 1):
        return False
    return b.denominator == 1 and abs(b.numerator) * bits(a) > MAX_BITS


def power(a: Value, b: Value) -> Value:
    """a^b; the real root of a negative number where its index is odd."""
    if isinstance(b, Fraction):
        if isinstance(a, Fraction):
            if a == 0 and b == 0:
                raise ZeroDivisionError("0^0")
            if abs(b.numerator) * bits(a) <= MAX_BITS and b.denominator < 1000:
                exact = _rational_power(a, b)
                if exact is not None:
                    return exact
        if b.denominator > 1 and b.denominator % 2 and _is_negative(a):
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


def _is_negative(value: Value) -> bool:
    return not isinstance(value, mpmath.mpc) and value < 0


def determinant(rows: list[list[Value]]) -> Value:
    """Along the first row."""
    if len(rows) != len(rows[0]) or len(rows) > MAX_DETERMINANT:
        raise Beyond("no determinant, or too large a one")
    if len(rows) == 1:
        return rows[0][0]
    total: Value = Fraction(0)
    for column, entry in enumerate(rows[0]):
        minor = determinant([[*row[:column], *row[column + 1 :]] for row in rows[1:]])
        total = mix(total, mix(entry, -minor if column % 2 else minor, "*"), "+")
    return total


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
    """a!, and the gamma function between whole numbers."""
    if isinstance(a, Fraction) and a.denominator == 1:
        if a < 0:
            raise Beyond("the factorial of a negative number")
        if a > MAX_FACTORIAL:
            raise Beyond("too large to be told from its neighbours")
        return Fraction(math.factorial(int(a)))
    if mpmath.fabs(number(a)) > 1e12:
        raise Beyond("too large")
    return mpmath.gamma(number(a) + 1)


def double_factorial(a: Value) -> Value:
    """a!!: a (a - 2) (a - 4) ..."""
    if not isinstance(a, Fraction) or a.denominator > 1 or not 0 <= a <= MAX_FACTORIAL:
        raise Beyond("a double factorial out of range")
    return Fraction(math.prod(range(int(a), 0, -2)))


def binomial(n: Value, k: Value) -> Value:
    """n over k."""
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


DECIDED = 3  # points at which both sides must have a value
MAX_DIGITS = 5_000
# Ranges of a value: positive ones first, since much is defined only there.
_POSITIVE = ((0.1, 0.9), (1.1, 4.0), (2.0, 9.0))
_EITHER = ((-0.9, -0.1), (-4.0, -1.0), (-3.0, 3.0), (-9.0, 9.0), (-30.0, 30.0))
# Where pieces meet: near zero, far out, whole numbers.
_PIECES = ((1e-4, 1e-2), (-1e-2, -1e-4), (30.0, 2e3), (-2e3, -30.0), (1e5, 1e7), (-1e7, -1e5))
_WHOLE = (-12, 12)
_SMOOTH = frozenset({"sin", "cos", "sinh", "cosh", "tanh", "arctan", "tan", "cot", "sec", "csc"})
_CONSTANTS = {"pi": mpmath.mp.pi, "e": mpmath.mp.e, "i": mpmath.mpc(0, 1)}
_FUNCTIONS = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot,
    "sec": mpmath.sec, "csc": mpmath.csc, "arcsin": mpmath.asin, "arccos": mpmath.acos,
    "arctan": mpmath.atan, "arccot": mpmath.acot, "sinh": mpmath.sinh, "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
}  # fmt: skip


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly inside one."""
    if node[0] == "rel":
        return node[2]
    if node[0] in ("matrix", "det"):
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


@lru_cache(maxsize=256)  # the members of two lists; trees may be large
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
        case "det":
            return determinant([[_evaluate(entry, at) for entry in row] for row in node[1:]])
    values = [_evaluate(child, at) for child in node[1:] if isinstance(child, tuple)]
    match kind, values:
        case "add", _:
            total = values[0]
            for value in values[1:]:
                total = mix(total, value, "+")
            return total
        case (("mul" | "div"), [a, b]):
            return mix(a, b, "*" if kind == "mul" else "/")
        case "pow", [a, b]:
            if too_long(a, b) and not symbols(node):
                raise Beyond("a whole number too long to be told from its neighbours")
            return power(a, b)
        case "neg", [a]:
            return -a
        case (("deg" | "pct" | "unit"), [a]):
            return a
        case "fact", [a]:
            return factorial(a)
        case "ratio", [a, b]:
            return mix(a, b, "/")
    raise Beyond(f"a {kind} is no number")


def _called(node: Node, at: Mapping[str, Value]) -> Value:
    name, *inner = node[1:]
    if name == "overline" and (symbols(node) or inner[0][0] == "num"):
        raise Beyond("the conjugate of an unknown, or digits")
    values = [_evaluate(child, at) for child in inner]
    if name in _FUNCTIONS and len(values) == 1:
        angle = number(values[0])
        if mpmath.fabs(angle) > 1e15:
            raise Beyond("too large")
        value = _FUNCTIONS[name](angle)
        return Fraction(0) if mpmath.fabs(value) < negligible() * mpmath.fabs(angle) else value
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
        case (("min" | "max"), [_, *_]) if not any(isinstance(v, mpmath.mpc) for v in values):
            return (min if name == "min" else max)(values, key=number)
        case "overline", [a]:
            return a if isinstance(a, Fraction) else mpmath.conj(a)
        case "mod", [Fraction() as a, Fraction() as b] if a.denominator == b.denominator == 1:
            return a % b
        case "double", [a]:
            return double_factorial(a)
        case "binom", [n, k]:
            return binomial(n, k)
    raise Beyond(f"{name} is unknown")


def folded(node: Node) -> Node:
    """The tree with its rational parts worked out, where they are short."""
    if node[0] in ("rel", "matrix", "det", "base"):
        return node
    node = tuple(folded(part) if isinstance(part, tuple) else part for part in node)
    try:
        value = constant(node) if children(node) else None
    except Beyond:
        return node
    return ("num", value) if isinstance(value, Fraction) and bits(value) < 4096 else node


def points(names: frozenset[str], pieces: bool = False) -> list[dict[str, Value]]:
    """Where to compare expressions in these unknowns: all positive, then of any sign each.

    pieces: many more, for functions that are made of pieces or defined in places.
    """
    source = random.Random(20_260_101)
    spans = [(span,) for span in _POSITIVE for _ in range(2)]
    spans += [_EITHER] * (10 if pieces else 4)
    spans += [(*_EITHER, *_PIECES)] * (12 if pieces else 0)
    found: list[dict[str, Value]] = [
        {name: _drawn(source, source.choice(choices)) for name in sorted(names)}
        for choices in spans
    ]
    if pieces:
        # one unknown alone is taken everywhere
        found += [
            {name: _drawn(source, span if name == moved else (0.5, 5)) for name in sorted(names)}
            for moved in sorted(names)[:4]
            for span in (*_EITHER[:2], *_PIECES)
        ]
        whole = range(10)
        found += [{n: Fraction(source.randint(*_WHOLE)) for n in sorted(names)} for _ in whole]
    return found


def _drawn(source: random.Random, span: tuple[float, float]) -> Fraction:
    return Fraction(source.uniform(*span)).limit_denominator(9973)


def identical(one: Node, other: Node) -> bool:
    """Whether two expressions agree wherever they are defined, and are real in the same places.

    Unknowns are taken as real. At least three points must decide. A point where one side has no
    value (it may be a pole that the other has cancelled) decides nothing.
    """
    names = symbols(one) | symbols(other)
    if not names:
        return same_constants(one, other)
    real, complex_ = [], []
    for at in points(names, _has_pieces(one) or _has_pieces(other)):
        try:
            pair = evaluate(one, at), evaluate(other, at)
        except Beyond:
            continue
        are_real = [_is_real(value) for value in pair]
        if are_real[0] != are_real[1]:
            return False
        agree = close(*pair)
        if are_real[0]:
            if not agree:
                return False
            real.append(agree)
        else:
            complex_.append(agree)
    if len(real) >= DECIDED:
        return True
    return len(real) + len(complex_) >= DECIDED and all(complex_)


def same_constants(one: Node, other: Node) -> bool:
    """Equal to 40 digits, and to several times those that the numbers in them have."""
    a, b = constant(one), constant(other)
    if not close(a, b):
        return False
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return True
    digits = int(2 * DIGITS + 3 * (_digits(one) + _digits(other)))
    if digits > MAX_DIGITS:
        raise Beyond("too long to be told apart")
    with mpmath.workdps(digits):
        a, b = number(evaluate(one, {})), number(evaluate(other, {}))
        size = max(mpmath.fabs(a), mpmath.fabs(b))
        return bool(mpmath.fabs(a - b) <= size * mpmath.mpf(10) ** (40 - digits))


def _digits(node: Node) -> float:
    """Of the numbers in a tree, together; of a power as if it were written out."""
    if node[0] == "num":
        return (node[1].numerator.bit_length() + node[1].denominator.bit_length() - 1) / 3.3
    if node[0] == "pow" and isinstance(exponent := constant(node[2]), Fraction):
        return _digits(node[1]) * max(1.0, float(abs(exponent)))
    return sum(map(_digits, children(node)))


def _has_pieces(node: Node) -> bool:
    """Whether a function in the tree may be defined, or given by a formula, only in places."""
    if node[0] == "pow" and symbols(node):
        exponent = node[2]
        while exponent[0] == "neg":
            exponent = exponent[1]
        if exponent[0] != "num" or exponent[1].denominator != 1:
            return True
    if node[0] == "call" and node[1] not in _SMOOTH and symbols(node):
        return True
    return any(map(_has_pieces, children(node)))


def _is_real(value: Value) -> bool:
    value = number(value)
    return bool(mpmath.fabs(mpmath.im(value)) <= SAME * mpmath.fabs(value))
