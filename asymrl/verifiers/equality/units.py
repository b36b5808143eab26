"""Answers with units: converted exactly before they are compared.

An answer without a unit is taken to be in the gold's unit. Two different units make two different
answers, unless one converts exactly into the other, as centimetres into metres. Words that are not
units ("apples") are ignored. Knows trees; `latex.units` knows the units.
"""

from fractions import Fraction

from asymrl.verifiers.latex.tree import RADIANS_PER_DEGREE, SCALARS, Node, has, map_children, walk
from asymrl.verifiers.latex.units import Unit, unit


def to_common_unit(gold: Node, answer: Node) -> tuple[Node, Node] | None:
    """Both trees without units, in the same unit; None if their units are incompatible."""
    units = _units_in(gold), _units_in(answer)
    if not any(units) or not all(node[0] in SCALARS | {"rel"} for node in (gold, answer)):
        return gold, answer
    if max(map(len, units)) > 1:
        return None
    if all(units):
        (gold_factor, gold_bases), (factor, bases) = (next(iter(side)) for side in units)
        if gold_bases != bases:
            return None
        return _strip_units(gold), _strip_units(answer, factor / gold_factor)
    gold, answer, known = _strip_units(gold), _strip_units(answer), next(iter(units[0] or units[1]))
    unmarked = answer if units[0] else gold  # the side without a unit
    if has(unmarked, "pct"):
        return None
    if not has(unmarked, "deg"):
        return gold, answer
    if known == unit("rad"):
        return degrees_to_radians(gold), degrees_to_radians(answer)
    return None


def _units_in(node: Node) -> set[Unit]:
    phrases = (inner[2] for inner in walk(node) if inner[0] == "unit")
    return {known for phrase in phrases if (known := unit(phrase))}


def _strip_units(node: Node, factor: Fraction = Fraction(1)) -> Node:
    """The tree without units; each number that had a unit is multiplied by the factor."""
    if node[0] == "unit":
        number = _strip_units(node[1], factor)
        return number if factor == 1 else ("mul", number, ("num", factor))
    return map_children(lambda child: _strip_units(child, factor), node)


def degrees_to_radians(node: Node) -> Node:
    if node[0] == "deg":
        return ("mul", node[1], RADIANS_PER_DEGREE)
    return map_children(degrees_to_radians, node)
