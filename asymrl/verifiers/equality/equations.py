r"""Equations: which ones assign a value, what they assign, and when two are the same.

Knows `rel` trees. `x = 5`, `f(x) = x + 1`, `AB = 4`, `x = 3 + 4 = 7` and `3 + 4 = 7` assign a
value; `2x + z = 1` does not. Two equations are the same if one is a multiple of the other.
"""

import contextlib
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import mpmath

from asymrl.verifiers.equality.values import (
    NoValue,
    close,
    constant_value,
    identical,
    sample_points,
    to_mpmath,
    value_at,
)
from asymrl.verifiers.latex.tree import ONE, ZERO, Node, symbols

APPROXIMATION = 0.02  # relative difference allowed between the two sides of an approximation


def assigned_value(node: Node, named: bool = True) -> Node | None:
    """The value that an equation assigns; None if it assigns none.

    For a chain: its last value, if all values agree. For an approximation: its exact side.
    named: require a name on the left (a gold `3 + 4 = 7` is an equation, but an answer can show its
    work).
    """
    if node[0] != "rel" or not set(node[1]) <= {"=", "~", "in"}:
        return None
    operators, operands, labels = _name_first(node)[1:]
    if "in" in operators:
        return operands[-1] if operators == ("in",) and labels[0] else None
    values = [o for o, label in zip(operands[:-1], labels, strict=False) if not label]
    if labels[0] and len(operands) > 2 and not symbols(operands[-2]):
        values += operands[-2:-1] if labels[-2] else ()  # pi of x = pi = 3.14
    if not labels[0] and symbols(operands[0]):
        if named or len(operands) > 2 or not is_quantity(operands[0], operands[1]):
            return None
        return operands[1]
    if not labels[0] and named and "~" not in operators:
        return None
    values.append(operands[-1])
    if not all(_agree(value, values[-1], rough="~" in operators) for value in values[:-1]):
        return None
    return values[-2] if operators[-1] == "~" and len(values) > 1 else values[-1]


_CURVE = frozenset("xyz")


def is_quantity(left: Node, right: Node) -> bool:
    """Whether `left = right` says how much a quantity is (`a + b + c = 12`), and is no equation.

    The quantity is a product, a root or a function of unknowns, or a sum of several; the right side
    is a number other than 0. An equation in one unknown is to be solved, and one in x, y and z with
    powers or coefficients is a curve.
    """
    if symbols(right) or right == ZERO:
        return False
    while left[0] == "neg":
        left = left[1]
    if left[0] in ("pow", "fact", "deg"):
        return left[1][0] != "add"
    if left[0] == "call":
        return True
    if left[0] in ("mul", "div"):
        factors = left[1:]
        if left[0] == "mul" and any(map(_is_sum, factors)):
            several = len(symbols(left)) > 1 and not symbols(left) <= _CURVE
            return several and all(map(_is_sum, factors))
        return all(is_quantity(factor, right) for factor in factors if not _is_atom(factor))
    if left[0] != "add" or len(symbols(left)) < 2:
        return False
    terms = [term[1] if term[0] == "neg" else term for term in left[1:]]
    return not symbols(left) <= _CURVE or all(term[0] == "sym" for term in terms)


def _is_atom(node: Node) -> bool:
    return node[0] in ("num", "sym", "unit") or not symbols(node)


def _is_sum(node: Node) -> bool:
    return node[0] == "add" and bool(symbols(node))


def _name_first(node: Node) -> Node:
    """The relation with its name first: x = 5 for 5 = x. Any other relation is unchanged."""
    operators, operands, labels = node[1:]
    reversible = set(operators) == {"="} and labels[-1] and symbols(operands[-1])
    if not reversible or any(map(symbols, operands[:-1])):
        return node
    return ("rel", operators, operands[::-1], labels[::-1])


def _agree(one: Node, other: Node, rough: bool) -> bool:
    try:
        if one == other or not rough or symbols(one) or symbols(other):
            return one == other or identical(one, other)
        a, b = to_mpmath(constant_value(one)), to_mpmath(constant_value(other))
    except NoValue:
        return False
    return bool(mpmath.fabs(a - b) <= APPROXIMATION * mpmath.fabs(a))


def expand_tuples(node: Node) -> list[Node]:
    """(x, y) = (1, 2) as x = 1, y = 2. Any other node as the only member of a list."""
    if node[0] == "rel" and node[1] == ("=",):
        left, right = node[2]
        if left[0] == right[0] == "tuple" and len(left) == len(right):
            pairs = zip(left[3:], right[3:], strict=True)
            return [("rel", ("=",), pair, (True, False)) for pair in pairs]
    return [node]


