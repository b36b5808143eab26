"""Matrices: the entries of sums, products and multiples. Compares nothing."""

from functools import reduce

from asymrl.verifiers.equality.values import NoValue
from asymrl.verifiers.latex.tree import Node, has

MAX_ENTRIES = 400
Rows = list[list[Node]]


def entries(node: Node) -> Rows:
    """The entries of a matrix expression. NoValue if it is not a matrix or the shapes disagree."""
    match node:
        case ("matrix", *rows) if sum(map(len, rows)) <= MAX_ENTRIES:
            return [list(row) for row in rows]
        case ("neg", inner):
            return [[("neg", entry) for entry in row] for row in entries(inner)]
        case ("add", *parts):
            return reduce(_add, map(entries, parts))
        case ("mul", left, right):
            if has(left, "matrix") and has(right, "matrix"):
                return _multiply(entries(left), entries(right))
            inner, factor = (left, right) if has(left, "matrix") else (right, left)
            return [[("mul", factor, entry) for entry in row] for row in entries(inner)]
        case ("div", inner, divisor):
            return [[("div", entry, divisor) for entry in row] for row in entries(inner)]
    raise NoValue("not a matrix")


def _add(one: Rows, other: Rows) -> Rows:
    if [*map(len, one)] != [*map(len, other)]:
        raise NoValue("matrices of different shapes")
    pairs = [zip(*rows, strict=True) for rows in zip(one, other, strict=True)]
    return [[("add", a, b) for a, b in row] for row in pairs]


def _multiply(one: Rows, other: Rows) -> Rows:
    if len(one[0]) != len(other):
        raise NoValue("matrices whose shapes do not match")
    columns = [*zip(*other, strict=True)]
    return [
        [("add", *(("mul", *pair) for pair in zip(row, column, strict=True))) for column in columns]
        for row in one
    ]
