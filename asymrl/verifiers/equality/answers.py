r"""Trees -> whether two answers are the same: lists, tuples, sets, equations, matrices, numbers.

Knows the conventions of mathematical answers: order matters in tuples and nowhere else; `x = 5` may
be answered by 5, an equation that is no assignment only by an equation; an interval equals the
inequality that describes it; 10\% is 10 and 0.1; 90 degrees is 90 and pi/2; members that are extra
or missing make a list wrong. `same(gold, answer)` is not symmetric: the gold says what is asked.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

import mpmath

from asymrl.verifiers.equality.equations import ZERO, assigned, expand_tuples, same_equation, solves
from asymrl.verifiers.equality.families import WHOLE, builder, renamed, same_progression
from asymrl.verifiers.equality.matrices import entries
from asymrl.verifiers.equality.regions import is_region, same_region, symbolic_interval
from asymrl.verifiers.equality.units import RADIAN, in_common
from asymrl.verifiers.equality.values import (
    Beyond,
    constant,
    folded,
    has,
    identical,
    number,
    same_constants,
    symbols,
)
from asymrl.verifiers.latex.tree import Node

MAX_MEMBERS = 60  # of a collection whose members are compared one by one
_NAMING = (("=",), ("in",))
_UNORDERED = ("list", "braces", "empty")
_INDEXED = re.compile(r"([a-zA-Z])(?:_(\d+))?")


def same(gold: Node, answer: Node, tolerance: float = 0.0) -> bool:
    """Whether the answer is the gold. tolerance: relative, of decimals."""
    if gold == answer:
        return not _undefined(gold)
    if gold[0] == "given" or answer[0] == "given":
        return _same_under_conditions(gold, answer, tolerance)
    if (measured := in_common(gold, answer)) is None:
        return False
    gold, answer = map(spread, renamed(*measured))
    if is_region(gold) or is_region(answer):
        known = same_region(_unnamed_set(gold), _unnamed_set(answer))
        if known is not None:
            return known
        if "tuple" in (gold[0], answer[0]):
            gold, answer = symbolic_interval(gold), symbolic_interval(answer)
    if "or" in (gold[0], answer[0]) and gold[0] != answer[0]:
        return False
    if gold[0] in (*_UNORDERED, "or") or answer[0] in _UNORDERED:
        return _same_members(gold, answer, tolerance)
    if gold[0] == "rel" or answer[0] == "rel":
        return _same_relations(gold, answer, tolerance)
    if gold[0] == "tuple" or answer[0] == "tuple":
        return _same_tuples(gold, answer, tolerance)
    if gold[0] == answer[0] == "such":
        return all(map(same, builder(gold), builder(answer)))
    if gold[0] == "ratio" and answer[0] == "ratio" and len(gold) == len(answer) > 3:
        return _proportional(gold[1:], answer[1:])
    if has(gold, "matrix") or has(answer, "matrix"):
        return _same_matrices(gold, answer)
    return same_value(gold, answer, tolerance)


def _same_under_conditions(gold: Node, answer: Node, tolerance: float) -> bool:
    """`x^2 for x > 0`: both say so, or only the answer does, in words without numbers."""
    if gold[0] == answer[0]:
        parts = zip(gold[1:], answer[1:], strict=True)
        return all(a == b or (a[0] != "words" and same(a, b, tolerance)) for a, b in parts)
    return gold[0] != "given" and answer[2][0] == "words" and same(gold, answer[1], tolerance)


def _unnamed_set(node: Node) -> Node:
    """The set behind `S =`; x in (0, 1) keeps the name of its unknown."""
    return node if node[:2] == ("rel", ("in",)) else assigned(node) or node


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
    if node[0] in ("list", "braces", "or"):
        return _all_named(node[1:])
    if node[0] == "empty":
        return []
    if node[0] == "rel" and node[1] in _NAMING and node[2][1][0] in _UNORDERED and node[3][0]:
        return list(node[2][1][1:])
    return expand_tuples(node)


def _all_named(members: Sequence[Node]) -> list[Node]:
    """x = 1, 2 as x = 1, x = 2: a value after a named one has its name."""
    found: list[Node] = []
    before: Node | None = None
    for member in members:
        before = member if _name(member) and len(member[2]) == 2 else before
        bare = before and member[0] not in ("rel", "tuple", "list", "braces")
        found.append(
            (*before[:2], (before[2][0], member), before[3]) if before and bare else member
        )
    return found


def _same_members(gold: Node, answer: Node, tolerance: float) -> bool:
    """Lists and sets: the same members in any order, each as often as the gold has it.

    An answer may repeat a member that the gold has once. Values that the gold names differently
    (a = 2, b = 3) are asked for in its order where an answer does not name them.
    """
    if gold[0] == "tuple" or answer[0] == "tuple":
        return _same_point(gold, answer, tolerance)
    expected, found = _members(gold), _members(answer)
    names = {name for member in expected if (name := _name(member))}
    if len(names) > 1 and not any(map(_name, found)):
        return len(expected) == len(found) and _pairwise(expected, found, tolerance)
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
        match = next(
            (i for i, other in enumerate(left) if _same_member(member, other, tolerance)), None
        )
        if match is None:
            return False
        del left[match]
    return True


def _same_member(gold: Node, answer: Node, tolerance: float) -> bool:
    """{1} may be written for 1, but as a member it is another one."""
    return (gold[0] == "braces") == (answer[0] == "braces") and same(gold, answer, tolerance)


def _name(member: Node) -> Node | None:
    """x of x = 5."""
    return member[2][0] if member[0] == "rel" and member[1] == ("=",) and member[3][0] else None


def _same_point(gold: Node, answer: Node, tolerance: float) -> bool:
    """(a, b) and x = a, y = b, the names in the order of the alphabet, which is that of points."""
    point, named = (gold, answer) if gold[0] == "tuple" else (answer, gold)
    if point[1:3] != ("(", ")") or named[0] != "list":
        return False
    places = []
    for member in named[1:]:
        name = _name(member)
        match = _INDEXED.fullmatch(name[1]) if name and name[0] == "sym" else None
        if match is None or not assigned(member):
            return False
        places.append((match[1], int((match[2] or "0")[:9])))
    if len(set(places)) < len(places):
        return False
    values = [member for _, member in sorted(zip(places, named[1:], strict=True))]
    pair = (point[3:], values) if point is gold else (values, point[3:])
    return len(values) == len(point[3:]) and _pairwise(*pair, tolerance)


def _pairwise(golds: Sequence[Node], answers: Sequence[Node], tolerance: float) -> bool:
    return all(same(a, b, tolerance) for a, b in zip(golds, answers, strict=True))


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


def _same_tuples(gold: Node, answer: Node, tolerance: float) -> bool:
    if gold[0] != answer[0]:
        return False
    round_ = {"langle": "(", "rangle": ")"}
    brackets = [[round_.get(sign, sign) for sign in node[1:3]] for node in (gold, answer)]
    return (
        brackets[0] == brackets[1]
        and len(gold) == len(answer)
        and _pairwise(gold[3:], answer[3:], tolerance)
    )


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
    """a : b : c up to a common factor, which is not 0."""
    at = next((i for i, part in enumerate(gold) if not identical(part, ZERO)), None)
    if at is None or identical(answer[at], ZERO):
        return False
    return all(
        identical(("mul", gold[at], there), ("mul", answer[at], here))
        for here, there in zip(gold, answer, strict=True)
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
        for mark, factor in (("pct", ("num", Fraction(1, 100))), ("deg", RADIAN)):
            marked = has(gold, mark), has(answer, mark)
            if marked == (True, False) and _close(("mul", gold, factor), answer, tolerance):
                return True
            if marked == (False, True) and _close(gold, ("mul", answer, factor), tolerance):
                return True
    except Beyond:
        return folded(gold) == folded(answer) and not _undefined(gold)
    return False


def _close(gold: Node, answer: Node, tolerance: float) -> bool:
    names = symbols(gold), symbols(answer)
    if WHOLE in names[0] & names[1] and same_progression(gold, answer):
        return True
    if tolerance and not names[0] and not names[1]:
        expected, found = number(constant(gold)), number(constant(answer))
        return bool(mpmath.fabs(expected - found) <= tolerance * mpmath.fabs(expected))
    if not names[0] and not names[1]:
        return same_constants(gold, answer)
    return identical(gold, answer)