def same_equation(gold: Node, answer: Node, same: Callable[[Node, Node], bool]) -> bool:
    """Whether two relations assign the same value, are multiples, or have the same parts."""
    values = assigned_value(gold), assigned_value(answer)
    if values[0] and values[1]:
        if _names(gold) & _names(answer) and same(values[0], values[1]):
            return True
        if len(expand_tuples(gold)) == 1 < len(expand_tuples(answer)):
            return False
    gold, answer = _ascending(gold), _ascending(answer)
    if gold[1] != answer[1]:
        return False
    if len(gold[1]) == 1 and _multiples(gold, answer, gold[1][0]):
        return True
    return len(gold[2]) == len(answer[2]) and all(map(same, gold[2], answer[2]))


def _names(node: Node) -> set[Node]:
    """The names before the value: x and y in x = y = 5, only y in y = x."""
    operands, labels = _name_first(node)[2:]
    return {o for o, label in zip(operands[:-1], labels, strict=False) if label}


def _ascending(node: Node) -> Node:
    """A chain of > as a chain of <."""
    operators, operands, labels = node[1:]
    if operators and set(operators) <= {">", ">="}:
        turned = tuple({">": "<", ">=": "<="}[operator] for operator in reversed(operators))
        return ("rel", turned, operands[::-1], labels[::-1])
    return node


def _difference(node: Node) -> Node:
    return ("add", node[2][0], ("neg", node[2][1]))


def _multiples(gold: Node, answer: Node, operator: str) -> bool:
    """Whether (left - right) of both differ by a factor that neither loses nor adds a solution.

    Such a factor is a constant (positive, for inequalities), or a power of an unknown that cannot
    be 0 in either: xy = 6 and y = 6/x. An equation that always holds has no multiples.
    """
    one, other = _difference(gold), _difference(answer)
    names = symbols(one) | symbols(other)
    if not names or operator == "in":
        return False
    ratios = []
    for at in sample_points(names):
        with contextlib.suppress(NoValue, ZeroDivisionError):
            ratios.append((at, to_mpmath(value_at(one, at)) / to_mpmath(value_at(other, at))))
    if len(ratios) < 3 or any(abs(mpmath.im(ratio)) > 1e-20 for _, ratio in ratios):
        return False
    first = ratios[0][1]
    if first == 0:
        return False
    if all(close(first, ratio) for _, ratio in ratios):
        return operator in ("=", "!=", "~") or mpmath.re(first) > 0
    if operator != "=":
        return False
    free = [name for name in names if not _may_vanish(one, other, name, names)]
    for name, power in product(free, (-2, -1, 1, 2)):
        scaled = [ratio * to_mpmath(at[name]) ** power for at, ratio in ratios]
        if all(close(scaled[0], ratio) for ratio in scaled):
            return True
    return False


def _may_vanish(one: Node, other: Node, name: str, names: frozenset[str]) -> bool:
    """Whether an equation can hold where the unknown is 0: multiplying by it adds solutions.

    Tried with the other unknowns at sample points. PV = nRT is P = nRT/V; x = 4 is not x^2 = 4x.
    """
    zero = Fraction(0)
    for at, side in product(sample_points(names)[:3], (one, other)):
        with contextlib.suppress(NoValue):
            if close(value_at(side, at | {name: zero}), zero):
                return True
    return False


def solves(expression: Node, equation: Node) -> bool:
    """Whether an equation that is linear in y, with a constant factor, means y = expression.

    Not where y is squared or under a root: one expression is then only one branch.
    """
    if equation[1] != ("=",) or "y" in symbols(expression) or not symbols(expression):
        return False
    parts = linear_form(_difference(equation), "y")
    if parts is None or parts[0] == ZERO or symbols(parts[0]):
        return False
    return identical(expression, ("neg", ("div", parts[1], parts[0])))


def linear_form(node: Node, name: str) -> tuple[Node, Node] | None:
    """(m, b) of m x + b, read off the tree; None if the tree has another form.

    m and b are trees without the unknown; m is ZERO where the unknown does not occur. Nothing is
    sampled, since |x| and floors are straight between some points. A product of two factors with
    the unknown has no linear form, even if terms would cancel.
    """
    if name not in symbols(node):
        return ZERO, node
    match node:
        case ("sym", _):
            return ONE, ZERO
        case ("neg", inner):
            parts = linear_form(inner, name)
            return parts and (("neg", parts[0]), ("neg", parts[1]))
        case ("add", *terms):
            forms = [parts for term in terms if (parts := linear_form(term, name))]
            if len(forms) < len(terms):
                return None
            return ("add", *(m for m, _ in forms)), ("add", *(b for _, b in forms))
        case ("mul", one, other):
            varying, factor = (one, other) if name in symbols(one) else (other, one)
            parts = linear_form(varying, name)
            if parts is None or name in symbols(factor):
                return None
            return ("mul", factor, parts[0]), ("mul", factor, parts[1])
        case ("div", over, under) if name not in symbols(under):
            parts = linear_form(over, name)
            return parts and (("div", parts[0], under), ("div", parts[1], under))
    return None
