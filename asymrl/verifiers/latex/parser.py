r"""Tokens -> trees of expressions: sums, products, powers, functions, brackets, matrices.

Knows precedence and how LaTeX and plain ASCII write these; what stands inside brackets (lists,
relations) is the business of who made the reader. Runs nothing. The nodes are listed in `grammar`.

Tokens -> a tree: one precedence grammar for LaTeX answers and for plain ASCII ones.

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

Sums, products, integrals and limits: `\sum_{k=1}^n k^2`, `\int_0^1 x dx`, `\lim_{x \to 0} ...`.

Knows how they are written; `symbolic` works them out. Each is a node of its name, with what it
ranges over, its variable, and the bounds (the point, for a limit).
"""

import re
from collections.abc import Callable
from fractions import Fraction

from asymrl.verifiers.equality.matrices import matrix
from asymrl.verifiers.equality.units import RADIAN, measured, residue
from asymrl.verifiers.latex.lexer import (
    Token,
    Unreadable,
    fraction,
    join_thousands,
    numeral,
    repeating,
    tokens,
)
from asymrl.verifiers.latex.normalize import MAX_CHARS, plain
from asymrl.verifiers.latex.tree import OPERATORS, Node

MAX_DEPTH = 60

# What makes another thing of what it stands over or before; a bar over a number is its conjugate.
_MARKS = frozenset({"overline", "hat", "vec", "dot", "ddot", "tilde", "angle", "triangle"})
_CURRENCIES = ("dollar", "euro", "sterling", "yen")
_OPENING = {"(": ")", "[": "]", "langle": "rangle", "lfloor": "rfloor", "lceil": "rceil"}
_STARTS = frozenset({"number", "repeating", "name", "function", "(", "[", "{", "begin", "|"})
_STARTING_MACROS = _MARKS | OPERATORS | {
    "frac", "sqrt", "binom", "pi", "infty", "lfloor", "lceil", "langle", "emptyset"
}  # fmt: skip
_CIRCULAR = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})


