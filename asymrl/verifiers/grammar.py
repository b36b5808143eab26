r"""Tokens -> a tree: one precedence grammar for LaTeX answers and for plain ASCII ones.

Knows syntax only: what is written, never what it is worth, and it runs nothing. A node is a tuple
whose first item is its kind:

    num Fraction | sym name | inf | empty | field name | base digits base
    add *terms | mul *factors | div a b | pow a b | neg a | pm a | fact a | deg a | pct a
    call name *args                      functions; log takes an optional base after its argument
    matrix *rows                         each row a tuple of nodes
    tuple open close *items              (a, b), [a, b), <a, b>
    braces *items | list *items          {a, b} and a, b: unordered
    cup *sets | cap *sets | without a b | such variable condition
    ratio *items | rel operators operands labels | or *items

A rel keeps for each operand whether it is written like the name of something (`x_1`, `f(x)`,
`|AB|`), so that `x = 5` may stand for 5 and `x + y = 5` may not.
"""

import re
from functools import lru_cache

from asymrl.verifiers.expressions import MAX_DEPTH, Node, Reader
from asymrl.verifiers.notation import MAX_CHARS, plain
from asymrl.verifiers.tokens import Unreadable, join_thousands, tokens

ORDERS = frozenset({"<", ">", "<=", ">=", "!=", "in"})
_RELATIONS = {"=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "in": "in",
              "approx": "~", "equiv": "=", "to": "=", "rightarrow": "="}  # fmt: skip
_NAME = r"(?:[a-z]\w*|[A-Z](?: ?[A-Z])*|[A-Z][a-z]\w*)(?: _ (?:\w+|\{ [\w ]+ \}))?(?: ')*"
_SIMPLE = rf"(?:{_NAME}(?: \( [^()=]* \))?)"
_LABEL = re.compile(
    rf"(?:(?:angle|triangle|overline|Delta) )?{_SIMPLE}|\| {_SIMPLE} \|"
    rf"|frac \{{ {_SIMPLE} \}} \{{ {_SIMPLE} \}}|{_SIMPLE}(?: [:/] {_SIMPLE})+"
    rf"|\( {_SIMPLE}(?: , {_SIMPLE})+ \)"
)


@lru_cache(maxsize=50_000)
def read(latex: str, thousands: bool = True) -> Node:
    """The tree of an answer. thousands: 1,000 is a number and no list. Unreadable if it is none."""
    if len(latex) > MAX_CHARS:
        raise Unreadable("too long")
    text = plain(latex)
    reader = Reader(tokens(join_thousands(text) if thousands else text), items)
    node = items(reader)
    if reader.kind():
        raise Unreadable(f"{reader.text()!r} where the answer should end")
    return node


def items(reader: Reader) -> Node:
    """item, item and item; semicolons bind less than commas where both are there."""
    reader.depth += 1
    if reader.depth > MAX_DEPTH:
        raise Unreadable("too deep")
    groups: list[list[Node]] = [[]]
    kinds = set()
    while True:
        _skip_label(reader)
        groups[-1].append(relation(reader))
        _skip_until(reader)
        separator = _separator(reader)
        if not separator:
            break
        kinds.add(separator)
        if separator == ";":
            groups.append([])
    reader.depth -= 1
    if {";", ","} <= kinds and len(groups) > 1:
        return ("list", *(("tuple", "(", ")", *g) if len(g) > 1 else g[0] for g in groups))
    flat = [node for group in groups for node in group]
    if len(flat) == 1:
        return flat[0]
    if "or" in kinds and all(node[0] == "rel" and set(node[1]) & ORDERS for node in flat):
        return ("or", *flat)
    return ("list", *flat)


def _separator(reader: Reader) -> str:
    """The strongest of the separators here, as in `, and`; empty where the items end."""
    found = ""
    while reader.take(",", ";", "and", "or"):
        kind = reader.tokens[reader.at - 1][0]
        found = kind if kind in (";", "or") or not found else found
    return found


def _skip_label(reader: Reader) -> None:
    """`Minimum:` or `Sequence 1:` before an item."""
    ahead = 0
    while reader.kind(ahead) == "word":
        ahead += 1
    if ahead and reader.kind(ahead) == "number":
        ahead += 1
    if ahead and reader.kind(ahead) == ":":
        reader.at += ahead + 1
    while reader.take("leading", "=", "approx"):
        pass


def _skip_until(reader: Reader) -> None:
    """`for all x > 0`, up to what ends the item."""
    if reader.depth > 1 or not reader.take("until"):
        return
    depth = 0
    while kind := reader.kind():
        if kind in ("(", "{", "[", "\\{"):
            depth += 1
        elif kind in (")", "}", "]", "\\}"):
            depth -= 1
        if depth < 0 or (depth == 0 and kind in (",", ";", "and", "or")):
            break
        reader.at += 1


def relation(reader: Reader) -> Node:
    operators: list[str] = []
    operands: list[Node] = []
    labels: list[bool] = []
    while True:
        start = reader.at
        operands.append(sets(reader))
        written = " ".join(text for _, text in reader.tokens[start : reader.at])
        labels.append(_LABEL.fullmatch(written) is not None and operands[-1][0] != "num")
        kind = reader.kind()
        operator = _RELATIONS.get(reader.text() if kind == "macro" else kind)
        if operator is None:
            break
        reader.at += 1
        operators.append(operator)
        reader.take("leading")
    if not operators:
        return operands[0]
    return ("rel", tuple(operators), tuple(operands), tuple(labels))


def sets(reader: Reader) -> Node:
    node = ratio(reader)
    while operator := reader.take("cup", "cap", "setminus", "backslash"):
        other = ratio(reader)
        kind = {"cup": "cup", "cap": "cap"}.get(operator, "without")
        node = (*node, other) if kind == node[0] == "cup" else (kind, node, other)
    return node


def ratio(reader: Reader) -> Node:
    parts = [reader.sum()]
    while not reader.in_braces and reader.take(":"):
        parts.append(reader.sum())
    return parts[0] if len(parts) == 1 else ("ratio", *parts)
