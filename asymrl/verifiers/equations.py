r"""Equations: which are assignments, what they assign, and when two say the same.

Knows `rel` trees. `x = 5`, `f(x) = x + 1`, `AB = 4`, `x = 3 + 4 = 7` and `3 + 4 = 7` name a value;
`2x + z = 1` names none. Two equations are the same when one is a multiple of the other.
"""

from collections.abc import Callable, Mapping

import mpmath

from asymrl.verifiers.expressions import Node
from asymrl.verifiers.values import (
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

ROUNDED = 0.02  # how far apart, relatively, the two sides of an approximation may be


def assigned(node: Node, whole: bool = True) -> Node | None:
    """What an equation says that something is; None if it says no such thing.

    Of a chain the last value, if all its values agree; of an approximation the exact side. whole:
    a name must be there (a gold `3 + 4 = 7` is an equation, an answer may show its work).
    """
    if node[0] != "rel" or not set(node[1]) <= {"=", "~", "in"}:
        return None
    operators, operands, labels = node[1:]
    if "in" in operators:
        return operands[-1] if operators == ("in",) and labels[0] else None
    values = [o for o, label in zip(operands[:-1], labels, strict=False) if not label]
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
        names = [[o for o, label in zip(n[2], n[3], strict=True) if label] for n in (gold, answer)]
        if _share_a_name(names[0], names[1]) and same(values[0], values[1]):
            return True
        if len(expand_tuples(gold)) == 1 < len(expand_tuples(answer)):
            return False
    gold, answer = _ascending(gold), _ascending(answer)
    if gold[1] != answer[1]:
        return False
    if len(gold[1]) == 1 and _multiples(gold, answer, gold[1][0]):
        return True
    return len(gold[2]) == len(answer[2]) and all(map(same, gold[2], answer[2]))


def _share_a_name(golds: list[Node], answers: list[Node]) -> bool:
    return any(gold == answer for gold in golds for answer in answers)


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

    A constant one (positive, for inequalities), or powers of unknowns that neither side has as a
    solution: xy = 6 and y = 6/x.
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
    """Whether an equation can hold where the unknown is 0."""
    for at in points(names)[:3]:
        for side in (one, other):
            try:
                if close(evaluate(side, at | {name: mpmath.mpf(0)}), mpmath.mpf(0)):
                    return True
            except Beyond:
                continue
    return False


def solves(expression: Node, equation: Node) -> bool:
    """Whether y = expression solves an equation in y identically: the answer as a function of x."""
    if equation[1] != ("=",) or "y" in symbols(expression) or not symbols(expression):
        return False
    names = symbols(equation) | symbols(expression)
    if "y" not in names:
        return False
    difference, checked = _difference(equation), 0
    for at in points(names - {"y"}):
        try:
            value = evaluate(expression, at)
            if not close(evaluate(difference, at | {"y": value}), mpmath.mpf(0)):
                return False
        except Beyond:
            continue
        checked += 1
    return checked >= 3
