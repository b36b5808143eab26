r"""Expressions as m x + b, read off their trees.

Knows structure and samples nothing: |x| and a floor are straight between some points and no lines.
Coefficients are trees too, so that they may hold other unknowns; a product of two factors with the
unknown is no line, whatever may cancel.
"""

from fractions import Fraction

from asymrl.verifiers.expressions import Node
from asymrl.verifiers.values import symbols

ZERO: Node = ("num", Fraction(0))
ONE: Node = ("num", Fraction(1))

Line = tuple[Node, Node]


def line(node: Node, name: str) -> Line | None:
    """(m, b), both free of the unknown; m is ZERO where it does not occur, None for no line."""
    if name not in symbols(node):
        return ZERO, node
    match node:
        case ("sym", _):
            return ONE, ZERO
        case ("neg", inner):
            parts = line(inner, name)
            return parts and (("neg", parts[0]), ("neg", parts[1]))
        case ("add", *terms):
            lines = [line(term, name) for term in terms]
            known = [parts for parts in lines if parts]
            if len(known) < len(lines):
                return None
            return ("add", *(m for m, _ in known)), ("add", *(b for _, b in known))
        case ("mul", one, other):
            varying, factor = (one, other) if name in symbols(one) else (other, one)
            parts = line(varying, name)
            if parts is None or name in symbols(factor):
                return None
            return ("mul", factor, parts[0]), ("mul", factor, parts[1])
        case ("div", over, under) if name not in symbols(under):
            parts = line(over, name)
            return parts and (("div", parts[0], under), ("div", parts[1], under))
    return None
