r"""Families of solutions, such as `n\pi` for every integer n: the counter's name does not matter.

Knows how a counter is declared (`n\pi, n \in \mathbb{Z}`, `\{n\pi : n \in \mathbb{Z}\}`), and where
it need not be: `x = k\pi` is every multiple of pi, because solutions of periodic equations are
counted by k, l, m and n. Any other undeclared name is an ordinary unknown.
"""

from fractions import Fraction

import mpmath

from asymrl.verifiers.equality.congruences import Residues, residues
from asymrl.verifiers.equality.equations import assigned_value, linear_form
from asymrl.verifiers.equality.values import NoValue, Value, close, constant_value, to_mpmath
from asymrl.verifiers.latex.tree import Node, has, map_children, symbols

# Names for counters that no text can contain.
INTEGER_COUNTER = "any integer"  # declared, with values b + m n
_COUNTER = "a counter"  # any other
_COUNTING = frozenset("klmn")
_PI: Node = ("sym", "pi")

Family = tuple[Node, str, str]  # a value with a counter, the counter's name, its domain


def unify_counters(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Both with the same name for their counters; unchanged if either is not a family."""
    one, other = _declared_family(gold), _declared_family(answer)
    if one and other:
        if one[2] != other[2]:
            return gold, answer
        return _with_counter(*one), _with_counter(*other)
    if one and one[2] == "Z":
        name = _single(_unknowns(answer) - (_unknowns(one[0]) - {one[1]}))
        return (_with_counter(*one), _with_counter(answer, name, "Z")) if name else (gold, answer)
    counter = _single(_unknowns(gold) & _COUNTING)
    if one or not counter or not is_periodic(gold, counter):
        return gold, answer
    if other and other[2] == "Z":
        return _rename(gold, counter, _COUNTER), _rename(other[0], other[1], _COUNTER)
    name = _single(_unknowns(answer) & _COUNTING)
    if not name or gold[0] not in ("rel", "list", "braces"):
        return gold, answer
    return _rename(gold, counter, _COUNTER), _rename(answer, name, _COUNTER)


def _with_counter(node: Node, name: str, domain: str) -> Node:
    """The tree with a fixed name for its counter.

    INTEGER_COUNTER where one unknown takes the values b + m n, n in Z; else a name with the domain.
    """
    names = {member[2][0] for member in _listed(node) if member[0] == "rel"}
    steps = len(names) < 2 and all(linear_form(value, name) for value in _values(node))
    return _rename(
        node, name, INTEGER_COUNTER if domain == "Z" and steps else f"{_COUNTER} in {domain}"
    )


def _single(names: frozenset[str]) -> str:
    """The only name in a set; empty if there are several or none."""
    return next(iter(names)) if len(names) == 1 else ""


def _declared_family(node: Node) -> Family | None:
    r"""The parts of `n\pi, n \in \mathbb{Z}` or `\{n\pi : n \in \mathbb{Z}\}`; else None."""
    if node[0] == "such":
        name, domain = _membership(node[2])
        return (node[1], name, domain) if name in symbols(node[1]) else None
    if node[0] != "list":
        return None
    others = [member for member in node[1:] if not any(_membership(member))]
    declared = [pair for member in node[1:] if any(pair := _membership(member))]
    if len(declared) != 1 or not others:
        return None
    (name, domain), body = declared[0], ("list", *others)
    unknown = (assigned_value(m) or symbols(m) - {name} for m in others if m[0] == "rel")
    if name not in _unknowns(body) or not all(unknown):  # x > 0, x in Z is about x itself
        return None
    return (others[0] if len(others) == 1 else body), name, domain


def declared_residues(node: Node) -> Residues | None:
    """The class of integers of a declared family (`7k + 3, k in Z`) or of an assigned one
    (`n = 7k + 3`); None for any other tree."""
    family = _declared_family(node)
    if family and family[2] == "Z":
        return residues(family[0])
    return residues(node) if node[0] == "rel" else None


def _membership(node: Node) -> tuple[str, str]:
    r"""n and Z for `n \in \mathbb{Z}`; two empty strings for any other node."""
    match node:
        case ("rel", ("in",), (("sym", name), ("field", domain)), _):
            return name, domain
    return "", ""


def _listed(node: Node) -> tuple[Node, ...]:
    """The members of a list or set; any other node alone."""
    return node[1:] if node[0] in ("list", "braces") else (node,)


def _values(node: Node) -> list[Node]:
    """The members of a list or set without their names."""
    return [assigned_value(member) or member for member in _listed(node)]


def _unknowns(node: Node) -> frozenset[str]:
    return frozenset().union(*map(symbols, _values(node)))


def is_periodic(node: Node, name: str) -> bool:
    """Whether every value is b + m name, where m is a rational multiple of pi or in degrees."""
    for value in _values(node):
        parts = linear_form(value, name)
        period = linear_form(_rename(parts[0], "pi", _COUNTER), _COUNTER) if parts else None
        if parts is None or period is None:
            return False
        try:
            per_pi, rest = map(constant_value, period)
            of_pi = isinstance(per_pi, Fraction) and rest == 0
            if constant_value(parts[0]) == 0 or not (of_pi or has(parts[0], "deg")):
                return False
        except NoValue:
            return False
    return True


def _rename(node: Node, old: str, new: str) -> Node:
    if node == ("sym", old):
        return ("sym", new)
    return map_children(lambda child: _rename(child, old, new), node)


def set_builder_parts(node: Node) -> tuple[Node, Node]:
    """The head and the condition of {... : ...}, with a fixed name for the bound variable."""
    bound = _single(symbols(node[1]) & symbols(node[2]))
    return _rename(node[1], bound, _COUNTER), _rename(node[2], bound, _COUNTER)


def same_progression(one: Node, other: Node) -> bool:
    """Whether b + m n takes the same values over all integers n, as 2n + 1 and 2n - 1 do."""
    first, second = linear_form(one, INTEGER_COUNTER), linear_form(other, INTEGER_COUNTER)
    if first is None or second is None:
        return False
    (m, b), (n, c) = first, second
    try:
        steps = constant_value(("div", m, n)), constant_value(("div", ("add", b, ("neg", c)), m))
    except NoValue:
        return False
    return all(map(_is_integer, steps)) and close(abs(to_mpmath(steps[0])), mpmath.mpf(1))


def _is_integer(value: Value) -> bool:
    value = to_mpmath(value)
    return not isinstance(value, mpmath.mpc) and close(value + 1, mpmath.nint(value) + 1)
