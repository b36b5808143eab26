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
    unit a words                         a number of what the words name
    det *rows                            as of a matrix
    sum a name low high | prod ... | int ... | lim a name to
    given a condition                    a relation that a holds under, or ("words", prose)
    ratio *items | rel operators operands labels | or *items

A rel keeps for each operand whether it is written like the name of something (`x_1`, `f(x)`,
`|AB|`), so that `x = 5` may stand for 5 and `x + y = 5` may not.
"""

import re

from asymrl.verifiers.expressions import MAX_DEPTH, Node, Reader
from asymrl.verifiers.notation import MAX_CHARS, plain
from asymrl.verifiers.tokens import Unreadable, join_thousands, tokens

ORDERS = frozenset({"<", ">", "<=", ">=", "!=", "in"})
_RELATIONS = {"=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "in": "in",
              "approx": "~", "equiv": "=", "to": "=", "rightarrow": "="}  # fmt: skip
_NAME = r"(?:[a-z]\w*|[A-Z](?: ?[A-Z])*|[A-Z][a-z]\w*)(?: _ (?:\w+|\{ [\w ]+ \}))?(?: ')*"
_SIMPLE = rf"(?:{_NAME}(?: \( [^()=]* \))?)"
_LABEL = re.compile(
    rf"(?:(?:angle|triangle|Delta) )?{_SIMPLE}|\| {_SIMPLE} \|"
    rf"|(?:overline|vec|hat|tilde|d?dot) (?:{_NAME}|\{{ {_NAME} \}})(?: \( [^()=]* \))?"
    rf"|frac \{{ {_SIMPLE} \}} \{{ {_SIMPLE} \}}|{_SIMPLE}(?: [:/] {_SIMPLE})+"
    rf"|\( {_SIMPLE}(?: , {_SIMPLE})+ \)"
)


_SAYING = frozenset({"number", "=", "<", ">", "until", "repeating"})
_QUANTIFIER = re.compile(r"for (?:all|any|every|each)\b")


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
        groups[-1].append(_under_condition(reader, relation(reader)))
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
    """`Minimum:` before an item, and `Sequence 1:` where there is another (`ratio 3:4` is none)."""
    ahead = 0
    while reader.kind(ahead) == "word":
        ahead += 1
    if ahead and reader.kind(ahead) == "number":
        word = reader.tokens[reader.at]
        ahead += reader.tokens.count(word) > 1
    if ahead and reader.kind(ahead) == ":":
        reader.at += ahead + 1
    while reader.take("leading", "=", "approx"):
        pass


def _under_condition(reader: Reader, node: Node) -> Node:
    """`for all x > 0`, up to what ends the item. A quantifier alone ("for all x") says nothing."""
    if reader.depth > 1:
        return node
    if reader.kind() == "," and reader.kind(1) == "until":
        reader.at += 1
    if not (opening := reader.take("until")):
        return node
    start, depth = reader.at, 0
    while kind := reader.kind():
        if kind in ("(", "{", "[", "\\{"):
            depth += 1
        elif kind in (")", "}", "]", "\\}"):
            depth -= 1
        if depth < 0 or (depth == 0 and kind in (",", ";", "and", "or")):
            break
        reader.at += 1
    said = reader.tokens[start : reader.at]
    every = _QUANTIFIER.match(opening)
    member = [kind for kind, _ in said[1:3]] == ["macro", "set"] and said[1][1] == "in"
    if member and (every or said[2][1] == "Z"):  # the whole domain, or what it counts with
        return node
    if any(kind in _SAYING or (kind == "macro" and text in _RELATIONS) for kind, text in said):
        while said and said[0][0] == "word":
            said = said[1:]
        inner = Reader(said, items)
        condition = relation(inner)
        if inner.kind():
            raise Unreadable(f"{inner.text()!r} in a condition")
        return ("given", node, condition)
    prose = re.sub(r"\W", "", "".join([opening, *(text for _, text in said)]))
    return node if every else ("given", node, ("words", prose.casefold()))


def relation(reader: Reader) -> Node:
    operators: list[str] = []
    operands: list[Node] = []
    labels: list[bool] = []
    while True:
        start = reader.at
        operands.append(sets(reader))
        written = " ".join(text.replace(" ", "_") for _, text in reader.tokens[start : reader.at])
        labels.append(_LABEL.fullmatch(written) is not None and _is_name(operands[-1]))
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


def _is_name(operand: Node) -> bool:
    """f(x + 1) is a value of f; x(x - 4) and a(b + c) are products, and 5 is a number."""
    if operand[0] != "mul" or operand[1][0] != "sym" or operand[2][0] != "add":
        return operand[0] != "num"
    name = operand[1][1]
    return repr(operand[1]) not in repr(operand[2]) and (
        name in ("f", "g", "h") or name[0].isupper()
    )


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
