"""Numbers: rational ones exactly, the rest to 60 digits; sums, powers, factorials, bounded.

Knows no trees. A value is a Fraction, or an mpmath number, real or complex. What is undefined
(0/0, 0^0) raises ZeroDivisionError, what is too large to be worked out raises Beyond.
"""

import math
from fractions import Fraction
from typing import Any

import mpmath

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
