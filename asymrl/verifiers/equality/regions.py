r"""Sets of real numbers: intervals, unions, inequalities and finite sets, as sorted intervals.

Knows that (0, 1), 0 < x < 1 and {x : 0 < x < 1} are the same set. An interval lies between two
cuts of the number line, each just before or just after a number; a region is a sorted list of
intervals that do not touch. Inequalities are solved where the solution is certain: both sides
linear in one unknown, or the absolute value of a linear form against a number. Any other set raises
NoValue, and is compared part by part elsewhere.
"""

from collections import defaultdict
from collections.abc import Set
from functools import cmp_to_key, reduce
from itertools import chain, pairwise

import mpmath

from asymrl.verifiers.equality.equations import linear_form
from asymrl.verifiers.equality.values import NoValue, Value, close, constant_value, to_mpmath
from asymrl.verifiers.latex.tree import Node, symbols

Cut = tuple[Value, bool]  # a number, and whether the cut is after it
Interval = tuple[Cut, Cut]
Region = list[Interval]

INFINITY = mpmath.inf
MAX_CONDITIONS = 60  # more are not combined
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
_ORDERS = frozenset(_FLIPPED)
_INFINITIES: dict[Node, Value] = {("inf",): INFINITY, ("neg", ("inf",)): -INFINITY}
_START, _END = (-INFINITY, True), (INFINITY, False)
_REALS: Region = [(_START, _END)]


def is_region(node: Node) -> bool:
    """Whether the tree can only be a set of numbers, so that (a, b) in the other is an interval."""
    match node[0]:
        case "cup" | "cap" | "without" | "field" | "such" | "or":
            return True
        case "rel":
            return bool(_ORDERS & set(node[1])) or (node[1] == ("in",) and is_region(node[2][1]))
        case "tuple":
            unbounded = any(end in _INFINITIES for end in node[3:])
            return len(node) == 5 and (unbounded or node[1:3] != ("(", ")"))
        case "list":
            return all(child[0] == "rel" and is_region(child) for child in node[1:])
    return False


def same_region(one: Node, other: Node) -> bool | None:
    """Whether both are the same set, or the same sets for the same unknowns; None if unknown."""
    try:
        first, second = regions(one), regions(other)
    except NoValue:
        return None
    if len(first) == len(second) == 1 and ("" in first or "" in second):
        return all(map(same_intervals, first.values(), second.values()))
    return first.keys() == second.keys() and all(
        same_intervals(first[name], second[name]) for name in first
    )


def same_intervals(one: Region, other: Region) -> bool:
    return len(one) == len(other) and not any(map(_compare, chain(*one), chain(*other)))


def regions(node: Node) -> dict[str, Region]:
    """The set of values of each unknown, by name; "" is the name for a set without an unknown."""
    match node[0]:
        case "rel":
            return _relation(node)
        case "or":
            parts = [regions(child) for child in node[1:]]
            name = _only({name for part in parts for name in part})
            return {name: merged([*chain(*(part[name] for part in parts))])}
        case "list":
            return _conditions(node)
    return {"": region(node)}


def region(node: Node) -> Region:
    """A set of numbers as intervals. NoValue if it is not one, or an endpoint has no value."""
    match node:
        case ("empty",):
            return []
        case ("field", "R"):
            return _REALS
        case ("braces", *members):
            values = [constant_value(member) for member in members]
            return merged([((value, False), (value, True)) for value in values])
        case ("tuple", "(" | "[" as opening, closing, low, high):
            return _interval(opening == "[", low, high, closing == "]")
        case ("such", head, condition):
            return _such(head, condition)
        case ("cup", *parts):
            return merged([*chain(*map(region, parts))])
        case ("cap", one, other):
            return intersection(region(one), region(other))
        case ("without", one, other):
            return intersection(region(one), complement(region(other)))
    raise NoValue("not a set of numbers")


def _only(names: Set[str]) -> str:
    """The only name in a set. NoValue if there are several or none."""
    if len(names) != 1:
        raise NoValue("more than one unknown, or none")
    return next(iter(names))


def _such(head: Node, condition: Node) -> Region:
    """{x : ...} or {x in a set : ...}, where the condition is on x alone."""
    domain = _REALS
    if head[0] == "rel" and head[1] == ("in",):
        head, domain = head[2][0], region(head[2][1])
    solutions = regions(condition)
    if head[0] != "sym" or solutions.keys() != {head[1]}:
        raise NoValue("a condition on something else")
    return intersection(domain, solutions[head[1]])


