r"""Names that do not matter: the argument of a function, and constants of integration.

`f(x) = x + 1` is `f(t) = t + 1`, `a_n = 2n` is `a_k = 2k`, and `x^2 + C` is `x^2 + c`. Any other
name is part of the answer. `families` knows the counters of solutions.
"""

import re
from itertools import permutations

from asymrl.verifiers.latex.tree import Node, map_children, symbols

MAX_CONSTANTS = 3
_FUNCTION = re.compile(r"([A-Za-z]+)_([a-z])")
_ADDED = frozenset({"C", "c", "K", "k", "C_1", "c_1"})  # one of two such names is C
_NUMBERED = re.compile(r"[Cc]_\d")
_SEVERAL = re.compile(r"[A-Z]|[Cck]_\d")


def renamings(gold: Node, answer: Node) -> list[Node]:
    """The answer with the gold's names: all ways to give them, usually none."""
    one, other = _argument(gold), _argument(answer)
    if one and other and one[0] == other[0] and one[1] != other[1]:
        taken = symbols(answer)
        return (
            [] if one[1] in taken else [rename(answer, {other[1]: one[1], **_indexed(one, other)})]
        )
    return _with_constants(gold, answer)


def _argument(node: Node) -> tuple[str, str] | None:
    """f and x for f(x) = ..., a and n for a_n = ...; None for any other tree."""
    if node[0] != "rel" or node[1] != ("=",):
        return None
    match node[2][0]:
        case ("mul", ("sym", function), ("sym", argument)) if function != argument:
            return function, argument
        case ("sym", name) if match := _FUNCTION.fullmatch(name):
            return match[1], match[2]
    return None


def _indexed(one: tuple[str, str], other: tuple[str, str]) -> dict[str, str]:
    return {f"{other[0]}_{other[1]}": f"{one[0]}_{one[1]}"}


def _with_constants(gold: Node, answer: Node) -> list[Node]:
    """The answer with the constants of integration named as in the gold."""
    names = symbols(gold), symbols(answer)
    expected, actual = (sorted(names[i] - names[1 - i]) for i in (0, 1))
    if not 0 < len(expected) == len(actual) <= MAX_CONSTANTS:
        return []
    if len(expected) == 1:
        pair = expected[0], actual[0]
        if "C" not in pair or not _ADDED.issuperset(pair):
            return []
        if not (_is_added(gold, pair[0]) and _is_added(answer, pair[1])):
            return []
        return [rename(answer, {pair[1]: pair[0]})]
    if not all(map(_SEVERAL.fullmatch, [*expected, *actual])):
        return []
    if not (all(map(_NUMBERED.fullmatch, expected)) or all(map(_NUMBERED.fullmatch, actual))):
        return []
    return [
        rename(answer, dict(zip(actual, order, strict=True))) for order in permutations(expected)
    ]


def _is_added(node: Node, name: str) -> bool:
    """Whether the name is one term of a sum, and nowhere else."""
    value = node[2][1] if node[0] == "rel" and node[1] == ("=",) else node
    terms = value[1:] if value[0] == "add" else ()
    is_in = [term for term in terms if name in symbols(term)]
    return is_in == [("sym", name)] and (node == value or name not in symbols(node[2][0]))


def rename(node: Node, names: dict[str, str]) -> Node:
    if node[0] == "sym":
        return ("sym", names.get(node[1], node[1]))
    return map_children(lambda child: rename(child, names), node)
