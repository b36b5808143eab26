"""Functions defined by cases: the same values under the same conditions, in any order.

Knows `piecewise` trees. `otherwise` is what the other conditions leave of the real numbers, if
these are inequalities in one unknown.
"""

from collections.abc import Callable

from asymrl.verifiers.equality.regions import complement, merged, regions, same_intervals
from asymrl.verifiers.equality.values import NoValue
from asymrl.verifiers.latex.tree import Node

MAX_CASES = 20
_REST: Node = ("words", "otherwise")


def same_cases(gold: Node, answer: Node, same: Callable[[Node, Node], bool]) -> bool:
    """Whether each case of the gold is a case of the answer, and no more."""
    unmatched = list(answer[1:])
    if len(gold) != len(answer) or len(gold) > MAX_CASES:
        return False
    for case in gold[1:]:
        matching = (
            other
            for other in unmatched
            if same(case[1], other[1]) and _same_condition(gold, case[2], answer, other[2], same)
        )
        if (match := next(matching, None)) is None:
            return False
        unmatched.remove(match)
    return True


def _same_condition(
    gold: Node, one: Node, answer: Node, other: Node, same: Callable[[Node, Node], bool]
) -> bool:
    if one[0] == other[0] == "words":
        return one == other
    if _REST in (one, other):
        try:
            return _same_places(_places(gold, one), _places(answer, other))
        except NoValue:
            return False
    return one[0] != "words" != other[0] and same(one, other)


def _same_places(one: dict[str, list], other: dict[str, list]) -> bool:
    return one.keys() == other.keys() and all(
        same_intervals(one[name], other[name]) for name in one
    )


def _places(function: Node, condition: Node) -> dict[str, list]:
    """Where a condition of a function holds, for each unknown."""
    if condition != _REST:
        return regions(condition)
    parts = [regions(case[2]) for case in function[1:] if case[2] != _REST]
    names = {name for part in parts for name in part}
    if len(names) != 1 or "" in names:
        raise NoValue("conditions on several unknowns")
    (name,) = names
    return {name: complement(merged([span for part in parts for span in part[name]]))}