class Reader:
    """A position in a list of tokens; every method reads one construct from there."""

    def __init__(self, given: list[Token], inside: "Callable[[Reader], Node]") -> None:
        self.tokens, self.inside = given, inside
        self.at = self.depth = self.bars = 0
        self.in_braces = False
        self.in_circular = False  # inside the argument of a sine and its like

    def kind(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at][0] if at < len(self.tokens) else ""

    def text(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at][1] if at < len(self.tokens) else ""

    def take(self, *kinds: str) -> str:
        """The text of the next token, if it is of such a kind or such a macro; else empty."""
        if self.kind() in kinds or (self.kind() == "macro" and self.text() in kinds):
            self.at += 1
            return self.tokens[self.at - 1][1]
        return ""

    def need(self, kind: str) -> None:
        if not self.take(kind):
            raise Unreadable(f"{kind} is missing")

    def sum(self) -> Node:
        node = self._terms()
        if self.take("choose"):
            return ("call", "binom", node, self._terms())
        if opening := self._modulus_ahead():
            self.at += 2 if opening == "(" else 1
            node = residue(node, self.power())
            if opening == "(":
                self.need(")")
        return node

    def _modulus_ahead(self) -> str:
        r"""`(` before `(mod 7)`, the macro before `\pmod{7}` and `\mod 7`; else empty."""
        if self.kind() == "(" and self.kind(1) == "macro" and self.text(1) in ("mod", "bmod"):
            return "("
        return self.text() if self.kind() == "macro" and self.text() in ("pmod", "mod") else ""

    def _terms(self) -> Node:
        terms = [self.signed()]
        while self.kind() in ("+", "-") or (self.kind() == "macro" and self.text() in ("pm", "mp")):
            terms.append(self.signed())
        if self.take("bmod"):
            if len(terms) > 1:
                raise Unreadable("a sum before mod")
            return ("call", "mod", terms[0], self.power())
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def signed(self) -> Node:
        if self.take("+"):
            return self.signed()
        if self.take("-"):
            return ("neg", self.signed())
        if self.take("pm"):
            return ("pm", self.product())
        if self.take("mp"):  # where the other sign is plus, this one is minus
            return ("neg", ("pm", self.product()))
        return self.product()

    def product(self) -> Node:
        node = self.power()
        while True:
            if self._modulus_ahead():
                return node
            if self.kind() in ("*", "/") and self.kind(1) == "word":
                node = self._with_unit(node)
            elif self.take("*"):
                node = ("mul", node, self._factor())
            elif self.take("/"):
                node = ("div", node, self._factor())
            elif self.kind() == "number" and node[0] == "num":
                node = self._mixed(node)
            elif self._starts():
                mixed = self._mixed_latex(node)
                node = self._followed(mixed) if mixed else ("mul", node, self.power())
            else:
                return node

    def _factor(self) -> Node:
        if self.take("-"):
            return ("neg", self.power())
        return self.power()

    def _starts(self) -> bool:
        """Whether what comes next multiplies what was read, with no sign between."""
        kind = self.kind()
        if kind == "|":
            return self.bars == 0
        return kind in _STARTS or (kind == "macro" and self.text() in _STARTING_MACROS)

    def _mixed(self, whole: Node) -> Node:
        """2 1/2; two numbers side by side are nothing else."""
        self.need("number")
        over = self.tokens[self.at - 1][1]
        if not (self.take("/") and (under := self.take("number"))):
            raise Unreadable("two numbers side by side")
        return ("num", whole[1] + fraction(over, under))

    def _mixed_latex(self, whole: Node) -> Node | None:
        r"""2\frac{1}{2}: a whole number before a proper fraction of plain digits."""
        if whole[0] != "num" or whole[1].denominator != 1 or self.text() != "frac":
            return None
        given = [self.text(i) for i in range(1, 7)]
        if given[0] != "{" or given[2:4] != ["}", "{"] or given[5] != "}":
            return None
        if not (given[1].isdigit() and given[4].isdigit() and int(given[1]) < int(given[4])):
            return None
        self.at += 7
        return ("num", whole[1] + fraction(given[1], given[4]))

    def power(self) -> Node:
        return self._followed(self.primary())

    def _followed(self, node: Node) -> Node:
        """A primary with what follows it: !, ^, primes, %, degrees, units."""
        while True:
            if self.take("^"):
                node = ("pow", node, self.exponent())
            elif self.take("!"):
                node = ("call", "double", node) if self.take("!") else ("fact", node)
            elif self.take("%"):
                node = ("pct", node)
            elif self.take("deg"):
                node = self._degrees(node)
            elif self.take("'"):
                node = _decorated("'", node)
            elif unit := self.take(*_CURRENCIES):
                node = measured(node, unit)
            elif self.kind() == "_" and node[0] == "num":
                node = self._based(node)
            elif self.kind() in ("word", "leading"):
                node = self._with_unit(node)
            else:
                return node

    def _degrees(self, node: Node) -> Node:
        """An angle of so many degrees; in a sine its value, at the top a mark on the answer."""
        if self.text() in ("C", "F") and self.kind() in ("word", "name"):
            return measured(node, {"C": "celsius", "F": "fahrenheit"}[self.take("word", "name")])
        return ("mul", node, RADIAN) if self.in_circular else ("deg", node)

    def exponent(self) -> Node:
        if self.take("-"):
            return ("neg", self.exponent())
        self.take("+")
        if self.take("{"):
            return self._closed("}")
        node = self.primary()
        return ("pow", node, self.exponent()) if self.take("^") else node

    def _with_unit(self, node: Node) -> Node:
        """A value and the words behind it: what they measure is kept, other words are not."""
        phrase = self.take("*", "/")
        while word := self.take("word", "leading"):
            phrase += f" {word}"
            if self.take("^"):
                braces = self.take("{")
                phrase += f"^{self.take('-')}{self.take('number', 'word')}"
                if braces:
                    self.need("}")
            if self.kind() in ("/", "*") and self.kind(1) == "word":
                phrase += self.take("/", "*")
        if self.kind() in ("number", "repeating"):
            raise Unreadable("a number after words")
        return measured(node, phrase)

    def _based(self, node: Node) -> Node:
        base = self._subscript()
        if not base.isdigit():
            raise Unreadable("a subscript on a number")
        return node if base == "10" else ("base", str(node[1]), base)

    def _subscript(self) -> str:
        self.need("_")
        if not self.take("{"):
            self.at += 1
            return self.text(-1)
        start, depth = self.at, 1
        while depth and self.kind():
            depth += {"{": 1, "}": -1}.get(self.kind(), 0)
            self.at += 1
        return "".join(text for _, text in self.tokens[start : self.at - 1])

    def primary(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        node = self._primary()
        self.depth -= 1
        return node

    def _primary(self) -> Node:
        kind, text = self.kind(), self.text()
        self.at += 1
        match kind:
            case "number":
                return ("num", numeral(text))
            case "repeating":
                return ("num", repeating(*text.split("|")))
            case "name":
                return self._named(text)
            case "function":
                return self._function(text)
            case "(" | "[":
                return self._bracketed(text)
            case "{":
                return self._closed("}")
            case "\\{":
                return self._set()
            case "|":
                self.bars += 1
                node = self.sum()
                self.need("|")
                self.bars -= 1
                return ("call", "abs", node)
            case "begin":
                return self._matrix()
            case "set":
                return ("field", text)
            case "word" if len(text) == 1 or self.kind() == "=":
                return ("sym", text)
            case "macro":
                return self._command(text)
        raise Unreadable(f"{text!r} where a value should be")

    def _named(self, name: str) -> Node:
        if self.kind() == "_":
            name = f"{name}_{self._subscript()}"
        return ("sym", name)

    def _command(self, name: str) -> Node:
        match name:
            case "frac":
                return quotient(self.argument(), self.argument())
            case "binom":
                over = self.argument()
                return ("call", "binom", over, self.argument())
            case "pi":
                return ("sym", "pi")
            case "infty":
                return ("inf",)
            case "emptyset":
                return ("empty",)
            case "langle" | "lfloor" | "lceil":
                return self._bracketed(name)
        if name in OPERATORS:
            return operation(self, name)
        if name in _CURRENCIES:
            return measured(self.power(), name, before=True)
        if name in _MARKS:
            return _decorated(name, self.argument())
        raise Unreadable(f"\\{name} is not known")

    def argument(self) -> Node:
        r"""What \frac takes: a group, or one digit or symbol."""
        if self.take("{"):
            return self._closed("}")
        if self.kind() == "number" and len(text := self.text()) > 1:
            self.tokens[self.at] = ("number", text[1:])
            return ("num", numeral(text[0]))
        return self.primary()

    def _closed(self, closing: str) -> Node:
        node = self.inside(self)
        self.need(closing)
        return node

    def _bracketed(self, opening: str) -> Node:
        bars, self.bars = self.bars, 0
        node = self.inside(self)
        self.bars = bars
        expected = _OPENING[opening]
        closing = self.take(")", "]", "rangle", "rfloor", "rceil")
        if not closing or (expected[0] == "r" and closing != expected):
            raise Unreadable("a bracket is not closed")
        if opening in ("lfloor", "lceil"):
            return ("call", {"lfloor": "floor", "lceil": "ceil"}[opening], node)
        if node[0] == "list":
            return ("tuple", opening, closing, *node[1:])
        if opening == "langle" or closing != expected:
            raise Unreadable("a bracket is not closed")
        return node

    def _set(self) -> Node:
        if self.take("\\}"):
            return ("empty",)
        outer, self.in_braces = (self.bars, self.in_braces), True
        self.bars = 1
        node = self.inside(self)
        if self.take(":", "|", "mid"):
            self.in_braces, self.bars = False, 0
            node = ("such", node, self.inside(self))
        self.bars, self.in_braces = outer
        self.need("\\}")
        if node[0] == "such":
            return node
        return ("braces", *(node[1:] if node[0] == "list" else (node,)))

    def _function(self, name: str) -> Node:
        if name == "sqrt":
            return self._root()
        base = None
        if self.kind() == "_":
            sub = self._subscript()
            base = ("num", numeral(sub)) if sub.isdigit() else ("sym", sub)
        exponent = self.exponent() if self.take("^") else None
        if exponent == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan"):
            name, exponent = f"arc{name}", None
        outer, self.in_circular = self.in_circular, name in _CIRCULAR
        if self.kind() in ("(", "{", "["):
            inner = self.primary()
            arguments = inner[3:] if inner[0] == "tuple" else (inner,)
        else:
            arguments = (self._bare_argument(),)
        self.in_circular = outer
        node: Node = ("call", name, *arguments, *(() if base is None else (base,)))
        if name in ("factorial", "exp"):
            node = (
                ("fact", *arguments) if name == "factorial" else ("pow", ("sym", "e"), *arguments)
            )
        return node if exponent is None else ("pow", node, exponent)

    def _bare_argument(self) -> Node:
        r"""The x of `\sin x`, the 2x of `\sin 2x \cos x`: factors up to the next function."""
        if self.take("-"):
            return ("neg", self._bare_argument())
        if self.kind() == "function":
            return self.power()
        node = self.power()
        while self._starts() and self.kind() not in ("function", "("):
            node = ("mul", node, self.power())
        return node

    def _root(self) -> Node:
        index: Node = ("num", Fraction(2))
        if self.take("["):
            index = self._closed("]")
        radicand = self._closed("}") if self.take("{") else self.primary()
        return ("pow", radicand, ("div", ("num", Fraction(1)), index))

    def _matrix(self) -> Node:
        name = self.text(-1)
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while True:
            if self.take("row"):
                if row:
                    rows.append(tuple(row))
                row = []
            elif self.take("end"):
                break
            elif not self.take("&", "and"):
                row.append(self.sum())
        if row:
            rows.append(tuple(row))
        return matrix(name, rows)


def _decorated(mark: str, node: Node) -> Node:
    """A symbol with a prime or an accent is another symbol; over more it is an unknown function."""
    return ("sym", f"{node[1]} {mark}") if node[0] == "sym" else ("call", mark, node)


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


_OPENERS, _CLOSING = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")


def operation(reader: "Reader", name: str) -> "Node":
    """The operator after whose macro the reader stands."""
    if not reader.take("_"):
        raise Unreadable(f"{name} without bounds")
    below = reader.argument()
    if name == "int":
        return _integral(reader, below)
    if below[0] != "rel" or below[1] != ("=",) or below[2][0][0] != "sym":
        raise Unreadable(f"{name} over no variable")
    variable, start = below[2]
    if name == "lim":
        return ("lim", reader.product(), variable, start)
    reader.need("^")
    end = reader.argument()
    return (name, reader.product(), variable, start, end)


def _integral(reader: "Reader", low: "Node") -> "Node":
    """Up to the `dx` that is inside no other bracket."""
    reader.need("^")
    high = reader.argument()
    start, depth = reader.at, 0
    while kind := reader.kind():
        depth += (kind in _OPENERS) - (kind in _CLOSING)
        differential = (kind, reader.text(), reader.kind(1)) == ("name", "d", "name")
        if depth < 0 or (depth == 0 and differential):
            break
        reader.at += 1
    if depth or reader.kind(1) != "name":
        raise Unreadable("an integral without its differential")
    inner = type(reader)(reader.tokens[start : reader.at], reader.inside)
    body, variable = inner.sum(), ("sym", reader.text(1))
    if inner.kind():
        raise Unreadable("an integral of no expression")
    reader.at += 2
    return ("int", body, variable, low, high)


def quotient(over: "Node", under: "Node") -> "Node":
    r"""What \frac is: a quotient, or a derivative, whose d's do not cancel.

    \frac{dy}{dx} is an unknown of its own, y' as it were; \frac{d}{dx} of something is unfinished.
    """
    for name in ("d", "partial"):
        if under[0] == "mul" and _first(over) == _first(under) == ("sym", name):
            if over[0] != "mul":
                raise Unreadable("a derivative is not worked out")
            return ("sym", f"derivative {over} {under}")
    return ("div", over, under)


def _first(node: "Node") -> "Node":
    """The leading factor, without its power."""
    while node[0] in ("mul", "pow"):
        node = node[1]
    return node
