r"""Tokens -> trees of expressions: sums, products, powers, functions, brackets, matrices.

Knows precedence and how LaTeX and plain ASCII write these; what stands inside brackets (lists,
relations) is the business of who made the reader. Runs nothing. The nodes are listed in `grammar`.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from asymrl.verifiers.matrices import matrix
from asymrl.verifiers.operators import OPERATORS, operation, quotient
from asymrl.verifiers.tokens import Token, Unreadable, fraction, numeral, repeating
from asymrl.verifiers.units import RADIAN, measured, residue

Node = tuple[Any, ...]

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
