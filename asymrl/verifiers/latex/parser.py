r"""Tokens -> a tree, by one recursive-descent grammar for LaTeX and plain ASCII answers.

Knows syntax: precedence, brackets, lists, relations, conditions, and how sums, integrals and limits
are written. Evaluates nothing. `tree` lists the nodes.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import dropwhile

from asymrl.verifiers.latex.ellipsis import DOTS, write_out
from asymrl.verifiers.latex.lexer import (
    Token,
    Unreadable,
    join_thousands,
    parse_decimal,
    parse_repeating,
    tokenize,
)
from asymrl.verifiers.latex.normalize import MAX_CHARS, simplify_notation
from asymrl.verifiers.latex.sets import set_notation
from asymrl.verifiers.latex.tree import (
    ONE,
    OPERATORS,
    RADIANS_PER_DEGREE,
    SCALARS,
    ZERO,
    Node,
    symbols,
)
from asymrl.verifiers.latex.units import unit
from asymrl.verifiers.latex.words import changes_value, describes

MAX_NESTING = 60
MAX_REMARK = 6  # words after the last comma of an answer
_REMARK = re.compile(
    r"\s*(?:in (?:total|all)|altogether|as (?:required|desired|claimed))\s*[.!]?\s*"
)

_CLOSING = {
    "(": ")", "[": "]", "{": "}", "\\{": "\\}",
    "langle": "rangle", "lfloor": "rfloor", "lceil": "rceil",
}  # fmt: skip
# Accents and prefixes that turn a symbol into another symbol; a bar over a number conjugates it.
_ACCENTS = frozenset({"overline", "hat", "vec", "dot", "ddot", "tilde", "angle", "triangle"})
_THEREFORE = (r"\therefore", r"\Rightarrow", r"\implies", r"\Longrightarrow")
_CURRENCIES = (r"\dollar", r"\euro", r"\sterling", r"\yen")
# What can follow a factor without a sign and multiplies it.
_FACTOR_STARTS = frozenset({
    "number", "repeating", "name", "function", "(", "[", "{", "begin", "|", r"\frac",
    r"\binom", r"\pi", r"\infty", r"\lfloor", r"\lceil", r"\langle", r"\emptyset",
    *(f"\\{name}" for name in _ACCENTS | OPERATORS),
})  # fmt: skip
_TRIGONOMETRIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_DIFFERENTIAL = ("name", "d", "name")  # dx: kind, text and the next kind
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array")

_CASES = ("cases", "dcases", "rcases")

_INEQUALITIES = frozenset({"<", ">", "<=", ">=", "!=", "in"})  # joined by "or" they are one set
_RELATIONS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=",
              r"\in": "in", r"\approx": "~", r"\equiv": "=", r"\to": "=",
              r"\rightarrow": "="}  # fmt: skip
_RAY = ("tuple", "(", ")", ZERO, ("inf",))
_RAY_FROM = ("tuple", "[", ")", ZERO, ("inf",))
_MARKED_SETS: dict[tuple[str, str], Node] = {
    **{("R", mark): _RAY for mark in ("+", ">0")},
    **{("R", mark): _RAY_FROM for mark in ("0+", "+0", "ge0")},
    **{("R", mark): ("tuple", "(", ")", ("neg", ("inf",)), ZERO) for mark in ("-", "<0")},
    **{("R", mark): ("without", ("field", "R"), ("braces", ZERO)) for mark in ("*", "ne0")},
    **{(name, mark): ("field", "Z+") for name in "ZN" for mark in ("+", ">0", "ge1")},
    ("N", "*"): ("field", "Z+"),
    **{(name, mark): ("field", "Z>=") for name in "ZN" for mark in ("ge0", "+0", "0+")},
    ("N", "0"): ("field", "Z>="),
    **{("Z", mark): ("field", "Z-") for mark in ("-", "<0")},
}
# Operands that look like the name of a value: `x_1`, `f(x)`, `|AB|`, `\frac{a}{b}`, `(x, y)`.
_NAME = r"(?:[a-z]\w*|[A-Z](?: ?[A-Z])*|[A-Z][a-z]\w*)(?: _ (?:\w+|\{ [\w ]+ \}))?(?: ')*"
_INVERSE = r"(?: \^ \{ (?:- 1|\( \w+ \)) \})?"  # of f^{-1}(x) and f^{(3)}(x)
_SIMPLE = rf"(?:{_NAME}{_INVERSE}(?: \( [^()=]* \))?)"
_LABEL = re.compile(
    rf"(?:(?:angle|triangle|Delta) )?{_SIMPLE}|\| {_SIMPLE} \|"
    rf"|(?:overline|vec|hat|tilde|d?dot) (?:{_NAME}|\{{ {_NAME} \}})(?: \( [^()=]* \))?"
    rf"|frac \{{ {_SIMPLE} \}} \{{ {_SIMPLE} \}}|{_SIMPLE}(?: [:/] {_SIMPLE})+"
    rf"|\( {_SIMPLE}(?: , {_SIMPLE})+ \)"
)
# Names that have no tree are symbols whose text starts so, and end at the first of these tokens.
_OPAQUE = "quantity "
_LABEL_ENDS = frozenset({*_RELATIONS, ";", "and", "or", "condition", "leading"})
_LABEL_KINDS = frozenset({"name", "function", "set", *(f"\\{name}" for name in OPERATORS)})
# Tokens that make a condition mathematics and not prose.
_FORMULA_TOKENS = frozenset({"number", "repeating", "condition", *_RELATIONS})
_QUANTIFIER = re.compile(r"for (?:all|any|every|each)\b")


def parse(latex: str, thousands: bool = True, products: bool = False) -> Node:
    """The tree of an answer. Raises Unreadable if the grammar does not cover it.

    thousands: 1,000 is one number, not a list of two. products: km is k times m, not a unit.
    """
    if len(latex) > MAX_CHARS:
        raise Unreadable("too long")
    text = set_notation(simplify_notation(latex))
    parser = Parser(tokenize(join_thousands(text) if thousands else text, products))
    return parser.whole(parser.items)


class Parser:
    """Reads trees from a list of tokens. Each method reads one construct at `position`."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = self.depth = 0
        self.open_bars = 0  # | signs that wait for their partner
        self.has_relation = any(kind in _RELATIONS for kind, _ in tokens)
        self.in_braces = False  # in {x : ...}, where a colon is not a ratio
        self.in_trigonometric = False  # in the argument of a sine, or the exponent of e

    def whole(self, read: Callable[[], Node]) -> Node:
        """What `read` reads. Raises Unreadable if tokens are left over."""
        node = read()
        if self.kind():
            raise Unreadable(f"unexpected {self.text()!r} at the end")
        return node

    # Tokens

    def kind(self, ahead: int = 0) -> str:
        """The kind of the next token, or of one further ahead; empty at the end."""
        at = self.position + ahead
        return self.tokens[at][0] if at < len(self.tokens) else ""

    def text(self, ahead: int = 0) -> str:
        at = self.position + ahead
        return self.tokens[at][1] if at < len(self.tokens) else ""

    def accept(self, *kinds: str) -> str:
        """Consumes the next token if it is one of these kinds. Its text, or empty."""
        if self.kind() in kinds:
            self.position += 1
            return self.text(-1)
        return ""

    def expect(self, kind: str) -> None:
        if not self.accept(kind):
            raise Unreadable(f"missing {kind}")

    def _skip_to(self, is_end: Callable[[], bool]) -> bool:
        """Moves to the next token outside brackets where is_end() holds.

        False if the tokens end, or an enclosing bracket closes, before that.
        """
        depth = 0
        while kind := self.kind():
            depth += (kind in _CLOSING) - (kind in _CLOSING.values())
            if depth < 0:
                return False
            if depth == 0 and is_end():
                return True
            self.position += 1
        return False

    # Lists, conditions and relations

    def items(self) -> Node:
        """`a, b and c`. Commas bind more tightly than semicolons where both occur."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise Unreadable("nested too deeply")
        groups: list[list[Node]] = [[]]
        separators = set()
        while True:
            self._skip_label()
            is_dots = self.kind() == r"\ldots"
            groups[-1].append(self._dots() if is_dots else self._with_condition(self.relation()))
            separator = self._separator()
            if not separator or self._only_a_remark():
                break
            separators.add(separator)
            if separator == ";":
                groups.append([])
        self.depth -= 1
        if points := _as_points([node for group in groups for node in group]):
            return points
        if {";", ","} <= separators:
            return ("list", *(("tuple", "(", ")", *g) if len(g) > 1 else g[0] for g in groups))
        flat = write_out([node for group in groups for node in group])
        if len(flat) == 1:
            return flat[0]
        if "or" in separators and _are_alternatives(flat):
            return ("or", *flat)
        return ("list", *flat)

    def _only_a_remark(self) -> bool:
        """Whether the answer ends with words such as `in total` after a comma; reads them."""
        rest = self.tokens[self.position :]
        words = " ".join(text for _, text in rest[:MAX_REMARK])
        if not rest or len(rest) > MAX_REMARK or any(kind != "word" for kind, _ in rest):
            return False
        if not _REMARK.fullmatch(words):
            return False
        self.position = len(self.tokens)
        return True

    def _dots(self) -> Node:
        self.position += 1
        return DOTS

    def _separator(self) -> str:
        """The strongest of adjacent separators, as in `, and`; empty after the last item."""
        strongest = ""
        while self.accept(",", ";", "and", "or"):
            kind = self.tokens[self.position - 1][0]
            strongest = kind if kind in (";", "or") or not strongest else strongest
        return strongest

    def _skip_label(self) -> None:
        """Skips `Minimum:`, and `Sequence 1:` if it occurs twice (`ratio 3:4` is not a label)."""
        ahead = 0
        while self.kind(ahead) == "word":
            ahead += 1
        if ahead and self.kind(ahead) == "number":
            word = self.tokens[self.position]
            ahead += self.tokens.count(word) > 1
        if ahead and self.kind(ahead) == ":":
            self.position += ahead + 1
        while self.accept("leading", "=", r"\approx", ":", *_THEREFORE):
            pass

    def _with_condition(self, node: Node) -> Node:
        """An item and its condition, `for all x > 0`. Drops a bare quantifier, `for all x`."""
        if self.depth > 1:
            return node
        if self.kind() == "," and self.kind(1) == "condition":
            self.position += 1
        if self._condition_end():
            self.position += 1
            condition = self.relation()
            self.expect(")")
            return ("given", node, condition)
        if not (opening := self.accept("condition")):
            return node
        start = self.position
        self._skip_to(lambda: self.kind() in (",", ";", "and", "or"))
        tokens = self.tokens[start : self.position]
        quantified = _QUANTIFIER.match(opening)
        member = [kind for kind, _ in tokens[1:3]] == [r"\in", "set"]
        if member and (quantified or tokens[2][1] == "Z"):  # the whole domain, or that of a counter
            return node
        if any(kind in _FORMULA_TOKENS for kind, _ in tokens):
            condition = Parser([*dropwhile(lambda token: token[0] == "word", tokens)])
            return ("given", node, condition.whole(condition.relation))
        if not quantified and changes_value(" ".join([opening, *(text for _, text in tokens)])):
            raise Unreadable(f"{opening!r} bounds or denies the value")
        prose = re.sub(r"\W", "", "".join([opening, *(text for _, text in tokens)]))
        return node if quantified else ("given", node, ("words", prose.casefold()))

    def _condition_end(self) -> int:
        """The position after a bracket with a relation, `(n \\ge 1)`; 0 if none comes next."""
        if not self.has_relation or self.kind() != "(":
            return 0
        start, depth, found = self.position, 0, False
        for at in range(start, len(self.tokens)):
            kind = self.tokens[at][0]
            depth += (kind in _CLOSING) - (kind in _CLOSING.values())
            if depth == 0:
                return at + 1 if found else 0
            found |= depth == 1 and kind in _RELATIONS and at > start + 1
        return 0

    def relation(self) -> Node:
        """`a < b = c`: a rel node; without an operator, its one operand."""
        operators: list[str] = []
        operands: list[Node] = []
        labels: list[bool] = []
        while True:
            start = self.position
            operands.append(self._operand(first=not operands))
            tokens = self.tokens[start : self.position]
            written = " ".join(text.replace(" ", "_") for _, text in tokens)
            labels.append(_is_label(written, operands[-1]))
            if self._restated(operators, operands, labels):
                break
            if self.kind() not in _RELATIONS:
                break
            operators.append(_RELATIONS[self.kind()])
            self.position += 1
            self.accept("leading")
        if not operators:
            return operands[0]
        return ("rel", tuple(operators), tuple(operands), tuple(labels))

    def _operand(self, first: bool) -> Node:
        r"""One side of a relation. The name before the first = may be one that has no tree.

        Such a name (`P(A \mid B)`, `(f \circ g)(2)`, `a_1 + \cdots + a_9`) is a symbol of its own.
        """
        start, outer = self.position, (self.depth, self.open_bars, self.in_braces)
        try:
            node = self.sets()
            end = self._condition_end() if first else 0  # P(X > 1) = 1/2
            of_event = end and self.kind(end - self.position) == "="
            if not of_event and not (first and self.kind() == "=" and node[0] in OPERATORS):
                return node
        except Unreadable:
            if not first:
                raise
        read, self.position = self.position, start
        self.depth, self.open_bars, self.in_braces = outer
        if self.open_bars or not self._skip_to(lambda: self.kind() in _LABEL_ENDS):
            self.position = read
            raise Unreadable("expected a value")
        tokens = self.tokens[start : self.position]
        if self.kind() != "=" or not any(kind in _LABEL_KINDS for kind, _ in tokens):
            raise Unreadable("expected a value")
        return ("sym", f"{_OPAQUE}{' '.join(text for _, text in tokens)}")

    def _restated(self, operators: list[str], operands: list[Node], labels: list[bool]) -> bool:
        """Reads `(= 2.5)` or `(\\approx 2.5)` after a value: another form of it, in brackets."""
        if self.kind() != "(" or self.kind(1) not in ("=", r"\approx"):
            return False
        operators.append(_RELATIONS[self.kind(1)])
        self.position += 2
        operands.append(self.sets())
        labels.append(False)
        self.expect(")")
        return True

    def sets(self) -> Node:
        node = self.ratio()
        if node[0] == "add" and len(node) == 3 and node[2][0] == "neg" and _is_set(node[2][1]):
            node = ("without", node[1], node[2][1])  # R - {1}
        while operator := self.accept(r"\cup", r"\cap", r"\setminus", r"\backslash"):
            other = self.ratio()
            kind = operator if operator in ("cup", "cap") else "without"
            node = (*node, other) if kind == node[0] == "cup" else (kind, node, other)
        return node

    def ratio(self) -> Node:
        parts = [self.sum()]
        while not self.in_braces and self.accept(":"):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else ("ratio", *parts)

    # Arithmetic

    def sum(self) -> Node:
        node = self._terms()
        if self.accept(r"\choose"):
            return ("call", "binom", node, self._terms())
        if self.accept(r"\over"):
            return ("div", node, self._terms())
        if self._modulus_ahead():
            bracket = self.accept("(")
            self.position += 1
            node = _residue(node, self.power())
            if bracket:
                self.expect(")")
        return node

    def _modulus_ahead(self) -> bool:
        r"""Whether `\pmod{7}`, `\mod 7` or `(mod 7)` follows."""
        if self.kind() == "(":
            return self.kind(1) in (r"\mod", r"\bmod")
        return self.kind() in (r"\mod", r"\pmod")

    def _terms(self) -> Node:
        terms = [self.signed()]
        while self.kind() in ("+", "-", r"\pm", r"\mp"):
            terms.append(self.signed())
        if self.accept(r"\bmod"):
            if len(terms) > 1:
                raise Unreadable("a sum before mod is ambiguous")
            return ("call", "mod", terms[0], self.power())
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def signed(self) -> Node:
        if self.accept("+"):
            return self.signed()
        if self.accept("-"):
            return ("neg", self.signed())
        if self.accept(r"\pm"):
            return ("pm", self.product())
        if self.accept(r"\mp"):  # minus where the other sign is plus
            return ("neg", ("pm", self.product()))
        return self.product()

    def product(self) -> Node:
        node = self.power()
        while True:
            if self._modulus_ahead():
                return node
            if self.kind() in ("*", "/") and self.kind(1) == "word":
                node = self._with_words(node)
            elif self.accept("*"):
                node = ("mul", node, self._factor())
            elif self.accept("/"):
                node = ("div", node, self._factor())
            elif self.kind() == "number" and node[0] == "num":
                node = self._mixed_number(node)
            elif self._factor_follows():
                mixed = self._mixed_number_latex(node)
                node = self._postfix(mixed) if mixed else ("mul", node, self.power())
            else:
                return node

    def _factor(self) -> Node:
        if self.accept("-"):
            return ("neg", self.power())
        return self.power()

    def _factor_follows(self) -> bool:
        """Whether the next token starts a factor, with no sign before it."""
        if self.kind() == "(" and (self.kind(1) in ("=", r"\approx") or self._condition_end()):
            return False
        return self.kind() in _FACTOR_STARTS and not (self.kind() == "|" and self.open_bars)

    def _mixed_number(self, whole: Node) -> Node:
        """2 1/2. No other two adjacent numbers are valid."""
        over, under = self.accept("number"), self.accept("/") and self.accept("number")
        if not (over.isdigit() and under.isdigit() and int(under)):
            raise Unreadable("two numbers side by side")
        return ("num", whole[1] + Fraction(int(over), int(under)))

    def _mixed_number_latex(self, whole: Node) -> Node | None:
        r"""2\frac{1}{2}: a whole number before a proper fraction of plain digits; else None."""
        if whole[0] != "num" or whole[1].denominator != 1 or self.kind() != r"\frac":
            return None
        opening, over, *middle, under, closing = (self.text(i) for i in range(1, 7))
        if [opening, *middle, closing] != ["{", "}", "{", "}"]:
            return None
        if not (over.isdigit() and under.isdigit() and int(over) < int(under)):
            return None
        self.position += 7
        return ("num", whole[1] + Fraction(int(over), int(under)))

    def power(self) -> Node:
        return self._postfix(self.primary())

    def _postfix(self, node: Node) -> Node:
        """A primary and what follows it: !, ^, primes, %, degrees, units."""
        while True:
            if self.accept("^"):
                outer = self.in_trigonometric
                self.in_trigonometric |= node == ("sym", "e")  # of a complex number
                node = ("pow", node, self.exponent())
                self.in_trigonometric = outer
            elif self.accept("!"):
                node = ("call", "double", node) if self.accept("!") else ("fact", node)
            elif self.accept("%"):
                node = ("pct", node)
            elif self.accept(r"\deg"):
                node = self._degrees(node)
            elif self.accept("'"):
                node = _accented("'", node)
            elif currency := self.accept(*_CURRENCIES):
                node = _with_unit(node, currency)
            elif self.kind() == "_" and node[0] == "num":
                node = self._in_base(node)
            elif self.kind() == "scale" and node[0] in ("num", "unit"):
                node = ("mul", node, ("num", Fraction(self.accept("scale"))))
            elif self.kind() in ("word", "leading"):
                node = self._with_words(node)
            else:
                return node

    def _degrees(self, node: Node) -> Node:
        """An angle in degrees: its value inside a sine or the like, elsewhere a mark."""
        if self.text() in ("C", "F") and (scale := self.accept("word", "name")):
            return _with_unit(node, {"C": "celsius", "F": "fahrenheit"}[scale])
        return ("mul", node, RADIANS_PER_DEGREE) if self.in_trigonometric else ("deg", node)

    def exponent(self) -> Node:
        if self.accept("-"):
            return ("neg", self.exponent())
        self.accept("+")
        if self.accept("{"):
            return self._until("}")
        node = self.primary()
        return ("pow", node, self.exponent()) if self.accept("^") else node

    def _with_words(self, node: Node) -> Node:
        """A value and the words after it. Units are kept, words that describe it dropped.

        Raises Unreadable for words that bound, scale or deny it.
        """
        phrase = self.accept("*", "/")
        while word := self.accept("word", "leading"):
            phrase += f" {word}"
            if self.accept("^"):
                braces = self.accept("{")
                phrase += f"^{self.accept('-')}{self.accept('number', 'word')}"
                if braces:
                    self.expect("}")
            if self.kind() in ("/", "*") and self.kind(1) == "word":
                phrase += self.accept("/", "*")
        if (node[0] == "num" and unit(phrase)) and (smaller := self._smaller_unit(phrase)):
            return ("unit", ("num", node[1] + smaller), phrase)
        if self.kind() in ("number", "repeating"):
            raise Unreadable("a number after words")
        if not unit(phrase) and not describes(phrase):
            raise Unreadable(f"{phrase!r} changes the value before it")
        return _with_unit(node, phrase)

    def _smaller_unit(self, phrase: str) -> Fraction | None:
        """The 1/4 of `15 minutes` after `2 hours`; None if no such part follows."""
        ahead = self.kind() == "and"
        larger, smaller = unit(phrase), unit(self.text(ahead + 1))
        if self.kind(ahead) != "number" or self.kind(ahead + 1) != "word":
            return None
        if larger is None or smaller is None or larger[1] != smaller[1]:
            return None
        part = parse_decimal(self.text(ahead)) * smaller[0] / larger[0]
        if not part < 1 or smaller[0] >= larger[0]:
            return None
        self.position += ahead + 2
        further = self._smaller_unit(self.text(-1))
        return part + (further or 0) * smaller[0] / larger[0]

    def _in_base(self, node: Node) -> Node:
        base = self._subscript().strip("()")
        if not base.isdigit():
            raise Unreadable("a number with a subscript that is not a base")
        return node if base == "10" else ("base", str(node[1]), base)

    def _subscript(self) -> str:
        self.expect("_")
        if not self.accept("{"):
            self.position += 1
            return self.text(-1)
        start, depth = self.position, 1
        while depth and self.kind():
            depth += {"{": 1, "}": -1}.get(self.kind(), 0)
            self.position += 1
        return "".join(text for _, text in self.tokens[start : self.position - 1])

    # Primaries

    def primary(self) -> Node:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise Unreadable("nested too deeply")
        node = self._primary()
        self.depth -= 1
        return node

    def _primary(self) -> Node:
        kind, text = self.kind(), self.text()
        self.position += 1
        match kind:
            case "number":
                return ("num", parse_decimal(text))
            case "repeating":
                return ("num", parse_repeating(*text.split("|")))
            case "name":
                return ("sym", f"{text}_{self._subscript()}" if self.kind() == "_" else text)
            case "function":
                return self._function(text)
            case "(" | "[":
                return self._bracketed(text)
            case "{":
                return self._until("}")
            case "\\{":
                return self._set()
            case "|":
                self.open_bars += 1
                node = self.sum()
                self.expect("|")
                self.open_bars -= 1
                return ("call", "abs", node)
            case "begin":
                return self._cases() if text in _CASES else self._matrix(text)
            case "set":
                return self._number_set(text)
            case "word" if len(text) == 1 or self.kind() == "=":
                return ("sym", text)
            case r"\text" | r"\textbf" | r"\mathrm" | r"\mbox" if self.accept("{"):
                return self._until("}")  # markup around a formula
            case r"\frac":
                return _quotient(self.argument(), self.argument())
            case r"\binom":
                return ("call", "binom", self.argument(), self.argument())
            case r"\pi":
                return ("sym", "pi")
            case r"\infty":
                return ("inf",)
            case r"\emptyset":
                return ("empty",)
            case r"\langle" | r"\lfloor" | r"\lceil":
                return self._bracketed(text)
            case r"\sum" | r"\prod" | r"\int" | r"\lim":
                return self._operator(text)
        if kind in _CURRENCIES:
            return _with_unit(self.power(), text, before=True)
        if kind == f"\\{text}" and text in _ACCENTS:
            return _accented(text, self.argument())
        raise Unreadable(f"expected a value, found {text!r}")

    def argument(self) -> Node:
        r"""An argument of \frac or the like: a group, or one digit or symbol."""
        if self.accept("{"):
            return self._until("}")
        if self.kind() == "number" and len(text := self.text()) > 1:
            self.tokens[self.position] = ("number", text[1:])
            return ("num", parse_decimal(text[0]))
        return self.primary()

    def _until(self, closing: str) -> Node:
        node = self.items()
        self.expect(closing)
        return node

    def _bracketed(self, opening: str) -> Node:
        bars, self.open_bars = self.open_bars, 0
        node = self.items()
        self.open_bars = bars
        expected = _CLOSING[opening]
        closing = self.accept(")", "]", r"\rangle", r"\rfloor", r"\rceil")
        if not closing or (expected[0] == "r" and closing != expected):
            raise Unreadable(f"{opening} is not closed")
        if opening in ("lfloor", "lceil"):
            return ("call", opening[1:], node)
        if node[0] == "list":
            return ("tuple", opening, closing, *node[1:])
        if opening == "langle" or closing != expected:
            raise Unreadable(f"{opening} is not closed")
        return node

    def _set(self) -> Node:
        if self.accept("\\}"):
            return ("empty",)
        outer, self.in_braces = (self.open_bars, self.in_braces), True
        self.open_bars = 1  # a | separates, and opens no absolute value
        node = self.items()
        if self.accept(":", "|", r"\mid"):
            self.in_braces, self.open_bars = False, 0
            node = ("such", node, self.items())
        self.open_bars, self.in_braces = outer
        self.expect("\\}")
        if node[0] == "such":
            return node
        if node[0] == "run":
            return node
        return ("braces", *(node[1:] if node[0] == "list" else (node,)))

    def _number_set(self, name: str) -> Node:
        r"""A set of numbers and its marks: `\mathbb{Z}^+`, `\mathbb{R}_{\ge 0}`."""
        marks = ""
        while self.kind() == "_" or (self.kind() == "^" and self.kind(1) in ("{", "+", "-", "*")):
            if self.kind() == "^":
                self.tokens[self.position] = ("_", "_")
            marks += self._subscript()
        if not marks:
            return ("field", name)
        if (name, marks) not in _MARKED_SETS:
            raise Unreadable(f"the set {name} with {marks!r}")
        return _MARKED_SETS[name, marks]

    def _function(self, name: str) -> Node:
        if name == "sqrt":
            return self._root()
        base: tuple[Node, ...] = ()
        if self.kind() == "_":
            subscript = self._subscript()
            is_number = subscript.isdigit()
            base = (("num", parse_decimal(subscript)) if is_number else ("sym", subscript),)
        exponent = self.exponent() if self.accept("^") else None
        if exponent == ("neg", ONE) and name in ("sin", "cos", "tan"):
            name, exponent = f"arc{name}", None
        outer, self.in_trigonometric = self.in_trigonometric, name in _TRIGONOMETRIC
        if self.kind() in ("(", "{", "["):
            inner = self.primary()
            arguments = inner[3:] if inner[0] == "tuple" else (inner,)
        else:
            arguments = (self._bare_argument(),)
        self.in_trigonometric = outer
        match name:
            case "factorial":
                node: Node = ("fact", *arguments)
            case "exp":
                node = ("pow", ("sym", "e"), *arguments)
            case "gcd" | "lcm":
                node = ("call", name, *sorted(arguments, key=repr))
            case _:
                node = ("call", name, *arguments, *base)
        return node if exponent is None else ("pow", node, exponent)

    def _bare_argument(self) -> Node:
        r"""The x of `\sin x`, the 2x of `\sin 2x \cos x`: factors up to the next function."""
        if self.accept("-"):
            return ("neg", self._bare_argument())
        if self.kind() == "function":
            return self.power()
        node = self.power()
        while self._factor_follows() and self.kind() not in ("function", "("):
            node = ("mul", node, self.power())
        return node

    def _root(self) -> Node:
        index = self._until("]") if self.accept("[") else ("num", Fraction(2))
        return ("pow", self.primary(), ("div", ONE, index))

    def _matrix(self, environment: str) -> Node:
        """A matrix, whatever its brackets; a determinant between single bars."""
        cells: list[list[Node]] = [[]]
        while not self.accept("end"):
            if self.accept("row"):
                cells.append([])
            elif not self.accept("&", "and"):
                cells[-1].append(self.sum())
        rows = [tuple(row) for row in cells if row]
        if not rows or len({len(row) for row in rows}) > 1:
            raise Unreadable("matrix rows of unequal length")
        if environment == "vmatrix":
            return ("det", *rows)
        if environment == "array" and len(rows) == len(rows[0]) == 1:
            return rows[0][0]  # only laid out
        if environment not in _MATRICES:
            raise Unreadable(f"{environment} is not a matrix environment")
        return ("matrix", *rows)

    def _cases(self) -> Node:
        """A function by cases, or a system of equations, which is their list."""
        rows: list[Node] = []
        while not self.accept("end"):
            value = self.relation()
            while self.accept(",", ";"):
                pass
            if self.accept("&") or self.kind() not in ("row", "end"):
                value = ("case", value, self._case_condition())
            rows.append(value)
            while self.accept("row", ","):
                pass
        kinds = {row[0] for row in rows}
        if kinds == {"case"}:
            return ("piecewise", *rows)
        if kinds == {"rel"}:
            return ("list", *rows)
        raise Unreadable("cases that are neither a function nor a system")

    def _case_condition(self) -> Node:
        """`x > 0`, or words such as `n even` and `otherwise`, up to the end of the row."""
        start = self.position
        self._skip_to(lambda: self.kind() in ("row", "end"))
        tokens = self.tokens[start : self.position]
        while tokens and tokens[-1][0] in (",", ";"):
            tokens.pop()
        while tokens and tokens[0][0] in ("condition", "leading", ","):
            tokens = tokens[1:]
        if any(kind in _RELATIONS for kind, _ in tokens):
            condition = Parser(tokens)
            return condition.whole(condition.items)
        words = " ".join(text for _, text in tokens).casefold().split()
        prose = " ".join(word.strip(".,") for word in words if word not in ("is", "if", "an", "a"))
        return ("words", "otherwise" if prose in ("else", "elsewhere") else prose)

    def _operator(self, name: str) -> Node:
        r"""`\sum_{k=1}^n k^2`, `\prod`, `\lim_{x \to 0} x`, `\int_0^1 x dx`, after the macro."""
        self.expect("_")
        bounds = [self.argument()]
        if name != "lim":
            self.expect("^")
            bounds.append(self.argument())
        if name == "int":
            return ("int", *self._integrand(), *bounds)
        below = bounds[0]
        if below[0] != "rel" or below[1] != ("=",) or below[2][0][0] != "sym":
            raise Unreadable(f"{name} without a variable")
        return (name, self.product(), *below[2], *bounds[1:])

    def _integrand(self) -> tuple[Node, Node]:
        """The x^2 and the x of `x^2 dx`: up to the first `dx` outside brackets."""
        start = self.position
        if not self._skip_to(lambda: (self.kind(), self.text(), self.kind(1)) == _DIFFERENTIAL):
            raise Unreadable("an integral without its differential")
        inner, variable = Parser(self.tokens[start : self.position]), ("sym", self.text(1))
        self.position += 2
        return inner.whole(inner.sum), variable


def _as_points(nodes: list[Node]) -> Node | None:
    """x = 1, y = 4, x = 4, y = 1 as two systems: each has all names once. Else None."""
    names = [
        node[2][0] if node[0] == "rel" and node[1] == ("=",) and node[3][0] else None
        for node in nodes
    ]
    size = len(set(names))
    if None in names or size < 2 or len(nodes) == size or len(nodes) % size:
        return None
    starts = range(0, len(nodes), size)
    if any(len(set(names[start : start + size])) < size for start in starts):
        return None
    return ("list", *(("list", *nodes[start : start + size]) for start in starts))


def _are_alternatives(nodes: list[Node]) -> bool:
    """Whether all are relations, and one an inequality: `x = 1 or x > 2` is a set."""
    return all(node[0] == "rel" for node in nodes) and any(
        set(node[1]) & _INEQUALITIES for node in nodes
    )


def _is_set(node: Node) -> bool:
    return node[0] in ("braces", "field", "empty")


def _is_label(written: str, operand: Node) -> bool:
    """Whether one side of a relation looks like the name of the other side, such as `f(x)`."""
    if operand[0] == "sym" and operand[1].startswith((_OPAQUE, "derivative ")):
        return True
    return bool(symbols(operand) and _LABEL.fullmatch(written) and _is_name(operand))


def _is_name(operand: Node) -> bool:
    """f(x + 1) is a value of f; x(x - 4) and a(b + c) are products, and 5 is a number."""
    if operand[0] != "mul" or operand[1][0] != "sym" or operand[2][0] != "add":
        return operand[0] != "num"
    name = operand[1][1]
    return repr(operand[1]) not in repr(operand[2]) and (
        name in ("f", "g", "h") or name[0].isupper()
    )


def _accented(mark: str, node: Node) -> Node:
    """A symbol with a prime or an accent: another symbol. Over more, an unknown function."""
    return ("sym", f"{node[1]} {mark}") if node[0] == "sym" else ("call", mark, node)


def _with_unit(node: Node, phrase: str, before: bool = False) -> Node:
    """A number with its unit; the number alone if the words are not a unit.

    before: the phrase stands before the number, as in `\\$5 per pound`.
    """
    if node[0] == "unit":
        inner, known = node[1:]
        return ("unit", inner, f"{phrase} {known}" if before else f"{known} {phrase}")
    return ("unit", node, phrase) if node[0] in SCALARS and unit(phrase) else node


def _residue(node: Node, modulus: Node) -> Node:
    r"""`3 \pmod 7` is the number 3 modulo 7; `10 \pmod 7`, not reduced, equals only itself."""
    if node[0] == modulus[0] == "num" and 0 <= node[1] < modulus[1]:
        return _with_unit(node, f"mod {modulus[1]}")
    return ("call", "residue", node, modulus)


def _quotient(over: Node, under: Node) -> Node:
    r"""The value of \frac: a quotient, or a derivative, whose d's do not cancel.

    \frac{dy}{dx} is an unknown of its own, like y'. \frac{d}{dx} of an expression is Unreadable.
    """
    for name in ("d", "partial"):
        if under[0] == "mul" and _leading_factor(over) == _leading_factor(under) == ("sym", name):
            if over[0] != "mul":
                raise Unreadable("a derivative that is not worked out")
            return ("sym", f"derivative {over} {under}")
    return ("div", over, under)


def _leading_factor(node: Node) -> Node:
    """The first factor, without its exponent."""
    while node[0] in ("mul", "pow"):
        node = node[1]
    return node
