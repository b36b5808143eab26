r"""Answers -> tokens: numbers, names, words, signs.

Decides which runs of letters are functions, constants, units or prose. Does not know how tokens
combine. A token is (kind, text). The kinds are `number`, `repeating` (0.1(6)), `name` (a symbol),
`function`, `word` (a unit or prose), `scale` ("million"), `leading` (words before a value), `and`,
`or`, `condition` ("for all"), `set`, `row`, `begin`, `end`; any other macro (`\frac`) and each sign
is a kind of its own. Raises Unreadable for text that hedges ("or any", "not").
"""

import re
from fractions import Fraction

from asymrl.verifiers.latex.units import NAMES, unit
from asymrl.verifiers.latex.words import ARITHMETIC, HEDGES, NUMBERS, names_value, scale

Token = tuple[str, str]

_FUNCTIONS = """
    sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh sech csch coth
    log ln lg exp sqrt cbrt
    abs floor ceil min max gcd lcm asin acos atan factorial binomial"""
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "binomial": "binom"}
_GREEK = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon
    Phi Psi Omega hbar ell nabla partial"""
_VALUES = frozenset({"pi", "infty", "emptyset"})
FUNCTIONS, GREEK = (frozenset(names.split()) for names in (_FUNCTIONS, _GREEK))
# The parts of a run of bare letters such as `xln` or `2pir`.
_IN_RUNS = re.compile("|".join([*sorted(FUNCTIONS, key=len, reverse=True), "pi|theta", "[a-zA-Z]"]))
MAX_RUN = 8  # letters in a product written without spaces
MAX_DECIMAL_EXPONENT = 5_000  # in scientific notation
MAX_DECIMAL_DIGITS = 5_000
MAX_REPEATING_DIGITS = 200
_SEPARATORS = {"and": "and", "or": "or", "&": "and"}
_CONDITION = re.compile(r"(?:,\s*)?(?:for|where|when|whenever|with|as|such that|since)\b")
_EVERY = re.compile(r"\b(?:all|any|each|every)\b")
# Words before a value: one that adds nothing, or a sentence that ends in "is" or a colon.
_LEADING = re.compile(
    r"(?:only|exactly|the|hence|therefore|thus|so|then|finally|or about)\b[.,]?"
    r"|(?:it follows that|this gives|which gives|we (?:get|have|obtain|find))"
    r"|(?:the )?(?:points?|number|value|year|vector|interval|set)"
    r"|(?:.*\s)?(?:is|are|equals?):?|.*:"
)
_PERCENT = ("percent", "percentage", "pct")
_ABOUT = ("approximately", "approx", "about", "roughly", "or approximately", "or about")
_TOKEN = re.compile(
    r"\\(?P<wrapper>text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|mathrm|"
    r"operatorname\*?)"
    r"\s*\{(?P<words>[^{}]*)\}"
    r"|\\(?:begin|end)\s*\{(?P<environment>[a-z]+\*?)\}(?:\s*\{[clr|]+\})?"
    r"|\\mathbb\s*(?:\{\s*)?(?P<set>[A-Z])\s*\}?"
    r"|(?P<repeating>\d*\.\d*)\\overline\s*\{?(?P<cycle>\d+)\}?"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![a-zA-Z]))?)"
    r"|(?P<macro>\\[a-zA-Z]+)"
    r"|(?P<row>\\\\)|(?P<brace>\\[{}|])|(?P<hash>\\\#)"
    r"|(?P<letters>[a-zA-Z]+)"
    r"|(?P<sign>[-+*/^_!=<>,;:|()\[\]{}'&%])"
    r"|(?P<space>\s+|\\[!,;: ]|\\(?=$))"
)
_COUNTED = re.compile(r"(-?\d[\d.,]*)\s+([a-zA-Z][a-zA-Z\s]*)")  # 13 apples
_SHORT_UNITS = frozenset(name for name in (*NAMES, "mL") if len(name) == 2)
_AMBIGUOUS_UNIT = re.compile(rf"(?<![a-zA-Z\\])(?:{'|'.join(sorted(_SHORT_UNITS))})(?![a-zA-Z])")
# Weight, and mass times length. They are units only after a number and a space.
_QUANTITIES = frozenset({"mg", "mL"})
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


class Unreadable(Exception):
    """The grammar does not cover this text."""


def has_ambiguous_thousands(text: str) -> bool:
    """Whether a comma can separate either thousands or list items, as in 1,234.

    Not in 1,000 or 1,050: a list item is never written 000 or 050.
    """
    numbers = _THOUSANDS.findall(text)
    return bool(numbers) and not any(",0" in number for number in numbers)


def join_thousands(text: str) -> str:
    """Removes thousands commas: 1,000 becomes 1000."""
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def has_ambiguous_units(text: str) -> bool:
    """Whether bare letters can be a unit or a product of symbols: km, or k times m."""
    return _AMBIGUOUS_UNIT.search(text) is not None


def tokenize(text: str, products: bool = False) -> list[Token]:
    """All tokens of a text in simplified notation. Raises Unreadable at an unknown character.

    products: bare letters that can be a unit are a product of symbols.
    """
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"unexpected character {text[position]!r}")
        position = match.end()
        kind = match.lastgroup or ""
        if kind == "words":
            operator = match["wrapper"].startswith("op") and match["words"] in FUNCTIONS
            attached = bool(tokens) and tokens[-1][0] in ("number", "repeating")
            attached &= text[: match.start()][-1:].isdigit() and match["words"][:1] != " "
            tokens += [_macro(match["words"])] if operator else _prose(match["words"], attached)
        elif kind == "letters":
            run, before = match["letters"], text[match.start() - 1 : match.start()]
            last = tokens[-1][0] if tokens else ""
            weight = run in _QUANTITIES and (last != "number" or before != " ")
            if run in _SHORT_UNITS and (products or last == "name" or weight):
                tokens += [("name", letter) for letter in run]
            else:
                tokens += _letters(run, after_space=not before.strip())
        elif kind == "cycle":
            tokens.append(("repeating", f"{match['repeating']}|{match['cycle']}"))
        elif kind == "environment":
            opening = "begin" if match[0].startswith("\\begin") else "end"
            tokens.append((opening, match["environment"]))
        elif kind == "macro":
            tokens.append(_macro(match["macro"][1:]))
        elif kind == "brace":
            sign = match["brace"]
            tokens.append(("|", "|") if sign == r"\|" else (sign, sign))
        elif kind == "hash":
            tokens.append((r"\#", "#"))
        elif kind == "sign":
            tokens.append((match["sign"], match["sign"]))
        elif kind != "space":
            tokens.append((kind, match[kind]))
    return tokens


def _macro(name: str) -> Token:
    if name in FUNCTIONS:
        return ("function", _ALIASES.get(name, name))
    if name in GREEK:
        return ("name", name)
    if name in ("land", "wedge", "and"):
        return ("and", name)
    if name in ("lor", "vee", "or"):
        return ("or", name)
    if name in ("imath", "jmath"):
        return ("name", name[0])
    return (f"\\{name}", name)


def _prose(content: str, attached: bool = False) -> list[Token]:
    r"""The tokens of `\text{content}`. attached: it stands directly after a number."""
    content = content.strip()
    lowered = content.casefold().strip(" ,.")
    if not content:
        return []
    if lowered in _SEPARATORS:
        return [(_SEPARATORS[lowered], lowered)]
    if lowered in ("i.e", "", "respectively"):
        return []
    if re.fullmatch(r"[\d.,/()\s+-]*\d[\d.,/()\s+-]*|[eipx]|-?\d+\s*/\s*\d+", content):
        return tokenize(content)
    if content in FUNCTIONS - {"min", "max", "sec"} or content == "pi":
        return [_macro(content)]
    if lowered == "mod":
        return [_macro("mod")]
    if lowered.strip("( ") in _ABOUT:
        return [*([("(", "(")] if "(" in content else []), (r"\approx", "approx")]
    if lowered in ("infinity", "positive infinity"):
        return [_macro("infty")]
    if lowered in NUMBERS:
        return [("number", str(NUMBERS[lowered]))]
    if counted := _COUNTED.fullmatch(content.strip(" .")):
        return [*tokenize(counted[1]), *_prose(counted[2])]
    first, _, rest = content.strip(" ,.").partition(" ")
    if factor := scale(first, attached):
        return [("scale", str(factor)), *(_prose(rest) if rest else ())]
    if lowered.endswith(" and") and unit(lowered.removesuffix(" and")):
        return [("word", content[: -len(" and")]), ("and", "and")]
    condition = _CONDITION.match(lowered)
    unquantified = _EVERY.sub("", lowered) if condition else lowered
    if HEDGES.search(unquantified) or ARITHMETIC.search(lowered):
        raise Unreadable(f"{content!r} hedges or changes the number")
    if re.search(r"(?<![\^a-z])\d", lowered):
        raise Unreadable(f"{content!r} contains another number")
    if condition:
        return [("condition", lowered)]
    if lowered in (*_PERCENT, "degrees", "degree", "%"):
        return [("%", "%")] if lowered[0] in "p%" else [_macro("deg")]
    if _LEADING.fullmatch(lowered) and names_value(re.sub(r"\bso$", "", lowered)):
        return [("leading", lowered)]
    return [("word", content)]


def _letters(run: str, after_space: bool) -> list[Token]:
    """The tokens of a run of bare letters: a function, a word, or a product of symbols.

    after_space: nothing precedes the run directly. Letters attached to a number are not prose.
    """
    lowered = run.casefold()
    if run in FUNCTIONS or run in _VALUES or (run in GREEK and len(run) > 2):
        return [_macro(run)]
    if lowered in ("inf", "infinity", "oo"):
        return [_macro("infty")]
    if lowered == "union":
        return [_macro("cup")]
    if lowered in _SEPARATORS:
        return [(_SEPARATORS[lowered], lowered)]
    if lowered in (*_PERCENT, "degrees", "degree", "mod") or lowered in NAMES:
        return _prose(run)
    if lowered in ("hence", "therefore", "thus"):
        return [("leading", lowered)]
    if _CONDITION.fullmatch(lowered) and len(run) > 1:
        return [("condition", lowered)]
    if len(run) > 2 and (factor := scale(run, attached=False)):
        return [("scale", str(factor))]
    changes_number = len(run) > 2 and ARITHMETIC.fullmatch(lowered)
    if changes_number or HEDGES.fullmatch(run) or lowered in {"true", "false", "yes"}:
        raise Unreadable(f"unexpected word {run!r}")
    if after_space and len(run) > 3 and re.search("[aeiouy]", lowered):
        return [("word", run)]
    if len(run) > MAX_RUN:
        raise Unreadable(f"{run!r} is neither a word nor a product")
    parts = _IN_RUNS.findall(run)
    return [("name", part) if len(part) == 1 else _macro(part) for part in parts]


def parse_decimal(text: str) -> Fraction:
    """The value of 12, 1.5, .5 or 1e3, exactly."""
    digits, _, exponent = text.lower().partition("e")
    if len(digits) > MAX_DECIMAL_DIGITS or abs(int((exponent or "0")[:9])) > MAX_DECIMAL_EXPONENT:
        raise Unreadable("a number with too many digits")
    try:
        return Fraction(text)
    except ValueError:  # a point without digits
        raise Unreadable(f"{text!r} is not a number") from None


def parse_repeating(digits: str, cycle: str) -> Fraction:
    """The value of a repeating decimal: 1/6 for 0.1 and 6."""
    places = len(digits.partition(".")[2])
    if len(digits) + len(cycle) > MAX_REPEATING_DIGITS:
        raise Unreadable("a number with too many digits")
    tail = Fraction(int(cycle), (10 ** len(cycle) - 1) * 10**places)
    padded = f"{digits}0" if digits.startswith(".") or digits.endswith(".") else digits
    return Fraction(padded) + tail
