"""Expression trees: nested tuples whose first item names the kind of the node.

Lists the kinds and walks trees. Knows neither how answers are written nor what they are worth.

    num Fraction | sym name | inf | empty | field name | base digits base
    add *terms | mul a b | div a b | pow a b | neg a | pm a | fact a | deg a | pct a
    call name *args                      functions; log takes an optional base after its argument
    piecewise *cases | case value condition
    matrix *rows | det *rows             each row a tuple of nodes
    tuple open close *items              (a, b), [a, b), <a, b>
    braces *items | list *items          {a, b} and a, b: unordered
    run *members                         a list with ("dots",), or from the first two to the last
    cup *sets | cap a b | without a b | such variable condition
    unit a words                         a number of the unit that the words name
    sum a name low high | prod ... | int ... | lim a name point
    given a condition                    a holds under a relation, or under ("words", prose)
    ratio *items | rel operators operands labels | or *items

A rel stores for each operand whether it looks like a name (`x_1`, `f(x)`, `|AB|`), so that `x = 5`
can stand for 5 while `x + y = 5` cannot.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]

OPERATORS = frozenset({"sum", "prod", "int", "lim"})  # nodes with a body, a variable and bounds
# kinds that can have a unit, as opposed to lists, tuples, sets and matrices
SCALARS = frozenset({"num", "sym", "add", "mul", "div", "pow", "neg", "pm", "fact", "call", "unit",
                     "pct", "deg", "ratio", "base"})  # fmt: skip
CONSTANTS = frozenset({"pi", "e", "i"})  # symbols that are numbers
ZERO: Node = ("num", Fraction(0))
ONE: Node = ("num", Fraction(1))
RADIANS_PER_DEGREE: Node = ("div", ("sym", "pi"), ("num", Fraction(180)))


def children(node: Node) -> tuple[Node, ...]:
    """The direct child nodes."""
    if node[0] == "rel":
        return node[2]
    if node[0] in ("matrix", "det"):
        return tuple(entry for row in node[1:] for entry in row)
    return tuple(child for child in node[1:] if isinstance(child, tuple))


def walk(node: Node) -> Iterator[Node]:
    """The node and every node below it."""
    nodes = [node]
    while nodes:
        yield (node := nodes.pop())
        nodes += children(node)


def has(node: Node, *kinds: str) -> bool:
    """Whether the tree contains a node of one of these kinds."""
    return any(inner[0] in kinds for inner in walk(node))


def symbols(node: Node) -> frozenset[str]:
    """The names of the unknowns in a tree."""
    return frozenset(inner[1] for inner in walk(node) if inner[0] == "sym") - CONSTANTS


def map_children(change: Callable[[Node], Node], node: Node) -> Node:
    """The node with change(child) in place of each child."""
    if node[0] == "rel":
        return (*node[:2], tuple(map(change, node[2])), node[3])
    if node[0] in ("matrix", "det"):
        return (node[0], *(tuple(map(change, row)) for row in node[1:]))
    return tuple(change(part) if isinstance(part, tuple) else part for part in node)
