r"""Equations: which are assignments, what they assign, and when two say the same.

Knows `rel` trees. `x = 5`, `f(x) = x + 1`, `AB = 4`, `x = 3 + 4 = 7` and `3 + 4 = 7` name a value;
`2x + z = 1` names none. Two equations are the same when one is a multiple of the other.

Expressions as m x + b, read off their trees.

Knows structure and samples nothing: |x| and a floor are straight between some points and no lines.
Coefficients are trees too, so that they may hold other unknowns; a product of two factors with the
unknown is no line, whatever may cancel.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction

import mpmath

from asymrl.verifiers.equality.values import (
    Beyond,
    Value,
    close,
    constant,
    evaluate,
    identical,
    number,
    points,
    symbols,
)
from asymrl.verifiers.latex.tree import Node

ROUNDED = 0.02  # how far apart, relatively, the two sides of an approximation may be


def assigned(node: Node, whole: bool = True) -> Node | None:
    """What an equation says that something is; None if it says no such thing.

    Of a chain the last value, if all its values agree; of an approximation the exact side. whole:
    a name must be there (a gold `3 + 4 = 7` is an equation, an answer may show its work).
    """
    if node[0] != "rel" or not set(node[1]) <= {"=", "~", "in"}:
        return None
    operators, operands, labels = _name_first(node)[1:]
    if "in" in operators:
        return operands[-1] if operators == ("in",) and labels[0] else None
    values = [o for o, label in zip(operands[:-1], labels, strict=False) if not label]
    if labels[0] and len(operands) > 2 and not symbols(operands[-2]):
        values += operands[-2:-1] if labels[-2] else ()  # pi of x = pi = 3.14
    if not labels[0] and (symbols(operands[0]) or (whole and "~" not in operators)):
        return None
    values.append(operands[-1])
    exact = [v for v, operator in zip(operands[1:], operators, strict=True) if operator == "="]
    for one in values[:-1]:
        if not _agree(one, values[-1], rough="~" in operators):
            return None
    if operators[-1] == "~" and len(values) > 1:
        return values[-2]
    return values[-1] if exact or values else None


def _name_first(node: Node) -> Node:
    """5 = x turned round; nothing else is."""
    operators, operands, labels = node[1:]
    named = set(operators) == {"="} and labels[-1] and symbols(operands[-1])
    if not named or any(map(symbols, operands[:-1])):
        return node
    return ("rel", operators, operands[::-1], labels[::-1])


def _agree(one: Node, other: Node, rough: bool) -> bool:
    if one == other:
        return True
    try:
        if symbols(one) or symbols(other):
            return identical(one, other)
        a, b = number(constant(one)), number(constant(other))
    except Beyond:
        return False
    if rough:
        return bool(mpmath.fabs(a - b) <= ROUNDED * mpmath.fabs(a))
    return close(a, b)


def expand_tuples(node: Node) -> list[Node]:
    """(x, y) = (1, 2) as x = 1, y = 2; anything else as the one member that it is."""
    if node[0] == "rel" and node[1] == ("=",):
        left, right = node[2]
        if left[0] == right[0] == "tuple" and len(left) == len(right):
            pairs = zip(left[3:], right[3:], strict=True)
            return [("rel", ("=",), pair, (True, False)) for pair in pairs]
    return [node]


def same_equation(gold: Node, answer: Node, same: Callable[[Node, Node], bool]) -> bool:
    """Two relations: the same assignment, multiples of each other, or alike part by part."""
    values = assigned(gold), assigned(answer)
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
    """What is written like a name before the value: x and y of x = y = 5, y alone of y = x."""
    operands, labels = _name_first(node)[2:]
    return {o for o, label in zip(operands[:-1], labels, strict=False) if label}


def _ascending(node: Node) -> Node:
    """A chain of > turned round."""
    operators, operands, labels = node[1:]
    if operators and set(operators) <= {">", ">="}:
        turned = tuple({">": "<", ">=": "<="}[operator] for operator in reversed(operators))
        return ("rel", turned, operands[::-1], labels[::-1])
    return node


def _difference(node: Node) -> Node:
    return ("add", node[2][0], ("neg", node[2][1]))


def _multiples(gold: Node, answer: Node, operator: str) -> bool:
    """Whether left minus right of both differ by a factor that loses and adds no solution.

    A constant one (positive, for inequalities), or powers of unknowns that cannot be 0 in either:
    xy = 6 and y = 6/x. An equation that holds everywhere is a multiple of none.
    """
    one, other = _difference(gold), _difference(answer)
    names = symbols(one) | symbols(other)
    if not names or operator == "in":
        return False
    ratios = []
    for at in points(names):
        try:
            ratios.append((at, number(evaluate(one, at)) / number(evaluate(other, at))))
        except (Beyond, ZeroDivisionError):
            continue
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
    for powers in ({name: power} for name in free for power in (-2, -1, 1, 2)):
        scaled = [r * _monomial(at, powers) for at, r in ratios]
        if all(close(scaled[0], ratio) for ratio in scaled):
            return True
    return False


def _monomial(at: Mapping[str, Value], powers: Mapping[str, int]) -> Value:
    product = mpmath.mpf(1)
    for name, power in powers.items():
        product *= number(at[name]) ** power
    return product


def _may_vanish(one: Node, other: Node, name: str, names: frozenset[str]) -> bool:
    """Whether an equation holds where the unknown is 0 and all others are what they may be: then
    multiplying by the unknown adds such solutions. PV = nRT is P = nRT/V, x = 4 not x^2 = 4x."""
    for at in points(names)[:3]:
        for side in (one, other):
            try:
                if close(evaluate(side, at | {name: Fraction(0)}), Fraction(0)):
                    return True
            except Beyond:
                continue
    return False


def solves(expression: Node, equation: Node) -> bool:
    """Whether an equation in y, linear by a fixed factor, says y = expression: a function of x.

    Where y stands squared or under a root, one expression is one branch and no answer.
    """
    if equation[1] != ("=",) or "y" in symbols(expression) or not symbols(expression):
        return False
    parts = line(_difference(equation), "y")
    if parts is None or parts[0] == ZERO or symbols(parts[0]):
        return False
    return identical(expression, ("neg", ("div", parts[1], parts[0])))


ZERO: Node = ("num", Fraction(0))
ONE: Node = ("num", Fraction(1))

Line = tuple[Node, Node]


def line(node: Node, name: str) -> Line | None:
    """(m, b), both free of the unknown; m is ZERO where it does not occur, None for no line."""
    if name not in symbols(node):
        return ZERO, node
    match node:
        case ("sym", _):
            return ONE, ZERO
        case ("neg", inner):
            parts = line(inner, name)
            return parts and (("neg", parts[0]), ("neg", parts[1]))
        case ("add", *terms):
            lines = [line(term, name) for term in terms]
            known = [parts for parts in lines if parts]
            if len(known) < len(lines):
                return None
            return ("add", *(m for m, _ in known)), ("add", *(b for _, b in known))
        case ("mul", one, other):
            varying, factor = (one, other) if name in symbols(one) else (other, one)
            parts = line(varying, name)
            if parts is None or name in symbols(factor):
                return None
            return ("mul", factor, parts[0]), ("mul", factor, parts[1])
        case ("div", over, under) if name not in symbols(under):
            parts = line(over, name)
            return parts and (("div", parts[0], under), ("div", parts[1], under))
    return None
