r"""Sets of real numbers: intervals, unions, inequalities, finite sets, as one sorted list.

Knows that (0, 1), 0 < x < 1 and {x : 0 < x < 1} are the same set. A region is a list of intervals
(low, high, low is in it, high is in it), apart from each other. Inequalities are read where they
can be solved surely: both sides linear in one unknown, or the absolute value of such beside a
number. What is no such set is None, and is compared by its parts elsewhere.
"""

from collections.abc import Sequence
from itertools import pairwise

import mpmath

from asymrl.verifiers.equality.equations import line
from asymrl.verifiers.equality.values import Beyond, Value, close, constant, number, symbols
from asymrl.verifiers.latex.tree import Node

Interval = tuple[Value, Value, bool, bool]
Region = list[Interval]

INFINITY = mpmath.inf
MAX_CONDITIONS = 60  # that are put together one by one
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
_ORDERS = frozenset(_FLIPPED)
_LINE: Region = [(-INFINITY, INFINITY, False, False)]
_SETS = ("cup", "cap", "without")


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
    """Whether both are the same set, or the same sets of the same unknowns; None: not known."""
    try:
        first, second = regions(one), regions(other)
    except Beyond:
        return None
    if not first or not second:
        return None
    if len(first) == len(second) == 1 and ("" in first or "" in second):
        return all(map(_alike, first.values(), second.values()))
    return first.keys() == second.keys() and all(
        _alike(first[name], second[name]) for name in first
    )


def _alike(one: Region, other: Region) -> bool:
    return len(one) == len(other) and all(
        a[2:] == b[2:] and _level(a[0], b[0]) and _level(a[1], b[1])
        for a, b in zip(one, other, strict=True)
    )


def regions(node: Node) -> dict[str, Region] | None:
    """What each unknown may be, under its name; under "" a set that names no unknown."""
    match node[0]:
        case "rel":
            found = _relation(node)
            return found and {found[0]: found[1]}
        case "or":
            return _alternatives([regions(child) for child in node[1:]])
        case "list":
            return _conditions(node)
    alone = region(node)
    return None if alone is None else {"": alone}


def region(node: Node) -> Region | None:
    """A set of numbers as intervals. Beyond where an endpoint has no value."""
    match node[0]:
        case "empty":
            return []
        case "field":
            return _LINE if node[1] == "R" else None
        case "braces":
            values = [constant(child) for child in node[1:]]
            return merged([(value, value, True, True) for value in values])
        case "tuple":
            return _interval(node)
        case "such":
            return _such(*node[1:])
    parts = [region(child) for child in node[1:]] if node[0] in _SETS else [None]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if node[0] == "cup":
        return _union(known)
    return intersection(known[0], complement(known[1]) if node[0] == "without" else known[1])


def _union(parts: Sequence[Region]) -> Region:
    return merged([interval for part in parts for interval in part])


def _such(head: Node, condition: Node) -> Region | None:
    """{x : ...} or {x in a set : ...}, the condition one on x alone."""
    domain: Region | None = _LINE
    if head[0] == "rel" and head[1] == ("in",):
        head, domain = head[2][0], region(head[2][1])
    found = regions(condition)
    if domain is None or head[0] != "sym" or not found or found.keys() != {head[1]}:
        return None
    return intersection(domain, found[head[1]])


def _alternatives(parts: list[dict[str, Region] | None]) -> dict[str, Region] | None:
    known = [part for part in parts if part]
    names = {name for part in known for name in part}
    if len(known) < len(parts) or len(names) != 1:
        return None
    return {name: _union([part[name] for part in known]) for name in names}


def _conditions(node: Node) -> dict[str, Region] | None:
    """x > 0, x < 5, y > 1: what holds at once, for each unknown.

    Conditions on one unknown that exclude each other are alternatives (x < 2, x > 3), as are sets.
    """
    if len(node) > MAX_CONDITIONS:
        return None
    found: dict[str, list[Region]] = {}
    for child in node[1:]:
        part = regions(child) if is_region(child) else None
        if part is None:
            return None
        for name, values in part.items():
            found.setdefault(name, []).append(values)
    joined: dict[str, Region] = {}
    for name, parts in found.items():
        meeting = _LINE
        for part in parts:
            meeting = intersection(meeting, part)
        if meeting and not name:
            return None
        joined[name] = meeting or _union(parts)
    return joined if "" not in joined or len(joined) == 1 else None


