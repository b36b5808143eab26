r"""Families of solutions, such as `n\pi` for every whole n: the name of a counter says nothing.

Knows how a counter is declared (`n\pi, n \in \mathbb{Z}`, `\{n\pi : n \in \mathbb{Z}\}`), and where
it need not be: `x = k\pi` is every multiple of pi, since k, l, m and n count and the solutions of
periodic equations are counted so. Any other name without a declaration is a name.
"""

from fractions import Fraction

import mpmath

from asymrl.verifiers.equality.equations import assigned, line
from asymrl.verifiers.equality.values import Beyond, Value, close, constant, has, number, symbols
from asymrl.verifiers.latex.tree import Node

WHOLE = "any whole number"  # the name given to a declared counter, which no text can have
_COUNTER = "a counter"  # and to one that is not declared
_COUNTING = frozenset("klmn")
_PI: Node = ("sym", "pi")

Family = tuple[Node, str, str]  # a value with a counter, the counter, the set that it runs through


def renamed(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Both with their counters named alike; as they are where one is no family."""
    one, other = _declared(gold), _declared(answer)
    if one and other:
        if one[2] != other[2]:
            return gold, answer
        return _counted(*one), _counted(*other)
    if one and one[2] == "Z":
        name = _only(_free(answer) - (_free(one[0]) - {one[1]}))
        return (_counted(*one), _counted(answer, name, "Z")) if name else (gold, answer)
    counter = _only(_free(gold) & _COUNTING)
    if one or not counter or not _periodic(gold, counter):
        return gold, answer
    if other and other[2] == "Z":
        return _named(gold, counter, _COUNTER), _named(other[0], other[1], _COUNTER)
    name = _only(_free(answer) & _COUNTING)
    if not name or gold[0] not in ("rel", "list", "braces"):
        return gold, answer
    return _named(gold, counter, _COUNTER), _named(answer, name, _COUNTER)


def _counted(node: Node, name: str, among: str) -> Node:
    """With a plain name for the counter: WHOLE where one unknown runs through values b + m n."""
    members = node[1:] if node[0] in ("list", "braces") else (node,)
    names = {member[2][0] for member in members if member[0] == "rel"}
    steps = len(names) < 2 and all(line(value, name) for value in _values(node))
    return _named(node, name, WHOLE if among == "Z" and steps else f"{_COUNTER} in {among}")


def _only(names: frozenset[str]) -> str:
    return next(iter(names)) if len(names) == 1 else ""


def _declared(node: Node) -> Family | None:
    r"""The parts of `n\pi, n \in \mathbb{Z}` and of `\{n\pi : n \in \mathbb{Z}\}`."""
    if node[0] == "such":
        name, among = _membership(node[2])
        return (node[1], name, among) if name in symbols(node[1]) else None
    if node[0] != "list":
        return None
    memberships = [member for member in node[1:] if _membership(member)[0]]
    others = [member for member in node[1:] if not _membership(member)[0]]
    if len(memberships) != 1 or not others:
        return None
    (name, among), body = _membership(memberships[0]), ("list", *others)
    unknown = (assigned(m) or symbols(m) - {name} for m in others if m[0] == "rel")
    if name not in _free(body) or not all(unknown):  # x > 0, x in Z is about x itself
        return None
    return (others[0] if len(others) == 1 else body), name, among


def _membership(node: Node) -> tuple[str, str]:
    r"""n and Z of `n \in \mathbb{Z}`; empty for anything else."""
    if (
        node[0] == "rel"
        and node[1] == ("in",)
        and (node[2][0][0], node[2][1][0]) == ("sym", "field")
    ):
        return node[2][0][1], node[2][1][1]
    return "", ""


def _values(node: Node) -> list[Node]:
    """The members of a list or set without their names."""
    members = node[1:] if node[0] in ("list", "braces") else (node,)
    return [assigned(member) or member for member in members]


def _free(node: Node) -> frozenset[str]:
    return frozenset().union(*map(symbols, _values(node)))


def _periodic(node: Node, name: str) -> bool:
    """Whether every value is a fixed one and so many times a rational part of pi, or degrees."""
    for value in _values(node):
        parts = line(value, name)
        period = line(_named(parts[0], "pi", _COUNTER), _COUNTER) if parts else None
        if parts is None or period is None:
            return False
        try:
            of_pi = isinstance(constant(period[0]), Fraction) and constant(period[1]) == 0
            if constant(parts[0]) == 0 or not (of_pi or has(parts[0], "deg")):
                return False
        except Beyond:
            return False
    return True


def _named(node: Node, old: str, new: str) -> Node:
    if node == ("sym", old):
        return ("sym", new)
    return tuple(_named(part, old, new) if isinstance(part, tuple) else part for part in node)


def builder(node: Node) -> tuple[Node, Node]:
    """The head and the condition of {... : ...}, with the one name bound by both made plain."""
    bound = _only(symbols(node[1]) & symbols(node[2]))
    return _named(node[1], bound, _COUNTER), _named(node[2], bound, _COUNTER)


def same_progression(one: Node, other: Node) -> bool:
    """Whether b + m n runs through the same values over all whole n: 2n + 1 and 2n - 1."""
    first, second = line(one, WHOLE), line(other, WHOLE)
    if first is None or second is None:
        return False
    (m, b), (n, c) = first, second
    try:
        steps = constant(("div", m, n)), constant(("div", ("add", b, ("neg", c)), m))
    except Beyond:
        return False
    return all(map(_whole, steps)) and close(abs(number(steps[0])), mpmath.mpf(1))


def _whole(value: Value) -> bool:
    value = number(value)
    return not isinstance(value, mpmath.mpc) and close(value + 1, mpmath.nint(value) + 1)
