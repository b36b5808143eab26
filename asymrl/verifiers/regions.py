r"""Sets of real numbers: intervals, unions, inequalities, finite sets, as one sorted list.

Knows that (0, 1), 0 < x < 1 and {x : 0 < x < 1} are the same set. A region is a list of intervals
(low, high, low is in it, high is in it), apart from each other; None where the tree is none.
"""

from itertools import pairwise

import mpmath

from asymrl.verifiers.expressions import Node
from asymrl.verifiers.values import Beyond, Value, close, constant, evaluate, number, symbols

Interval = tuple[Value, Value, bool, bool]
Region = list[Interval]

INFINITY = mpmath.inf
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
_ORDERS = frozenset(_FLIPPED)


def is_region(node: Node) -> bool:
    """Whether the tree can only be a set of numbers, so that (a, b) beside it is an interval."""
    match node[0]:
        case "cup" | "cap" | "without" | "field" | "such" | "or":
            return True
        case "rel":
            return bool(_ORDERS & set(node[1])) or (node[1] == ("in",) and is_region(node[2][1]))
        case "tuple":
            ends = [_end(child) for child in node[3:]]
            return len(ends) == 2 and (node[1:3] != ("(", ")") or bool({1, -1} & set(ends)))
        case "list":
            return all(child[0] == "rel" and is_region(child) for child in node[1:])
    return False


def same_region(one: Node, other: Node) -> bool | None:
    """Whether both are the same set; None where one cannot be read as a set of numbers."""
    try:
        first, second = region(one), region(other)
    except Beyond:
        return None
    if first is None or second is None:
        return None
    return len(first) == len(second) and all(
        a[2:] == b[2:] and _level(a[0], b[0]) and _level(a[1], b[1])
        for a, b in zip(first, second, strict=True)
    )


def region(node: Node) -> Region | None:
    """The set as intervals. Beyond where an endpoint has no value."""
    match node[0]:
        case "empty":
            return []
        case "field":
            return [(-INFINITY, INFINITY, False, False)] if node[1] == "R" else None
        case "braces":
            values = [constant(child) for child in node[1:]]
            return merged([(value, value, True, True) for value in values])
        case "tuple":
            return _interval(node)
        case "such":
            return region(node[2])
        case "rel":
            return _relation(node)
    parts = [region(child) for child in node[1:]] if node[0] in _COMBINED else [None]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    match node[0]:
        case "cup" | "or":
            return merged([interval for part in known for interval in part])
        case "without":
            return intersection(known[0], complement(known[1]))
    meeting = known[0]
    for part in known[1:]:
        meeting = intersection(meeting, part)
    if node[0] == "list" and not meeting:  # x < 2, x > 3: meant as alternatives
        return merged([interval for part in known for interval in part])
    return meeting


_COMBINED = ("cup", "or", "cap", "without", "list")


def _end(node: Node) -> int:
    """1 for infinity, -1 for minus infinity, else 0."""
    if node == ("inf",):
        return 1
    return -1 if node == ("neg", ("inf",)) else 0


def _interval(node: Node) -> Region | None:
    opening, closing, *ends = node[1:]
    if len(ends) != 2 or opening == "langle":
        return None
    low, high = (constant(end) if not _end(end) else _end(end) * INFINITY for end in ends)
    if not _real(low) or not _real(high):
        return None
    return merged([(low, high, opening == "[", closing == "]")])


def _real(value: Value) -> bool:
    return not isinstance(value, mpmath.mpc)


def _relation(node: Node) -> Region | None:
    """The values that the unknown of a chain of inequalities may take."""
    operators, operands = node[1], node[2]
    if operators == ("in",):
        return region(operands[1])
    if not set(operators) <= _ORDERS:
        return None
    found: Region = [(-INFINITY, INFINITY, False, False)]
    for operator, (left, right) in zip(operators, pairwise(operands), strict=True):
        part = _inequality(left, operator, right)
        if part is None:
            return None
        found = intersection(found, part)
    names = {symbols(operand) for operand in operands} - {frozenset()}
    return found if len(names) == 1 else None


def _inequality(left: Node, operator: str, right: Node) -> Region | None:
    if not symbols(left):
        left, operator, right = right, _FLIPPED[operator], left
    if _end(right):
        bound, operator = _end(right) * INFINITY, operator
    elif symbols(right) or not symbols(left):
        return None
    else:
        bound = number(constant(right))
        names = symbols(left)
        if len(names) == 1 and (line := _line(left, *names)):
            slope, start = line
            bound = (bound - start) / slope if slope else bound
            operator = _FLIPPED[operator] if slope < 0 else operator
    if not _real(bound):
        return None
    match operator:
        case "<" | "<=":
            return merged([(-INFINITY, bound, False, operator == "<=")])
        case ">" | ">=":
            return merged([(bound, INFINITY, operator == ">=", False)])
    return [(-INFINITY, bound, False, False), (bound, INFINITY, False, False)]


def _line(node: Node, name: str) -> tuple[Value, Value] | None:
    """(m, b) of an expression m x + b; None if it is no such thing."""
    at = [number(evaluate(node, {name: mpmath.mpf(x)})) for x in (1, 2, 5)]
    slope = at[1] - at[0]
    if not all(map(_real, at)) or not close(at[2], at[0] + 4 * slope) or close(slope, 0 * slope):
        return None
    return slope, at[0] - slope


def _level(a: Value, b: Value) -> bool:
    """Whether two endpoints are the same."""
    if abs(number(a)) == INFINITY or abs(number(b)) == INFINITY:
        return number(a) == number(b)
    return close(a, b)


def merged(intervals: Region) -> Region:
    """The union, sorted, with intervals that touch made one."""
    found: Region = []
    proper = [i for i in intervals if not _nothing(i)]
    for low, high, with_low, with_high in sorted(proper, key=lambda i: (number(i[0]), not i[2])):
        if found:
            before = found[-1]
            touches = _level(before[1], low)
            if (touches and (before[3] or with_low)) or (
                not touches and number(low) < number(before[1])
            ):
                if _level(before[1], high):
                    found[-1] = (*before[:3], before[3] or with_high)
                elif number(high) > number(before[1]):
                    found[-1] = (before[0], high, before[2], with_high)
                continue
        found.append((low, high, with_low, with_high))
    return found


def _nothing(interval: Interval) -> bool:
    low, high, with_low, with_high = interval
    if _level(low, high):
        return not (with_low and with_high)
    return number(low) > number(high)


def complement(of: Region) -> Region:
    found: Region = []
    low, with_low = -INFINITY, False
    for start, end, with_start, with_end in of:
        found.append((low, start, with_low, not with_start))
        low, with_low = end, not with_end
    return merged([*found, (low, INFINITY, with_low, False)])


def intersection(one: Region, other: Region) -> Region:
    return complement(merged(complement(one) + complement(other)))
