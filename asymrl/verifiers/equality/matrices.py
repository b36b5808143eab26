"""Matrices: the entries of sums, products and multiples. Compares nothing."""

from asymrl.verifiers.latex.tree import Node

MAX_ENTRIES = 400
Rows = list[list[Node]]


def entries(node: Node) -> Rows | None:
    """The entries of a matrix expression; None if it is not a matrix or the shapes disagree."""
    match node[0]:
        case "matrix":
            rows = [list(row) for row in node[1:]]
            return rows if sum(map(len, rows)) <= MAX_ENTRIES else None
        case "neg":
            rows = entries(node[1])
            return rows and [[("neg", entry) for entry in row] for row in rows]
        case "add":
            total = entries(node[1])
            for part in map(entries, node[2:]):
                total = _add(total, part)
            return total
        case "mul":
            return _multiply(node[1], node[2])
        case "div":
            rows = entries(node[1])
            return rows and [[("div", entry, node[2]) for entry in row] for row in rows]
    return None


def _add(one: Rows | None, other: Rows | None) -> Rows | None:
    if not one or not other or [*map(len, one)] != [*map(len, other)]:
        return None
    return [
        [("add", a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)
    ]


def _multiply(left: Node, right: Node) -> Rows | None:
    one, other = entries(left), entries(right)
    if one is None or other is None:
        rows, factor = (one, right) if other is None else (other, left)
        return rows and [[("mul", factor, entry) for entry in row] for row in rows]
    if len(one[0]) != len(other):
        return None
    columns = [list(column) for column in zip(*other, strict=True)]
    return [
        [("add", *(("mul", a, b) for a, b in zip(row, column, strict=True))) for column in columns]
        for row in one
    ]
