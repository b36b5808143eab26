r"""Trees -> whether two answers are the same: lists, tuples, sets, equations, matrices, numbers.

Knows the conventions of mathematical answers: order matters in tuples and nowhere else; `x = 5` may
be answered by 5, an equation that is no assignment only by an equation; an interval equals the
inequality that describes it; 10\% is 10 and 0.1; 90 degrees is 90 and pi/2; members that are extra
or missing make a list wrong. `same(gold, answer)` is not symmetric: the gold says what is asked.
"""

from fractions import Fraction

import mpmath

from asymrl.verifiers.equations import assigned, expand_tuples, same_equation, solves
from asymrl.verifiers.expressions import Node
from asymrl.verifiers.matrices import entries
from asymrl.verifiers.regions import is_region, same_region
from asymrl.verifiers.values import (
    Beyond,
    children,
    close,
    constant,
    folded,
    has,
    identical,
    number,
    symbols,
)

MAX_MEMBERS = 60  # of a collection whose members are compared one by one
_UNORDERED = ("list", "braces", "empty")
_COUNTERS = frozenset("kmnlt")  # what families of solutions are numbered by


def same(gold: Node, answer: Node, tolerance: float = 0.0) -> bool:
    """Whether the answer is the gold. tolerance: relative, of decimals."""
    if gold == answer:
        return not _undefined(gold)
    gold, answer = spread(gold), spread(answer)
    if is_region(gold) or is_region(answer):
        known = same_region(assigned(gold) or gold, assigned(answer) or answer)
        if known is not None:
            return known
    if gold[0] in _UNORDERED or answer[0] in _UNORDERED:
        return _same_members(gold, answer, tolerance)
    if gold[0] == "rel" or answer[0] == "rel":
        return _same_relations(gold, answer, tolerance)
    if gold[0] == "tuple" or answer[0] == "tuple":
        return _same_tuples(gold, answer, tolerance)
    if gold[0] == "ratio" and answer[0] == "ratio" and len(gold) == len(answer) > 3:
        return _proportional(gold[1:], answer[1:])
    if has(gold, "matrix") or has(answer, "matrix"):
        return _same_matrices(gold, answer)
    return same_value(gold, answer, tolerance)


def _undefined(node: Node) -> bool:
    """Whether a number has no value, such as 0/0: it equals nothing, not even itself."""
    if node[0] not in ("div", "pow", "neg") or symbols(node):
        return False
    try:
        constant(node)
    except Beyond as error:
        return isinstance(error.__cause__, ZeroDivisionError)
    return False


def spread(node: Node) -> Node:
    """A tree with plus-minus signs as the list of its two readings; lists of such, flat."""
    if node[0] in ("list", "braces"):
        members: list[Node] = []
        for member in map(spread, node[1:]):
            members += member[1:] if member[0] == "list" else (member,)
        return (node[0], *members)
    if node[0] == "rel" and has(node, "pm") and len(node[2]) == 2:
        values = spread(node[2][1])
        if values[0] == "list" and not has(node[2][0], "pm"):
            return ("list", *((*node[:2], (node[2][0], value), node[3]) for value in values[1:]))
    if node[0] == "rel" or not has(node, "pm"):
        return node
    return ("list", _signed(node, plus=True), _signed(node, plus=False))


def _signed(node: Node, plus: bool) -> Node:
    if node[0] == "pm":
        inner = _signed(node[1], plus)
        return inner if plus else ("neg", inner)
    return tuple(_signed(part, plus) if isinstance(part, tuple) else part for part in node)


def _members(node: Node) -> list[Node]:
    if node[0] in ("list", "braces"):
        return list(node[1:])
    if node[0] == "empty":
        return []
    if node[0] == "rel" and node[1] == ("=",) and node[2][1][0] in _UNORDERED and node[3][0]:
        return list(node[2][1][1:])
    return expand_tuples(node)


def _same_members(gold: Node, answer: Node, tolerance: float) -> bool:
    """Lists and sets: the same members in any order, each as often as the gold has it.

    An answer may repeat a member that the gold has once. Labelled members may answer a tuple.
    """
    if gold[0] == "tuple" or answer[0] == "tuple":
        return _names_a_tuple(gold, answer) and _itemwise(gold, answer, tolerance)
    expected, found = _members(gold), _members(answer)
    one, two = _numbers(expected), _numbers(found)
    if one is not None and two is not None:
        return one == two or (len(set(one)) == len(one) and one == sorted(set(two)))
    if max(len(expected), len(found)) > MAX_MEMBERS:
        return expected == found
    if len(found) != len(expected):
        repeated = len(_distinct(expected, tolerance)) < len(expected)
        found = found if repeated else _distinct(found, tolerance)
    if len(found) != len(expected):
        return False
    left = list(found)
    for member in expected:
        match = next((i for i, other in enumerate(left) if same(member, other, tolerance)), None)
        if match is None:
            return False
        del left[match]
    return True


