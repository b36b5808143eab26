r"""Trees -> whether two answers are the same: lists, tuples, sets, equations, matrices, numbers.

Knows the conventions of mathematical answers: order matters in tuples and nowhere else; 5 answers
`x = 5`, but only an equation answers an equation that assigns nothing; an interval equals the
inequality that describes it; 10\% is 10 and 0.1; 90 degrees is 90 and pi/2; extra or missing
members make a list wrong. `same(gold, answer)` is not symmetric: the gold says what was asked for.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import chain

import mpmath

from asymrl.verifiers.equality.alternatives import alike
from asymrl.verifiers.equality.congruences import is_congruence, residues, same_residues
from asymrl.verifiers.equality.domains import without_domains
from asymrl.verifiers.equality.equations import assigned_value, expand_tuples, same_equation, solves
from asymrl.verifiers.equality.families import (
    INTEGER_COUNTER,
    declared_residues,
    same_progression,
    set_builder_parts,
    unify_counters,
)
from asymrl.verifiers.equality.matrices import entries
from asymrl.verifiers.equality.piecewise import same_cases
from asymrl.verifiers.equality.regions import is_region, same_region, symbolic_interval
from asymrl.verifiers.equality.renaming import renamings
from asymrl.verifiers.equality.units import degrees_to_radians, to_common_unit
from asymrl.verifiers.equality.values import NoValue, constant_value, folded, identical, to_mpmath
from asymrl.verifiers.latex.tree import RADIANS_PER_DEGREE, ZERO, Node, has, map_children, symbols

MAX_MEMBERS = 60  # longer lists must be equal as written, unless they hold plain numbers
_NAMING = (("=",), ("in",))
_UNORDERED = ("list", "braces", "empty")
_SET_OPERATIONS = ("cup", "cap", "without")
_INDEXED = re.compile(r"([a-zA-Z])(?:_(\d+))?")


def same_answer(gold: Node, answer: Node, tolerance: float = 0.0) -> bool:
    """Whether the answer equals the gold, apart from domains and names that do not matter."""
    if same(gold, answer, tolerance):
        return True
    bare = without_domains(gold, answer)
    if bare != (gold, answer):
        return same_answer(*bare, tolerance)
    return any(same(gold, renamed, tolerance) for renamed in renamings(gold, answer))


def same(gold: Node, answer: Node, tolerance: float = 0.0) -> bool:
    """Whether the answer equals the gold. tolerance: relative, for numbers."""
    if gold == answer:
        return not _is_undefined(gold)
    if gold[0] == "given" or answer[0] == "given":
        return _same_under_conditions(gold, answer, tolerance)
    if is_congruence(gold):
        return same_residues(residues(gold), declared_residues(answer) or residues(answer))
    if is_congruence(answer) and (gold_residues := declared_residues(gold)):
        return same_residues(gold_residues, residues(answer))
    gold, answer = alike(gold, answer), alike(answer, gold)
    if (unitless := to_common_unit(gold, answer)) is None:
        return False
    gold, answer = map(expand_plus_minus, unify_counters(*unitless))
    if is_region(gold) or is_region(answer):
        decided = same_region(_unnamed_set(gold), _unnamed_set(answer))
        if decided is not None:
            return decided
        if "tuple" in (gold[0], answer[0]):
            gold, answer = symbolic_interval(gold), symbolic_interval(answer)
    if "or" in (gold[0], answer[0]) and gold[0] != answer[0]:
        return False
    if gold[0] in _SET_OPERATIONS or answer[0] in _SET_OPERATIONS:
        return _same_operation(gold, answer, tolerance)
    if gold[0] in (*_UNORDERED, "or") or answer[0] in _UNORDERED:
        return _same_members(gold, answer, tolerance)
    if gold[0] == "rel" or answer[0] == "rel":
        return _same_relations(gold, answer, tolerance)
    if gold[0] == "tuple" or answer[0] == "tuple":
        return _same_tuples(gold, answer, tolerance)
    if gold[0] == answer[0] == "such":
        return all(map(same, set_builder_parts(gold), set_builder_parts(answer)))
    if gold[0] == answer[0] == "ratio" and len(gold) == len(answer) > 3:
        return _proportional(gold[1:], answer[1:])
    if gold[0] == answer[0] == "run":
        return _pairwise(gold[1:], answer[1:], tolerance)
    if gold[0] == answer[0] == "piecewise":
        return same_cases(gold, answer, lambda a, b: same(a, b, tolerance))
    if has(gold, "matrix") or has(answer, "matrix"):
        return _same_matrices(gold, answer)
    return same_value(gold, answer, tolerance)


def _same_operation(gold: Node, answer: Node, tolerance: float) -> bool:
    """Unions and intersections of the same sets in any order, differences in the same one."""
    if gold[0] != answer[0]:
        return False
    if gold[0] == "without":
        return _pairwise(gold[1:], answer[1:], tolerance)
    return _same_members(("braces", *gold[1:]), ("braces", *answer[1:]), tolerance)


def _same_under_conditions(gold: Node, answer: Node, tolerance: float) -> bool:
    """`x^2 for x > 0`: both have the condition, or only the answer has one, in plain words."""
    if gold[0] == answer[0]:
        parts = zip(gold[1:], answer[1:], strict=True)
        return all(a == b or (a[0] != "words" and same(a, b, tolerance)) for a, b in parts)
    return gold[0] != "given" and answer[2][0] == "words" and same(gold, answer[1], tolerance)


def _unnamed_set(node: Node) -> Node:
    """The set after `S =`. `x in (0, 1)` is unchanged: it names its unknown."""
    return node if node[:2] == ("rel", ("in",)) else assigned_value(node) or node


def _is_undefined(node: Node) -> bool:
    """Whether a number is undefined, such as 0/0, and so equals nothing, not even itself."""
    if node[0] not in ("div", "pow", "neg") or symbols(node):
        return False
    try:
        constant_value(node)
    except NoValue as error:
        return isinstance(error.__cause__, ZeroDivisionError)
    return False


def expand_plus_minus(node: Node) -> Node:
    """A tree with plus-minus signs as the list of its two values; nested such lists are flat."""
    if node[0] in ("list", "braces"):
        members: list[Node] = []
        for written in node[1:]:
            member = expand_plus_minus(written)
            is_new = member[0] == "list" != written[0]
            members += member[1:] if is_new else (member,)
        return (node[0], *members)
    if node[0] == "rel" and has(node, "pm") and len(node[2]) == 2:
        values = expand_plus_minus(node[2][1])
        if values[0] == "list" and not has(node[2][0], "pm"):
            return ("list", *((*node[:2], (node[2][0], value), node[3]) for value in values[1:]))
    if node[0] == "rel" or not has(node, "pm"):
        return node
    return ("list", _with_sign(node, plus=True), _with_sign(node, plus=False))


def _with_sign(node: Node, plus: bool) -> Node:
    if node[0] == "pm":
        inner = _with_sign(node[1], plus)
        return inner if plus else ("neg", inner)
    return map_children(lambda child: _with_sign(child, plus), node)


def _members(node: Node) -> list[Node]:
    if node[0] in ("list", "braces", "or"):
        return _propagate_names(node[1:])
    if node[0] == "empty":
        return []
    if node[0] == "rel" and node[1] in _NAMING and node[2][1][0] in _UNORDERED and node[3][0]:
        return list(node[2][1][1:])
    return expand_tuples(node)


def _propagate_names(members: Sequence[Node]) -> list[Node]:
    """x = 1, 2 as x = 1, x = 2: a value without a name takes the name before it."""
    named: list[Node] = []
    last: Node | None = None
    for member in members:
        last = member if _assigned_name(member) and len(member[2]) == 2 else last
        bare = last and member[0] not in ("rel", "tuple", "list", "braces")
        named.append((*last[:2], (last[2][0], member), last[3]) if last and bare else member)
    return named


def _same_members(gold: Node, answer: Node, tolerance: float) -> bool:
    """Whether two lists or sets have the same members, in any order, equally often.

    An answer may repeat a member that the gold has once. If the gold names its values differently
    (a = 2, b = 3), an answer without names must give them in the gold's order.
    """
    if gold[0] == "tuple" or answer[0] == "tuple":
        return _same_point(gold, answer, tolerance)
    expected, actual = _members(gold), _members(answer)
    names = {name for member in expected if (name := _assigned_name(member))}
    if len(names) > 1 and not any(map(_assigned_name, actual)):
        return _pairwise(expected, actual, tolerance)
    one, two = _sorted_numbers(expected), _sorted_numbers(actual)
    if one is not None and two is not None:
        return one == two or (len(set(one)) == len(one) and one == sorted(set(two)))
    if max(len(expected), len(actual)) > MAX_MEMBERS:
        return expected == actual
    if len(actual) != len(expected):
        repeated = len(_distinct(expected, tolerance)) < len(expected)
        actual = actual if repeated else _distinct(actual, tolerance)
    if len(actual) != len(expected):
        return False
    unmatched = list(actual)
    for member in expected:
        matches = (other for other in unmatched if _same_member(member, other, tolerance))
        if (match := next(matches, None)) is None:
            return False
        unmatched.remove(match)
    return True


def _same_member(gold: Node, answer: Node, tolerance: float) -> bool:
    """{1} equals 1 on its own, but not as a member of a list."""
    return (gold[0] == "braces") == (answer[0] == "braces") and same(gold, answer, tolerance)


def _assigned_name(member: Node) -> Node | None:
    """The x of x = 5; None if the member is not an assignment."""
    return member[2][0] if member[0] == "rel" and member[1] == ("=",) and member[3][0] else None


def _same_point(gold: Node, answer: Node, tolerance: float) -> bool:
    """Whether (a, b) equals x = a, y = b, with the names in alphabetical order."""
    point, named = (gold, answer) if gold[0] == "tuple" else (answer, gold)
    if point[1:3] != ("(", ")") or named[0] != "list":
        return False
    places = []
    for member in named[1:]:
        name = _assigned_name(member)
        match = _INDEXED.fullmatch(name[1]) if name and name[0] == "sym" else None
        if match is None or not assigned_value(member):
            return False
        places.append((match[1], int((match[2] or "0")[:9])))
    if len(set(places)) < len(places):
        return False
    values = [member for _, member in sorted(zip(places, named[1:], strict=True))]
    pair = (point[3:], values) if point is gold else (values, point[3:])
    return _pairwise(*pair, tolerance)


def _pairwise(golds: Sequence[Node], answers: Sequence[Node], tolerance: float) -> bool:
    same_length = len(golds) == len(answers)
    return same_length and all(same(a, b, tolerance) for a, b in zip(golds, answers, strict=True))


def _sorted_numbers(members: list[Node]) -> list[Fraction] | None:
    """The members, sorted, if all are plain numbers. Fast for long lists."""
    numbers = []
    for member in members:
        sign, plain = (-1, member[1]) if member[0] == "neg" else (1, member)
        if plain[0] != "num":
            return None
        numbers.append(sign * plain[1])
    return sorted(numbers)


def _distinct(members: list[Node], tolerance: float) -> list[Node]:
    distinct: list[Node] = []
    for member in members:
        if not any(same(member, other, tolerance) for other in distinct):
            distinct.append(member)
    return distinct


def _same_tuples(gold: Node, answer: Node, tolerance: float) -> bool:
    if gold[0] != answer[0]:
        return False
    as_round = {"langle": "(", "rangle": ")"}
    brackets = [[as_round.get(sign, sign) for sign in node[1:3]] for node in (gold, answer)]
    return brackets[0] == brackets[1] and _pairwise(gold[3:], answer[3:], tolerance)


def _same_relations(gold: Node, answer: Node, tolerance: float) -> bool:
    """Two equations or assignments, or one of these and a value."""
    if gold[0] == answer[0] == "rel":
        return same_equation(gold, answer, lambda a, b: same(a, b, tolerance))
    if gold[0] == "rel":
        value = assigned_value(gold)
        return same(value, answer, tolerance) if value else solves(answer, gold)
    value = assigned_value(answer, named=False)
    return value is not None and same(gold, value, tolerance)


def _proportional(gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
    """Whether two ratios a : b : c differ by a common factor other than 0."""
    at = next((i for i, part in enumerate(gold) if not identical(part, ZERO)), None)
    if at is None or identical(answer[at], ZERO):
        return False
    return all(
        identical(("mul", gold[at], there), ("mul", answer[at], here))
        for here, there in zip(gold, answer, strict=True)
    )


def _same_matrices(gold: Node, answer: Node) -> bool:
    try:
        one, other = entries(gold), entries(answer)
    except NoValue:
        return False
    same_shape = [*map(len, one)] == [*map(len, other)]
    return same_shape and all(map(same_value, chain(*one), chain(*other)))


def same_value(gold: Node, answer: Node, tolerance: float = 0.0) -> bool:
    """Numbers and expressions. A percent or degree sign on one side alone counts or is ignored."""
    if "base" in (gold[0], answer[0]):
        return gold == answer
    try:
        if _close(gold, answer, tolerance):
            return True
        for mark, factor in (("pct", ("num", Fraction(1, 100))), ("deg", RADIANS_PER_DEGREE)):
            marked = has(gold, mark), has(answer, mark)
            if marked == (True, False) and _close(("mul", gold, factor), answer, tolerance):
                return True
            if marked == (False, True) and _close(gold, ("mul", answer, factor), tolerance):
                return True
        if has(gold, "deg") != has(answer, "deg"):
            return _close(degrees_to_radians(gold), degrees_to_radians(answer), tolerance)
    except NoValue:
        return folded(gold) == folded(answer) and not _is_undefined(gold)
    return False


def _close(gold: Node, answer: Node, tolerance: float) -> bool:
    names = symbols(gold), symbols(answer)
    if INTEGER_COUNTER in names[0] & names[1] and same_progression(gold, answer):
        return True
    if tolerance and not names[0] and not names[1]:
        expected, actual = to_mpmath(constant_value(gold)), to_mpmath(constant_value(answer))
        return bool(mpmath.fabs(expected - actual) <= tolerance * mpmath.fabs(expected))
    return identical(gold, answer)
