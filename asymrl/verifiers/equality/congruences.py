r"""Congruences: n = 3 (mod 7) is a class of integers, neither the number 3 nor one of its members.

Knows how a class is written: `n \equiv 3 \pmod 7`, `n \equiv 1, 4 \pmod 5`, `n \bmod 7 = 3`,
`n = 7k + 3` and `7k + 3`. Two classes are the same if they have the same integers; if both name the
unknown, the names must agree.
"""

from fractions import Fraction

from asymrl.verifiers.equality.equations import linear_form
from asymrl.verifiers.equality.values import NoValue, constant_value
from asymrl.verifiers.latex.tree import Node, children, map_children, symbols

MAX_MODULUS = 10_000  # larger ones are compared as they are written
MAX_RESIDUES = 1_000
Residues = tuple[
    Node | None, frozenset[int], int
]  # the unknown if it has a name, residues, modulus


def is_congruence(node: Node) -> bool:
    """Whether a tree states a congruence of an unknown; `17 \\pmod{23}` alone is a number."""
    if _is_collection(node):
        last = node[-1]
        return any(is_congruence(child) for child in node[1:]) or (
            _modulus(last) is not None and node[1][0] == "rel" and node[1][1] == ("=",)
        )
    if node[0] != "rel" or node[1] != ("=",):
        return False
    left, right = node[2]
    if _is_call(left, "mod"):
        return left[2][0] == "sym" and left[3][0] == "num" and _integer(right) is not None
    return left[0] == "sym" and bool(symbols(left)) and _modulus(right) is not None


def residues(node: Node) -> Residues | None:
    """The class of integers that a tree describes; None if it describes none."""
    if _is_collection(node):
        return _union(node)
    if is_congruence(node):
        left, right = node[2]
        if _is_call(left, "mod"):
            return _residues(left[2], right, left[3])
        return _residues(left, *_split(right))
    if _modulus(node) is not None:
        return _residues(None, *_split(node))
    if node[0] == "rel" and node[1] == ("=",) and node[2][0][0] == "sym":
        return _progression(node[2][0], node[2][1])
    return _progression(None, node)


def same_residues(one: Residues | None, other: Residues | None) -> bool:
    """Whether two classes have the same integers, under names that do not contradict."""
    if one is None or other is None or (one[0] and other[0] and one[0] != other[0]):
        return False
    common = one[2] * other[2]
    if one[2] == other[2] or common > MAX_MODULUS:
        return one[1:] == other[1:]
    (a, m), (b, n) = one[1:], other[1:]
    return all((x % m in a) == (x % n in b) for x in range(common))


def _is_collection(node: Node) -> bool:
    return node[0] in ("list", "or", "braces") and bool(node[1:])


def _is_call(node: Node, name: str) -> bool:
    return node[0] == "call" and node[1] == name


def _split(node: Node) -> tuple[Node, Node]:
    """(3, 7) of 3 (mod 7), with signs and lists inside."""
    if node[0] in ("neg", "pm"):
        inner, modulus = _split(node[1])
        return (node[0], inner), modulus
    if node[0] == "unit":
        return node[1], ("num", Fraction(node[2].split()[-1]))
    return node[2], node[3]


def _modulus(node: Node) -> Node | None:
    """The modulus after a number; None if there is none."""
    while node[0] in ("neg", "pm"):
        node = node[1]
    if node[0] == "unit" and node[2].strip().startswith("mod "):
        return ("num", Fraction(node[2].split()[-1]))
    return node[3] if _is_call(node, "residue") else None


def _integer(node: Node) -> int | None:
    if symbols(node):
        return None
    try:
        value = constant_value(node)
    except NoValue:
        return None
    return int(value) if isinstance(value, Fraction) and value.denominator == 1 else None


def _residues(name: Node | None, value: Node, modulus: Node) -> Residues | None:
    size = _integer(modulus)
    values = [_integer(_signed(value, sign)) for sign in (1, -1)]
    if size is None or not 1 < size <= MAX_MODULUS or values[0] is None or values[1] is None:
        return None
    return name, frozenset(part % size for part in values if part is not None), size


def _signed(node: Node, sign: int) -> Node:
    if node[0] == "pm":
        return node[1] if sign > 0 else ("neg", node[1])
    return map_children(lambda child: _signed(child, sign), node) if children(node) else node


def _union(node: Node) -> Residues | None:
    """1, 4 (mod 5): the last modulus and the first name count for all."""
    members = list(node[1:])
    if len(members) > MAX_RESIDUES:
        return None
    modulus = next((m for m in map(_right_modulus, reversed(members)) if m is not None), None)
    named = next((m[2][0] for m in members if m[0] == "rel" and m[1] == ("=",)), None)
    parts: list[Residues] = []
    for member in members:
        if not is_congruence(member) and modulus is not None:
            value = member[2][1] if member[0] == "rel" and member[1] == ("=",) else member
            value = _split(value)[0] if _modulus(value) is not None else value
            part = _residues(named, value, modulus)
        else:
            part = residues(member)
        if part is None:
            return None
        parts.append(part)
    if len({size for _, _, size in parts}) > 1 or len({name for name, _, _ in parts}) > 1:
        return None
    return parts[0][0], frozenset().union(*(values for _, values, _ in parts)), parts[0][2]


def _right_modulus(node: Node) -> Node | None:
    return _modulus(node[2][1] if node[0] == "rel" and len(node[2]) == 2 else node)


def _progression(name: Node | None, node: Node) -> Residues | None:
    """7k + 3 for every integer k, under any name."""
    names = symbols(node)
    if len(names) != 1 or (name and name[1] in names):
        return None
    parts = linear_form(node, next(iter(names)))
    if parts is None or (start := _integer(parts[1])) is None or not (step := _integer(parts[0])):
        return None
    step = abs(step)
    if not 1 < step <= MAX_MODULUS:
        return None
    return name, frozenset({start % step}), step