def _names_a_tuple(gold: Node, answer: Node) -> bool:
    """Whether one is (a, b) and the other names each part: x = a, y = b."""
    ordered, other = (gold, answer) if gold[0] == "tuple" else (answer, gold)
    named = all(member[0] == "rel" and assigned(member) for member in other[1:])
    return ordered[1:3] == ("(", ")") and other[0] == "list" and named


def _numbers(members: list[Node]) -> list[Fraction] | None:
    """The members in order of size, if all are plain numbers: long lists are compared so."""
    found = []
    for member in members:
        sign, plain = (-1, member[1]) if member[0] == "neg" else (1, member)
        if plain[0] != "num":
            return None
        found.append(sign * plain[1])
    return sorted(found)


def _distinct(members: list[Node], tolerance: float) -> list[Node]:
    kept: list[Node] = []
    for member in members:
        if not any(same(member, other, tolerance) for other in kept):
            kept.append(member)
    return kept


def _itemwise(gold: Node, answer: Node, tolerance: float) -> bool:
    """In order, whatever the brackets."""
    expected, found = (n[3:] if n[0] == "tuple" else n[1:] for n in (gold, answer))
    return len(expected) == len(found) and all(
        same(one, other, tolerance) for one, other in zip(expected, found, strict=True)
    )


def _same_tuples(gold: Node, answer: Node, tolerance: float) -> bool:
    if gold[0] != answer[0]:
        return False
    round_ = {"langle": "(", "rangle": ")"}
    brackets = [[round_.get(sign, sign) for sign in node[1:3]] for node in (gold, answer)]
    return brackets[0] == brackets[1] and _itemwise(gold, answer, tolerance)


def _same_relations(gold: Node, answer: Node, tolerance: float) -> bool:
    """Equations and assignments, or one of them and a value."""
    if gold[0] == "rel" and answer[0] == "rel":
        return same_equation(gold, answer, lambda a, b: same(a, b, tolerance))
    if gold[0] == "rel":
        value = assigned(gold)
        return same(value, answer, tolerance) if value else solves(answer, gold)
    value = assigned(answer, whole=False)
    return value is not None and same(gold, value, tolerance)


def _proportional(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    """a : b : c up to a common factor."""
    return all(
        identical(("mul", gold[0], there), ("mul", answer[0], here))
        for here, there in zip(gold[1:], answer[1:], strict=True)
    )


def _same_matrices(gold: Node, answer: Node) -> bool:
    one, other = entries(gold), entries(answer)
    if one is None or other is None or [len(row) for row in one] != [len(row) for row in other]:
        return False
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return all(same_value(a, b) for a, b in pairs)


def same_value(gold: Node, answer: Node, tolerance: float = 0.0) -> bool:
    """Numbers and expressions; a percent or degree sign that one side lacks is read both ways."""
    if "base" in (gold[0], answer[0]):
        return gold == answer
    try:
        if _close(gold, answer, tolerance):
            return True
        for mark, factor in (("pct", ("num", Fraction(1, 100))), ("deg", _RADIAN)):
            marked = has(gold, mark), has(answer, mark)
            if marked == (True, False) and _close(("mul", gold, factor), answer, tolerance):
                return True
            if marked == (False, True) and _close(gold, ("mul", answer, factor), tolerance):
                return True
    except Beyond:
        return folded(gold) == folded(answer) and not _undefined(gold)
    return False


_RADIAN = ("div", ("sym", "pi"), ("num", Fraction(180)))


def _close(gold: Node, answer: Node, tolerance: float) -> bool:
    names = symbols(gold), symbols(answer)
    if names[0] != names[1] and (renamed := _renumbered(answer, *names)):
        return identical(gold, renamed)
    if tolerance and not names[0] and not names[1]:
        expected, found = number(constant(gold)), number(constant(answer))
        return bool(mpmath.fabs(expected - found) <= tolerance * mpmath.fabs(expected))
    if not names[0] and not names[1]:
        return close(constant(gold), constant(answer))
    return identical(gold, answer)


def _renumbered(answer: Node, golds: frozenset[str], answers: frozenset[str]) -> Node | None:
    """A family of solutions with its counter named as the gold names it: n pi as k pi."""
    old, new = answers - golds, golds - answers
    if len(old) == len(new) == 1 and old | new <= _COUNTERS and _has_pi(answer):
        return _with(answer, *old, *new)
    return None


def _has_pi(node: Node) -> bool:
    return node == ("sym", "pi") or any(map(_has_pi, children(node)))


def _with(node: Node, old: str, new: str) -> Node:
    if node == ("sym", old):
        return ("sym", new)
    return tuple(_with(part, old, new) if isinstance(part, tuple) else part for part in node)
