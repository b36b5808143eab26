r"""Answers -> tokens: numbers, names, words, signs.

Knows which runs of letters are functions, constants, units or prose. A token is (kind, text):
`number`, `name` (a symbol), `function`, `macro`, `word` (a unit or prose, skipped), `and`,
`or`, `until` (prose that ends an item: "for all ..."), or a sign that is its own kind. Text that
hedges ("or any", "not") is no answer: Unreadable.
"""

import re
from fractions import Fraction

Token = tuple[str, str]

_FUNCTIONS = """
    sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln lg exp sqrt cbrt
    abs floor ceil min max asin acos atan factorial binomial"""
_SAME = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "binomial": "binom"}
_GREEK = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon
    Phi Psi Omega hbar ell nabla partial"""
CONSTANTS = frozenset({"pi", "infty", "emptyset"})
_UNITS = """
    cm mm km m ft inch inches foot feet yard yards mile miles meter meters metre metres centimeters
    kilometers gram grams kg mg lb lbs pound pounds ounce ounces oz ton tons second seconds sec
    minute minutes hour hours day days week weeks month months year years hr hrs mph kmh dollar
    dollars cent cents euro euros yuan usd unit units square cubic cu sq degree degrees radian
    radians percent gallon gallons liter liters litre litres ml pint pints quart quarts cup cups
    people person ways way times pages items coins marbles students point points old per joules
    watts volts newtons hz khz mhz kpa pa mol kj st nd rd th"""
FUNCTIONS, GREEK, UNITS = (frozenset(names.split()) for names in (_FUNCTIONS, _GREEK, _UNITS))
MAX_EXPONENT = 5_000  # of a number in scientific notation
MAX_DIGITS = 5_000
_SEPARATORS = {"and": "and", "or": "or", "&": "and", "und": "and"}
_HEDGES = re.compile(
    r"\b(?:or|not|any|either|maybe|perhaps|unless|if|wrong|depends?|cannot|unknown|between|"
    r"none|neither|undefined|no|but|incorrect|alternatively|actually)\b"
)
# Words that make another number of the one before them: to leave them out would accept it.
_ARITHMETIC = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|dozen|"
    r"hundred|thousand|million|billion|trillion|squared|cubed|plus|minus|times|less|more|base|"
    r"power|half|twice|double|absolute)s?\b"
)
_UNTIL = re.compile(r"(?:,\s*)?(?:for|where|when|whenever|with|as|such that|with respect|since)\b")
_LEADING = re.compile(r"(?:only|exactly|rs|usd|is|are|the|angle|area|triangle|equals?)\b\.?")
_TOKEN = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|mathrm|operatorname\*?)"
    r"\s*\{(?P<words>[^{}]*)\}"
    r"|\\(?:begin|end)\s*\{(?P<environment>[a-z]+\*?)\}(?:\s*\{[clr|]+\})?"
    r"|\\mathbb\s*\{?\s*(?P<set>[A-Z])\s*\}?"
    r"|(?P<repeating>\d*\.\d*)\\overline\s*\{?(?P<cycle>\d+)\}?"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![a-zA-Z]))?)"
    r"|(?P<macro>\\[a-zA-Z]+)"
    r"|(?P<row>\\\\)|(?P<brace>\\[{}|])"
    r"|(?P<letters>[a-zA-Z]+)"
    r"|(?P<sign>[-+*/^_!=<>,;:|()\[\]{}'&%])"
    r"|(?P<space>\s+|\\[!,;: ]|\\(?=$))"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


class Unreadable(Exception):
    """The text is not an answer that the grammar knows."""


def has_thousands(text: str) -> bool:
    return _THOUSANDS.search(text) is not None


def join_thousands(text: str) -> str:
    """1,000 as one number; a list of such numbers reads so too, hence the other reading."""
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def tokens(text: str) -> list[Token]:
    """All tokens of plain text. Unreadable at the first thing that is none."""
    found: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"{text[position]!r} is no mathematics")
        position = match.end()
        kind = match.lastgroup or ""
        if kind == "words":
            found += _prose(match["words"])
        elif kind == "letters":
            found += _letters(match["letters"])
        elif kind == "cycle":
            found.append(("repeating", f"{match['repeating']}|{match['cycle']}"))
        elif kind == "environment":
            opening = "begin" if match[0].startswith("\\begin") else "end"
            found.append((opening, match["environment"]))
        elif kind == "macro":
            found.append(_macro(match["macro"][1:]))
        elif kind == "brace":
            sign = match["brace"]
            found.append(("|", "|") if sign == r"\|" else (sign, sign))
        elif kind == "sign":
            found.append((match["sign"], match["sign"]))
        elif kind != "space":
            found.append((kind, match[kind]))
    return found


def _macro(name: str) -> Token:
    if name in FUNCTIONS:
        return ("function", _SAME.get(name, name))
    if name in GREEK:
        return ("name", name)
    if name in ("land", "wedge"):
        return ("and", name)
    if name in ("lor", "vee"):
        return ("or", name)
    if name in ("imath", "jmath"):
        return ("name", name[0])
    return ("macro", name)


def _prose(content: str) -> list[Token]:
    r"""What `\text{content}` stands for."""
    content = content.strip()
    lowered = content.casefold().strip(" ,.")
    if not content:
        return []
    if lowered in _SEPARATORS:
        return [(_SEPARATORS[lowered], lowered)]
    if lowered in ("i.e", "", "respectively"):
        return []
    if re.fullmatch(r"[\d.,/()\s+-]*\d[\d.,/()\s+-]*|[eipx]|-?\d+\s*/\s*\d+", content):
        return tokens(content)
    if content in FUNCTIONS - {"min", "max"} or content == "pi":
        return [_macro(content)]
    if _UNTIL.match(lowered):
        return [("until", lowered)]
    if _HEDGES.search(lowered) or _ARITHMETIC.search(lowered):
        raise Unreadable(f"{content!r} hedges, or counts")
    if re.search(r"(?<![\^a-z])\d", lowered):
        raise Unreadable(f"{content!r} holds another number")
    if lowered in ("percent", "degrees", "degree", "%"):
        return [("%", "%")] if lowered[0] in "p%" else [("macro", "deg")]
    if _LEADING.fullmatch(lowered):
        return [("leading", lowered)]
    return [("word", content)]


def _letters(run: str) -> list[Token]:
    """What a run of bare letters stands for: a function, a word, or a product of symbols."""
    lowered = run.casefold()
    if run in FUNCTIONS or run in CONSTANTS or (run in GREEK and len(run) > 2):
        return [_macro(run)]
    if lowered in ("inf", "infinity", "oo"):
        return [("macro", "infty")]
    if lowered == "union":
        return [("macro", "cup")]
    if lowered in _SEPARATORS:
        return [(_SEPARATORS[lowered], lowered)]
    if lowered in ("percent", "degrees", "degree") or (len(run) > 1 and lowered in UNITS):
        return _prose(run)
    if _UNTIL.fullmatch(lowered) and len(run) > 1:
        return [("until", lowered)]
    counts = len(run) > 2 and _ARITHMETIC.fullmatch(lowered)
    if counts or _HEDGES.fullmatch(run) or lowered in {"true", "false", "yes"}:
        raise Unreadable(f"{run!r} is a word")
    for name in ("pi", "sqrt", "theta"):
        if run.endswith(name) and len(run) <= len(name) + 2:
            return [*(("name", letter) for letter in run[: -len(name)]), _macro(name)]
    if len(run) > 3 and lowered == run and re.search("[aeiouy]", run):
        return [("word", run)]
    if len(run) > 4:
        return [("word", run)]
    return [("name", letter) for letter in run]


def numeral(text: str) -> Fraction:
    digits, _, exponent = text.lower().partition("e")
    if len(digits) > MAX_DIGITS or abs(int((exponent or "0")[:9])) > MAX_EXPONENT:
        raise Unreadable("a number too long to be meant")
    try:
        return Fraction(text)
    except ValueError:  # a point and no digits
        raise Unreadable(f"{text!r} is no number") from None


def fraction(over: str, under: str) -> Fraction:
    if not (over.isdigit() and under.isdigit() and int(under)):
        raise Unreadable("no fraction")
    return Fraction(int(over), int(under))


def repeating(digits: str, cycle: str) -> Fraction:
    """0.1(6) as 1/6."""
    places = len(digits.partition(".")[2])
    if len(digits) + len(cycle) > 200:
        raise Unreadable("a number too long to be meant")
    tail = Fraction(int(cycle), (10 ** len(cycle) - 1) * 10**places)
    return (
        Fraction(f"{digits}0" if digits.startswith(".") or digits.endswith(".") else digits) + tail
    )