def _conditions(node: Node) -> dict[str, Region]:
    """x > 0, x < 5, y > 1: the intersection of the conditions, for each unknown.

    Conditions that exclude each other (x < 2, x > 3) are alternatives, and so are sets.
    """
    if len(node) > MAX_CONDITIONS or not all(map(is_region, node[1:])):
        raise NoValue("not conditions")
    by_name: dict[str, list[Region]] = defaultdict(list)
    for child in node[1:]:
        for name, values in regions(child).items():
            by_name[name].append(values)
    joined = {}
    for name, parts in by_name.items():
        joined[name] = common = reduce(intersection, parts)
        if not common:
            joined[name] = merged([*chain(*parts)])
        elif not name:
            raise NoValue("sets that overlap")
    if "" in joined and len(joined) > 1:
        raise NoValue("sets beside conditions")
    return joined


def _interval(with_low: bool, low: Node, high: Node, with_high: bool) -> Region:
    """The interval. NoValue if it is empty, because (2, 1) is then a point of the plane."""
    ends = [_INFINITIES[end] if end in _INFINITIES else constant_value(end) for end in (low, high)]
    cuts = (ends[0], not with_low), (ends[1], with_high)
    if any(isinstance(end, mpmath.mpc) for end in ends) or _compare(*cuts) >= 0:
        raise NoValue("not an interval")
    return [cuts]


def _relation(node: Node) -> dict[str, Region]:
    """The possible values of the unknown in a chain of inequalities."""
    operators = node[1]
    operands = [_as_unknown(*pair) for pair in zip(node[2], node[3], strict=True)]
    if operators == ("in",) and operands[0][0] == "sym":
        return {operands[0][1]: region(operands[1])}
    if operators == ("=",) and operands[0][0] == "sym":  # x = 1 beside x > 2
        return {operands[0][1]: region(("braces", operands[1]))}
    if not set(operators) <= _ORDERS or len(operands) > MAX_CONDITIONS:
        raise NoValue("not a chain of inequalities")
    name = _only(frozenset().union(*map(symbols, operands)))
    steps = zip(operators, pairwise(operands), strict=True)
    parts = [_inequality(left, operator, right, name) for operator, (left, right) in steps]
    if not (solution := reduce(intersection, parts)):
        raise NoValue("2 < x < 1 is a slip, not the empty set")
    return {name: solution}


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


def _inequality(left: Node, operator: str, right: Node, name: str) -> Region:
    """The solutions of one inequality in one unknown."""
    if left in _INFINITIES or left[:2] != ("call", "abs") == right[:2]:
        left, operator, right = right, _FLIPPED[operator], left
    if right in _INFINITIES and left[0] == "sym":
        return _ray(operator, _INFINITIES[right])
    if left[:2] != ("call", "abs"):
        return _solved(("add", left, ("neg", right)), operator, name)
    if operator == "!=" or symbols(right):
        raise NoValue("an absolute value against an unknown")
    above = _solved(("add", left[2], ("neg", right)), operator, name)
    below = _solved(("add", left[2], right), _FLIPPED[operator], name)
    return intersection(above, below) if operator in ("<", "<=") else merged(above + below)


def _solved(difference: Node, operator: str, name: str) -> Region:
    """The x for which `m x + b operator 0` holds."""
    if (parts := linear_form(difference, name)) is None:
        raise NoValue("not linear")
    slope = constant_value(parts[0])
    bound = constant_value(("neg", ("div", parts[1], parts[0])))
    if isinstance(slope, mpmath.mpc) or isinstance(bound, mpmath.mpc):
        raise NoValue("not real")
    return _ray(_FLIPPED[operator] if slope < 0 else operator, bound)


def _ray(operator: str, bound: Value) -> Region:
    """The numbers below a bound, above it, or all except it."""
    below, above = (_START, (bound, operator == "<=")), ((bound, operator != ">="), _END)
    return merged({"<": [below], ">": [above], "!": [below, above]}[operator[0]])


def _compare(one: Cut, other: Cut) -> int:
    """Below 0, 0 or above 0: one is before the other, the same within rounding errors, or after."""
    a, b = to_mpmath(one[0]), to_mpmath(other[0])
    finite = mpmath.isfinite(a) and mpmath.isfinite(b)
    if close(one[0], other[0]) if finite else a == b:
        return one[1] - other[1]
    return -1 if a < b else 1


_position = cmp_to_key(_compare)


def merged(intervals: Region) -> Region:
    """The union of intervals, sorted; intervals that touch are joined."""
    union: Region = []
    nonempty = [(start, end) for start, end in intervals if _compare(start, end) < 0]
    for start, end in sorted(nonempty, key=lambda interval: _position(interval[0])):
        if union and _compare(start, union[-1][1]) <= 0:
            union[-1] = (union[-1][0], max(union[-1][1], end, key=_position))
        else:
            union.append((start, end))
    return union


def complement(region: Region) -> Region:
    cuts = [_START, *chain(*region), _END]
    return merged([*zip(cuts[::2], cuts[1::2], strict=True)])


def intersection(one: Region, other: Region) -> Region:
    return complement(merged(complement(one) + complement(other)))
