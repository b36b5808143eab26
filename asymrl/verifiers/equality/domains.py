r"""What stands after a formula: `2n + 1, n \ge 1`, `a_n = 2^n (n \in \mathbb{N})`, a definition.

A condition that only says where the formula is meant adds nothing: a set of numbers that an unknown
ranges over, the first index of a sequence, or the points where the formula has a value. Any other
condition (`x = 3 for x > 5`) is part of the answer. A definition is put in place of its name.
"""

import re
from fractions import Fraction

import mpmath

from asymrl.verifiers.equality.equations import assigned_value
from asymrl.verifiers.equality.families import is_periodic
from asymrl.verifiers.equality.values import NoValue, constant_value, to_mpmath, value_at
from asymrl.verifiers.latex.tree import Node, map_children, symbols

FIRST_INDICES = range(4)  # a sequence starts at one of these
_INDEX = frozenset("ijklmn")
_REAL = frozenset("xyzt")  # a bound on these is no first index
_LOWER, _UPPER = (">", ">="), ("<", "<=")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
_RANGES = ("Z", "R", "C", "Q", "N", "Z+", "Z>=")
_INDEXED = re.compile(r"[A-Za-z]+_([a-z])")


def without_domains(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Both, the one without its domain if only one has one; definitions are put in place."""
    gold, answer = with_definitions(gold), with_definitions(answer)
    bare = _formula(gold), _formula(answer)
    if (bare[0] is None) == (bare[1] is None):
        return gold, answer
    return bare[0] or gold, bare[1] or answer


def with_definitions(node: Node) -> Node:
    """`ab where a = 2` as 2b."""
    if node[0] != "given" or node[2][0] != "rel" or node[2][1] != ("=",):
        return node
    name, value = node[2][2]
    if name[0] != "sym" or name[1] in symbols(value) or name[1] not in symbols(node[1]):
        return node
    if node[1][0] == "rel" and name in node[1][2]:
        return node
    return _replace(node[1], name, value)


def _replace(node: Node, name: Node, value: Node) -> Node:
    return value if node == name else map_children(lambda n: _replace(n, name, value), node)


def _formula(node: Node) -> Node | None:
    """The formula before its domain; None if the node is not a formula with a domain."""
    if node[0] == "given":
        return node[1] if _is_domain(node[2], node[1]) else None
    if node[0] != "list" or len(node) < 3:
        return None
    conditions = [member for member in node[2:] if _subject(member)]
    if len(conditions) != len(node) - 2:
        return None
    return node[1] if all(_is_domain(member, node[1]) for member in conditions) else None


def _subject(condition: Node) -> str:
    """The unknown that a condition is about; empty if it is no condition on one unknown."""
    if condition[0] != "rel" or len(condition[2]) != 2 or condition[1] == ("=",):
        return ""
    sides = [side for side in condition[2] if side[0] == "sym"]
    return sides[0][1] if len(sides) == 1 else ""


def _is_domain(condition: Node, formula: Node) -> bool:
    name = _subject(condition)
    body = formula
    if formula[0] == "rel":
        if formula[1] != ("=",) or (value := assigned_value(formula)) is None:
            return False
        body = value
    if not name or formula[0] in ("list", "tuple", "given") or name not in symbols(body):
        return False
    if body != formula and formula[2][0] == ("sym", name):
        return False
    operator, other = condition[1][0], condition[2][1]
    if operator == "in":
        return other[0] == "field" and _may_range(name, other[1], formula, body)
    if condition[2][1] == ("sym", name):
        operator, other = _FLIPPED[operator], condition[2][0]
    try:
        bound = constant_value(other)
    except NoValue:
        return False
    if not isinstance(bound, Fraction):
        return False
    starts = operator in _LOWER and bound in FIRST_INDICES and bound.denominator == 1
    is_index = _is_index(name, formula) or (len(name) == 1 and name not in _REAL)
    if starts and is_index and not _counts(name, formula, body):
        return True
    return _is_natural(body, name, operator, bound)


def _may_range(name: str, field: str, formula: Node, body: Node) -> bool:
    """Whether the set says nothing new: n in N for a sequence, k in Z for multiples of 5."""
    return field in (("Z",) if _counts(name, formula, body) else _RANGES)


def _counts(name: str, formula: Node, body: Node) -> bool:
    """Whether the unknown counts the solutions (n = 5k, x = k pi), so that 5, 10, ... are fewer."""
    if formula[0] == "rel":
        return name not in symbols(formula[2][0]) and not _is_index(name, formula)
    return name in _INDEX and is_periodic(body, name)


def _is_index(name: str, formula: Node) -> bool:
    """Whether the formula is of a_n, and the name is n."""
    left = formula[2][0] if formula[0] == "rel" else formula
    match = _INDEXED.fullmatch(left[1]) if left[0] == "sym" else None
    return match is not None and match[1] == name


def _is_natural(body: Node, name: str, operator: str, bound: Fraction) -> bool:
    """Whether the formula has no real value where the condition does not hold: 1/x, x != 0."""
    if operator == "!=":
        outside = [bound]
    elif operator in _LOWER:
        outside = [bound - Fraction(1, 7), bound - 3]
    elif operator in _UPPER:
        outside = [bound + Fraction(1, 7), bound + 3]
    else:
        return False
    others = {other: Fraction(3, 2) for other in symbols(body)}
    for point in outside:
        try:
            value = to_mpmath(value_at(body, {**others, name: point}))
        except NoValue:
            continue
        if mpmath.im(value) == 0:
            return False
    return True
