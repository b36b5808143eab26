r"""Lists with dots: `1, 2, \ldots, 9` is written out, `1, 2, \ldots, n` becomes a `run`.

Knows progressions with a constant step; any other list with dots equals only the same list.
"""

from fractions import Fraction
from itertools import pairwise

from asymrl.verifiers.latex.tree import ONE, ZERO, Node

DOTS: Node = ("dots",)
MAX_WRITTEN_OUT = 1000


def write_out(members: list[Node]) -> list[Node]:
    """The members of a list in which dots stand for members; without dots, the members."""
    if DOTS not in members:
        return members
    at = members.index(DOTS)
    named = next((i for i in range(at - 1, -1, -1) if _is_start(members[i])), None)
    if named is not None:
        ranged = _range(members[named], members[named + 1 : at], members[at + 1 :])
        return [*members[:named], ranged] if ranged and named else [("run", *members)]
    heads, ends = members[:at], members[at + 1 :]
    values = [_number(head) for head in heads]
    steps = {b - a for a, b in pairwise(values) if a is not None and b is not None}
    if None in values or len(ends) > 1 or not values or len(steps) > 1:
        return [("run", *members)]
    first, step = values[0], steps.pop() if steps else Fraction(1)
    last = _number(ends[0]) if ends else None
    if first is None or step == 0:
        return [("run", *members)]
    if last is None:
        return [("run", _node(first), _node(first + step), *(ends or [DOTS]))]
    count = (last - first) / step
    if count.denominator != 1 or not len(heads) <= count + 1 <= MAX_WRITTEN_OUT:
        return [("run", *members)]
    return [_node(first + i * step) for i in range(int(count) + 1)]


def _is_start(node: Node) -> bool:
    return node[0] == "rel" and node[1] == ("=",) and node[2][0][0] == "sym"


def _range(start: Node, others: list[Node], ends: list[Node]) -> Node | None:
    """`n = 1, 2, ...` as n >= 1, and `k = 0, +-1, ...` as k in Z; None for any other range."""
    name, first = start[2]
    if ends or not others:
        return None
    if first == ZERO and others[0] == ("pm", ONE):
        return ("rel", ("in",), (name, ("field", "Z")), (True, False))
    values = [_number(member) for member in (first, *others)]
    if None in values or any(a is None or b != a + 1 for a, b in pairwise(values)):
        return None
    return ("rel", (">=",), (name, first), (True, False))


def _number(node: Node) -> Fraction | None:
    if node[0] == "neg" and node[1][0] == "num":
        return -node[1][1]
    return node[1] if node[0] == "num" else None


def _node(value: Fraction) -> Node:
    return ("neg", ("num", -value)) if value < 0 else ("num", value)
