r"""Sets of real numbers: intervals, unions, inequalities and finite sets, as sorted intervals.

Knows that (0, 1), 0 < x < 1 and {x : 0 < x < 1} are the same set. A region is a sorted list of
disjoint intervals (low, high, contains low, contains high). Inequalities are solved where the
solution is certain: both sides linear in one unknown, or the absolute value of a linear form
against a number. Any other set is None, and is compared part by part elsewhere.
"""

from collections.abc import Sequence
from itertools import pairwise

import mpmath

from asymrl.verifiers.equality.equations import linear_form
from asymrl.verifiers.equality.values import NoValue, Value, close, constant_value, to_mpmath
from asymrl.verifiers.latex.tree import Node, symbols

Interval = tuple[Value, Value, bool, bool]
Region = list[Interval]

INFINITY = mpmath.inf
MAX_CONDITIONS = 60  # more are not combined
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
_ORDERS = frozenset(_FLIPPED)
_REALS: Region = [(-INFINITY, INFINITY, False, False)]
_SETS = ("cup", "cap", "without")


def is_region(node: Node) -> bool:
    """Whether the tree can only be a set of numbers, so that (a, b) in the other is an interval."""
    match node[0]:
        case "cup" | "cap" | "without" | "field" | "such" | "or":
            return True
        case "rel":
            return bool(_ORDERS & set(node[1])) or (node[1] == ("in",) and is_region(node[2][1]))
        case "tuple":
            ends = [_infinity_sign(child) for child in node[3:]]
            return len(ends) == 2 and (node[1:3] != ("(", ")") or bool({1, -1} & set(ends)))
        case "list":
            return all(child[0] == "rel" and is_region(child) for child in node[1:])
    return False


def same_region(one: Node, other: Node) -> bool | None:
    """Whether both are the same set, or the same sets for the same unknowns; None if unknown."""
    try:
        first, second = regions(one), regions(other)
    except NoValue:
        return None
    if not first or not second:
        return None
    if len(first) == len(second) == 1 and ("" in first or "" in second):
        return all(map(_same_intervals, first.values(), second.values()))
    return first.keys() == second.keys() and all(
        _same_intervals(first[name], second[name]) for name in first
    )


def _same_intervals(one: Region, other: Region) -> bool:
    return len(one) == len(other) and all(
        a[2:] == b[2:] and _same_endpoint(a[0], b[0]) and _same_endpoint(a[1], b[1])
        for a, b in zip(one, other, strict=True)
    )


def regions(node: Node) -> dict[str, Region] | None:
    """The set of values of each unknown, by name; "" is the name for a set without an unknown."""
    match node[0]:
        case "rel":
            solved = _relation(node)
            return solved and {solved[0]: solved[1]}
        case "or":
            return _alternatives([regions(child) for child in node[1:]])
        case "list":
            return _conditions(node)
    alone = region(node)
    return None if alone is None else {"": alone}


def region(node: Node) -> Region | None:
    """A set of numbers as intervals; None if it is not one. NoValue if an endpoint has no value."""
    match node[0]:
        case "empty":
            return []
        case "field":
            return _REALS if node[1] == "R" else None
        case "braces":
            values = [constant_value(child) for child in node[1:]]
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
    """{x : ...} or {x in a set : ...}, where the condition is on x alone."""
    domain: Region | None = _REALS
    if head[0] == "rel" and head[1] == ("in",):
        head, domain = head[2][0], region(head[2][1])
    solutions = regions(condition)
    if domain is None or head[0] != "sym" or not solutions or solutions.keys() != {head[1]}:
        return None
    return intersection(domain, solutions[head[1]])


def _alternatives(parts: list[dict[str, Region] | None]) -> dict[str, Region] | None:
    known = [part for part in parts if part]
    names = {name for part in known for name in part}
    if len(known) < len(parts) or len(names) != 1:
        return None
    return {name: _union([part[name] for part in known]) for name in names}


def _conditions(node: Node) -> dict[str, Region] | None:
    """x > 0, x < 5, y > 1: the intersection of the conditions, for each unknown.

    Conditions that exclude each other (x < 2, x > 3) are alternatives, and so are sets.
    """
    if len(node) > MAX_CONDITIONS:
        return None
    by_name: dict[str, list[Region]] = {}
    for child in node[1:]:
        part = regions(child) if is_region(child) else None
        if part is None:
            return None
        for name, values in part.items():
            by_name.setdefault(name, []).append(values)
    joined: dict[str, Region] = {}
    for name, parts in by_name.items():
        common = _REALS
        for part in parts:
            common = intersection(common, part)
        if common and not name:
            return None
        joined[name] = common or _union(parts)
    return joined if "" not in joined or len(joined) == 1 else None


def _infinity_sign(node: Node) -> int:
    """1 for infinity, -1 for minus infinity, 0 for any other node."""
    if node == ("inf",):
        return 1
    return -1 if node == ("neg", ("inf",)) else 0


