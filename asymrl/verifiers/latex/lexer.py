r"""Answers -> tokens: numbers, names, words, signs.

Knows which runs of letters are functions, constants, units or prose. A token is (kind, text):
`number`, `name` (a symbol), `function`, `macro`, `word` (a unit or prose), `and`, `or`, `until`
(what opens a condition: "for all ..."), or a sign that is its own kind. Text that
hedges ("or any", "not") is no answer: Unreadable.
"""

import re
from fractions import Fraction

from asymrl.verifiers.equality.units import NAMES

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
FUNCTIONS, GREEK = (frozenset(names.split()) for names in (_FUNCTIONS, _GREEK))
# In a run of bare letters: what else may stand between symbols, as in `xln` or `2pir`.
_IN_RUNS = re.compile("|".join([*sorted(FUNCTIONS, key=len, reverse=True), "pi|theta", "[a-zA-Z]"]))
MAX_RUN = 8  # letters of a product that is written without a space
MAX_EXPONENT = 5_000  # of a number in scientific notation
MAX_DIGITS = 5_000
_SEPARATORS = {"and": "and", "or": "or", "&": "and"}
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
_UNTIL = re.compile(r"(?:,\s*)?(?:for|where|when|whenever|with|as|such that|since)\b")
_EVERY = re.compile(r"\b(?:all|any|each|every)\b")
# What may stand before a value: a word that adds nothing, or a sentence that says what is.
_LEADING = re.compile(r"(?:only|exactly|the)\b\.?|(?:.*\s)?(?:is|are|equals?):?")
_TOKEN = re.compile(
    r"\\(?P<wrapper>text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|mathrm|"
    r"operatorname\*?)"
    r"\s*\{(?P<words>[^{}]*)\}"
    r"|\\(?:begin|end)\s*\{(?P<environment>[a-z]+\*?)\}(?:\s*\{[clr|]+\})?"
    r"|\\mathbb\s*(?:\{\s*)?(?P<set>[A-Z])\s*\}?"
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
    """Whether commas may be of thousands or of a list: 1,234 is either, 1,000 and 1,050 are none
    since no number in a list is written 000."""
    found = _THOUSANDS.findall(text)
    return bool(found) and not any(",0" in number for number in found)


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
            operator = match["wrapper"].startswith("op") and match["words"] in FUNCTIONS
            found += [_macro(match["words"])] if operator else _prose(match["words"])
        elif kind == "letters":
            apart = not text[match.start() - 1 : match.start()].strip()
            found += _letters(match["letters"], apart)
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
    if content in FUNCTIONS - {"min", "max", "sec"} or content == "pi":
        return [_macro(content)]
    if lowered == "mod":
        return [("macro", "mod")]
    condition = _UNTIL.match(lowered)
    doubtful = _EVERY.sub("", lowered) if condition else lowered
    if _HEDGES.search(doubtful) or _ARITHMETIC.search(lowered):
        raise Unreadable(f"{content!r} hedges, or counts")
    if re.search(r"(?<![\^a-z])\d", lowered):
        raise Unreadable(f"{content!r} holds another number")
    if condition:
        return [("until", lowered)]
    if lowered in ("percent", "degrees", "degree", "%"):
        return [("%", "%")] if lowered[0] in "p%" else [("macro", "deg")]
    if _LEADING.fullmatch(lowered):
        return [("leading", lowered)]
    return [("word", content)]


def _letters(run: str, apart: bool) -> list[Token]:
    """What a run of bare letters stands for: a function, a word, or a product of symbols.

    apart: a space or nothing stands before it. What is stuck to a number is no prose.
    """
    lowered = run.casefold()
    if run in FUNCTIONS or run in CONSTANTS or (run in GREEK and len(run) > 2):
        return [_macro(run)]
    if lowered in ("inf", "infinity", "oo"):
        return [("macro", "infty")]
    if lowered == "union":
        return [("macro", "cup")]
    if lowered in _SEPARATORS:
        return [(_SEPARATORS[lowered], lowered)]
    if lowered in ("percent", "degrees", "degree", "mod") or lowered in NAMES:
        return _prose(run)
    if _UNTIL.fullmatch(lowered) and len(run) > 1:
        return [("until", lowered)]
    counts = len(run) > 2 and _ARITHMETIC.fullmatch(lowered)
    if counts or _HEDGES.fullmatch(run) or lowered in {"true", "false", "yes"}:
        raise Unreadable(f"{run!r} is a word")
    if apart and len(run) > 3 and re.search("[aeiouy]", lowered):
        return [("word", run)]
    if len(run) > MAX_RUN:
        raise Unreadable(f"{run!r} is no word and no product")
    parts = _IN_RUNS.findall(run)
    return [("name", part) if len(part) == 1 else _macro(part) for part in parts]


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
