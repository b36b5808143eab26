r"""Notations that mean something only beside another: what an answer is when the gold is a point.

`P(2, 3)` is a point where the other side is one, and a number of permutations where it is a number.
`\hat i + 2\hat j` is a tuple beside a tuple, `[[1, 2], [3, 4]]` a matrix beside a matrix, and
the positive integers are 1, 2, ... beside a list.
"""

import re
from fractions import Fraction

from asymrl.verifiers.equality.equations import linear_form
from asymrl.verifiers.equality.values import NoValue, constant_value
from asymrl.verifiers.latex.ellipsis import DOTS
from asymrl.verifiers.latex.tree import ONE, ZERO, Node, has, map_children, symbols

_POINT = re.compile(r"[A-Z](?:_\w+)?(?: ')*")
_UNIT_VECTORS = ("i hat", "j hat", "k hat")
_LISTED: dict[Node, Node] = {
    ("field", "Z+"): ("run", ONE, ("num", Fraction(2)), DOTS),
    ("field", "Z>="): ("run", ZERO, ONE, DOTS),
}


def alike(node: Node, other: Node) -> Node:
    """The node, read as the kind of thing that the other one is."""
    if other[0] == "run" and node in _LISTED:
        return _LISTED[node]
    if other[0] == "tuple":
        return _coordinates(node, other)
    if other[0] == "matrix" and node[0] == "tuple":
        return _as_matrix(node)
    if node[0] != "tuple" and has(node, "tuple") and not has(other, "tuple", "cup"):
        return _counted(node)
    return node


def _coordinates(node: Node, point: Node) -> Node:
    """(2, 3) for P(2, 3) and for 2 i + 3 j; any other node unchanged."""
    match node:
        case ("mul", ("sym", name), ("tuple", "(", ")", *entries)) if _POINT.fullmatch(name):
            return ("tuple", "(", ")", *entries)
    names = _UNIT_VECTORS[: len(point) - 3]
    if len(names) < len(point) - 3 or not symbols(node) & set(names):
        return node
    parts_of: list[Node] = []
    for name in names:
        parts = linear_form(node, name)
        if parts is None:
            return node
        entry, node = parts
        parts_of.append(entry)
    try:
        return ("tuple", "(", ")", *parts_of) if constant_value(node) == 0 else node
    except NoValue:
        return node


def _as_matrix(node: Node) -> Node:
    """[[1, 2], [3, 4]] as a matrix."""
    rows = node[3:]
    square = all(row[:3] == ("tuple", "[", "]") for row in (node, *rows))
    if not square or len({len(row) for row in rows}) > 1:
        return node
    return ("matrix", *(row[3:] for row in rows))


def _counted(node: Node) -> Node:
    """C(5, 3) as a binomial coefficient, and P(5, 3) as a number of permutations."""
    match node:
        case ("mul", ("sym", "C"), ("tuple", "(", ")", n, k)):
            return ("call", "binom", n, k)
        case ("mul", ("sym", "P"), ("tuple", "(", ")", n, k)):
            return ("div", ("fact", n), ("fact", ("add", n, ("neg", k))))
    return map_children(_counted, node)