def _interval(node: Node) -> Region | None:
    """The interval; None if it is empty, because (2, 1) is then a point of the plane."""
    opening, closing, *ends = node[1:]
    if len(ends) != 2 or opening == "langle":
        return None
    low, high = (
        _infinity_sign(end) * INFINITY if _infinity_sign(end) else constant_value(end)
        for end in ends
    )
    if not _is_real(low) or not _is_real(high):
        return None
    return merged([(low, high, opening == "[", closing == "]")]) or None


def _is_real(value: Value) -> bool:
    return not isinstance(value, mpmath.mpc)


def _relation(node: Node) -> tuple[str, Region] | None:
    """The unknown of a chain of inequalities and its possible values; None if not solvable."""
    operators = node[1]
    operands = [_as_unknown(*pair) for pair in zip(node[2], node[3], strict=True)]
    if operators == ("in",):
        values = region(operands[1])
        return None if operands[0][0] != "sym" or values is None else (operands[0][1], values)
    if not set(operators) <= _ORDERS:
        return None
    names = frozenset().union(*map(symbols, operands))
    if len(names) != 1 or len(operands) > MAX_CONDITIONS:
        return None
    (name,) = names
    solution: Region = _REALS
    for operator, (left, right) in zip(operators, pairwise(operands), strict=True):
        part = _inequality(left, operator, right, name)
        if part is None:
            return None
        solution = intersection(solution, part)
    return (name, solution) if solution else None  # 2 < x < 1 is a slip, not the empty set


def symbolic_interval(node: Node) -> Node:
    """a < x <= b as (a, b], even if the ends have no value; any other node unchanged."""
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


def _as_unknown(operand: Node, label: bool) -> Node:
    """An operand that looks like a name, such as f(x) or |AB|, as one unknown; not |x|."""
    modulus = operand[:2] == ("call", "abs") and operand[2][0] == "sym"
    if not label or modulus or not symbols(operand):
        return operand
    return operand if operand[0] == "sym" else ("sym", repr(operand))


def _inequality(left: Node, operator: str, right: Node, name: str) -> Region | None:
    """The solutions of one inequality in one unknown; None if not solvable."""
    if _infinity_sign(left) or left[:2] != ("call", "abs") == right[:2]:
        left, operator, right = right, _FLIPPED[operator], left
    if _infinity_sign(right):
        return _ray(operator, _infinity_sign(right) * INFINITY) if left[0] == "sym" else None
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
    """The x for which `m x + b operator 0` holds; None if the difference is not linear."""
    parts = linear_form(difference, name)
    slope = constant_value(parts[0]) if parts else 0
    if parts is None or not _is_real(slope) or slope == 0:
        return None
    bound = constant_value(("neg", ("div", parts[1], parts[0])))
    return _ray(_FLIPPED[operator] if slope < 0 else operator, bound) if _is_real(bound) else None


def _ray(operator: str, bound: Value) -> Region:
    """The numbers below a bound, above it, or all except it."""
    match operator:
        case "<" | "<=":
            return merged([(-INFINITY, bound, False, operator == "<=")])
        case ">" | ">=":
            return merged([(bound, INFINITY, operator == ">=", False)])
    return [(-INFINITY, bound, False, False), (bound, INFINITY, False, False)]


def _same_endpoint(a: Value, b: Value) -> bool:
    if abs(to_mpmath(a)) == INFINITY or abs(to_mpmath(b)) == INFINITY:
        return to_mpmath(a) == to_mpmath(b)
    return close(a, b)


def merged(intervals: Region) -> Region:
    """The union of intervals, sorted; intervals that touch are joined."""
    union: Region = []
    nonempty = [i for i in intervals if not _is_empty(i)]
    nonempty.sort(key=lambda interval: (to_mpmath(interval[0]), not interval[2]))
    for low, high, with_low, with_high in nonempty:
        if union:
            previous = union[-1]
            touches = _same_endpoint(previous[1], low)
            if (touches and (previous[3] or with_low)) or (
                not touches and to_mpmath(low) < to_mpmath(previous[1])
            ):
                if _same_endpoint(previous[1], high):
                    union[-1] = (*previous[:3], previous[3] or with_high)
                elif to_mpmath(high) > to_mpmath(previous[1]):
                    union[-1] = (previous[0], high, previous[2], with_high)
                continue
        union.append((low, high, with_low, with_high))
    return union


def _is_empty(interval: Interval) -> bool:
    low, high, with_low, with_high = interval
    if _same_endpoint(low, high):
        return not (with_low and with_high)
    return to_mpmath(low) > to_mpmath(high)


def complement(region: Region) -> Region:
    gaps: Region = []
    low, with_low = -INFINITY, False
    for start, end, with_start, with_end in region:
        gaps.append((low, start, with_low, not with_start))
        low, with_low = end, not with_end
    return merged([*gaps, (low, INFINITY, with_low, False)])


def intersection(one: Region, other: Region) -> Region:
    return complement(merged(complement(one) + complement(other)))
