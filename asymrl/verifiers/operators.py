r"""Sums, products, integrals and limits: `\sum_{k=1}^n k^2`, `\int_0^1 x dx`, `\lim_{x \to 0} ...`.

Knows how they are written; `symbolic` works them out. Each is a node of its name, with what it
ranges over, its variable, and the bounds (the point, for a limit).
"""

from typing import TYPE_CHECKING

from asymrl.verifiers.tokens import Unreadable

if TYPE_CHECKING:
    from asymrl.verifiers.expressions import Node, Reader

OPERATORS = frozenset({"sum", "prod", "int", "lim"})
_OPENING, _CLOSING = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")


def operation(reader: "Reader", name: str) -> "Node":
    """The operator after whose macro the reader stands."""
    if not reader.take("_"):
        raise Unreadable(f"{name} without bounds")
    below = reader.argument()
    if name == "int":
        return _integral(reader, below)
    if below[0] != "rel" or below[1] != ("=",) or below[2][0][0] != "sym":
        raise Unreadable(f"{name} over no variable")
    variable, start = below[2]
    if name == "lim":
        return ("lim", reader.product(), variable, start)
    reader.need("^")
    end = reader.argument()
    return (name, reader.product(), variable, start, end)


def _integral(reader: "Reader", low: "Node") -> "Node":
    """Up to the `dx` that is inside no other bracket."""
    reader.need("^")
    high = reader.argument()
    start, depth = reader.at, 0
    while kind := reader.kind():
        depth += (kind in _OPENING) - (kind in _CLOSING)
        differential = (kind, reader.text(), reader.kind(1)) == ("name", "d", "name")
        if depth < 0 or (depth == 0 and differential):
            break
        reader.at += 1
    if depth or reader.kind(1) != "name":
        raise Unreadable("an integral without its differential")
    inner = type(reader)(reader.tokens[start : reader.at], reader.inside)
    body, variable = inner.sum(), ("sym", reader.text(1))
    if inner.kind():
        raise Unreadable("an integral of no expression")
    reader.at += 2
    return ("int", body, variable, low, high)


def quotient(over: "Node", under: "Node") -> "Node":
    r"""What \frac is: a quotient, or a derivative, whose d's do not cancel.

    \frac{dy}{dx} is an unknown of its own, y' as it were; \frac{d}{dx} of something is unfinished.
    """
    for name in ("d", "partial"):
        if under[0] == "mul" and _first(over) == _first(under) == ("sym", name):
            if over[0] != "mul":
                raise Unreadable("a derivative is not worked out")
            return ("sym", f"derivative {over} {under}")
    return ("div", over, under)


def _first(node: "Node") -> "Node":
    """The leading factor, without its power."""
    while node[0] in ("mul", "pow"):
        node = node[1]
    return node