def _end(node: Node) -> int:
    """1 for infinity, -1 for minus infinity, else 0."""
    if node == ("inf",):
        return 1
    return -1 if node == ("neg", ("inf",)) else 0


def _interval(node: Node) -> Region | None:
    """None too where it holds nothing: (2, 1) is a point of the plane and no empty interval."""
    opening, closing, *ends = node[1:]
    if len(ends) != 2 or opening == "langle":
        return None
    low, high = (constant(end) if not _end(end) else _end(end) * INFINITY for end in ends)
    if not _real(low) or not _real(high):
        return None
    return merged([(low, high, opening == "[", closing == "]")]) or None


def _real(value: Value) -> bool:
    return not isinstance(value, mpmath.mpc)


def _relation(node: Node) -> tuple[str, Region] | None:
    """The unknown of a chain of inequalities, and the values that it may take."""
    operators = node[1]
    operands = [_unknown(*given) for given in zip(node[2], node[3], strict=True)]
    if operators == ("in",):
        values = region(operands[1])
        return None if operands[0][0] != "sym" or values is None else (operands[0][1], values)
    if not set(operators) <= _ORDERS:
        return None
    names = frozenset().union(*map(symbols, operands))
    if len(names) != 1 or len(operands) > MAX_CONDITIONS:
        return None
    (name,) = names
    found: Region = _LINE
    for operator, (left, right) in zip(operators, pairwise(operands), strict=True):
        part = _inequality(left, operator, right, name)
        if part is None:
            return None
        found = intersection(found, part)
    return (name, found) if found else None  # 2 < x < 1 is a slip and not the empty set


def symbolic_interval(node: Node) -> Node:
    """a < x <= b as (a, b], whose ends need no value; anything else as it is."""
    if node[0] != "rel" or len(node[1]) != 2 or node[2][1][0] != "sym":
        return node
    ends, operators = node[2][::2], node[1]
    if set(operators) <= {">", ">="}:
        ends, operators = ends[::-1], [_FLIPPED[operator] for operator in reversed(operators)]
    if not set(operators) <= {"<", "<="} or symbols(node[2][1]) & frozenset().union(
        *map(symbols, ends)
    ):
        return node
    opening, closing = (
        pair[operator == "<="] for pair, operator in zip(("([", ")]"), operators, strict=True)
    )
    return ("tuple", opening, closing, *ends)


def _unknown(operand: Node, label: bool) -> Node:
    """What is written like a name, as f(x) or |AB|, is one unknown; |x| is what is done to one."""
    modulus = operand[:2] == ("call", "abs") and operand[2][0] == "sym"
    if not label or modulus or not symbols(operand):
        return operand
    return operand if operand[0] == "sym" else ("sym", repr(operand))


def _inequality(left: Node, operator: str, right: Node, name: str) -> Region | None:
    """The solutions of one inequality in one unknown."""
    if _end(left) or left[:2] != ("call", "abs") == right[:2]:
        left, operator, right = right, _FLIPPED[operator], left
    if _end(right):
        return _half(operator, _end(right) * INFINITY) if left[0] == "sym" else None
    if left[:2] != ("call", "abs"):
        return _solved(("add", left, ("neg", right)), operator, name)
    if operator == "!=" or symbols(right):
        return None
    above = _solved(("add", left[2], ("neg", right)), operator, name)
    below = _solved(("add", left[2], right), _FLIPPED[operator], name)
    if above is None or below is None:
        return None
    return intersection(above, below) if operator in ("<", "<=") else _union([above, below])


def _solved(difference: Node, operator: str, name: str) -> Region | None:
    """Where m x + b is less (more) than 0."""
    parts = line(difference, name)
    slope = constant(parts[0]) if parts else 0
    if parts is None or not _real(slope) or slope == 0:
        return None
    bound = constant(("neg", ("div", parts[1], parts[0])))
    return _half(_FLIPPED[operator] if slope < 0 else operator, bound) if _real(bound) else None


def _half(operator: str, bound: Value) -> Region:
    """The numbers less (more) than a bound, or all but it."""
    match operator:
        case "<" | "<=":
            return merged([(-INFINITY, bound, False, operator == "<=")])
        case ">" | ">=":
            return merged([(bound, INFINITY, operator == ">=", False)])
    return [(-INFINITY, bound, False, False), (bound, INFINITY, False, False)]


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
