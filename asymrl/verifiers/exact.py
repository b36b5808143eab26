r"""The `exact` verifier: whether the answer is the gold as text, or the same plain number.

Knows notation (spaces, `\left`, `\dfrac`, `\text{}`, thousands commas) and exact arithmetic on
plain numbers. Does not know algebra, units or floats. `math` tries it first.
"""

import re
from fractions import Fraction
from functools import lru_cache

from asymrl.types import Reason
from asymrl.verifiers.extract import final_answer
from asymrl.verifiers.golds import read_gold, single_backslashes

MAX_NUMBER_CHARS = 200  # longer numbers are compared as text only, which is cheap

# An argument of \frac: a group, or one symbol.
_ARGUMENT = r"(?:\{([^{}]*)\}|(\d|[a-zA-Z]|\\pi(?![a-zA-Z])))"
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![a-zA-Z])|°")
_TRIGONOMETRIC = re.compile("sin|cos|tan|cot|sec|csc")
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[−–]", "-"),  # noqa: RUF001
        (r"\\(?:left|right)(?![a-zA-Z])", ""),
        (r",\\!\s*|\{,\}\s*", ""),  # a thousands comma, never a list separator
        (r"(?<=\d)\\[,!](?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\[!,;:]|\\(?:quad|qquad)(?![a-zA-Z])", " "),
        (_DEGREES.pattern, ""),
        (r"(?<!\\)\\ |~", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}", r"\\frac{\1\2}{\3\4}"),
        (r"\\mbox(?![a-zA-Z])", r"\\text"),
        (r"\\?\$", ""),
    )
)
_WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # a space between digits is significant
_LISTED = re.compile(r",\s")  # 1, 000 is a list, not a number
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"([+-]?)(?:({_DECIMAL})|([+-]?\d+)/(\d+)|\\frac\{{([+-]?\d+)\}}\{{([+-]?\d+)\}})", re.ASCII
)


def tidy(latex: str) -> str:
    """The same mathematics in simpler notation."""
    return (_cached if len(latex) <= MAX_NUMBER_CHARS else _tidied)(latex)


def _tidied(latex: str) -> str:
    for pattern, replacement in _REWRITES:
        latex = pattern.sub(replacement, latex)
    latex = latex.strip()
    return latex if latex.endswith("..") else latex.rstrip(".").rstrip()  # 0.33... is not 0.33


_cached = lru_cache(maxsize=64)(_tidied)  # a verdict asks for each answer several times


def normalise(latex: str) -> str:
    r"""tidy() without spaces and `\text{}`, so that answers that only look different are equal."""
    return _unspaced(tidy(latex))


def _unspaced(tidied: str) -> str:
    return _SPACES.sub("", _WORDS.sub(r"\1", tidied))


def number(latex: str) -> Fraction | None:
    r"""The value of an integer, a decimal, `a/b` or `\frac{a}{b}`, exactly; else None."""
    text = tidy(latex)
    if _LISTED.search(text):
        return None
    text = _unspaced(text)
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER_CHARS else None
    if match is None:
        return None
    sign, *parts = match.groups()
    over, under, *_ = [*filter(None, parts), "1"]  # a decimal has no denominator
    if int(under) == 0:
        return None
    value = Fraction(over.replace(",", "")) / int(under)
    return -value if sign == "-" else value


def equal(gold: str, answer: str) -> bool:
    """Whether two answers are the same text, after normalise(), or the same number."""
    if normalise(gold) == normalise(answer) != "" and _same_degrees(gold, answer):
        return True
    value = number(gold)
    return value is not None and value == number(answer)


def _same_degrees(gold: str, answer: str) -> bool:
    """Whether degree signs agree where they matter: in a sine or the like they change the value."""
    marks = [len(_DEGREES.findall(latex)) for latex in (gold, answer)]
    return marks[0] == marks[1] or not _TRIGONOMETRIC.search(gold)


def is_valid_gold(gold: str) -> bool:
    """Whether any answer can equal this gold: not an empty one, nor one with several boxes."""
    bare = read_gold(gold)
    return bare is not None and normalise(bare) != ""


def verify(
    gold: str, text: str, unboxed: bool = False, thinking: bool = False, tolerance: float = 0.0
) -> tuple[Reason, str | None]:
    """The verdict on a response, and the answer found in it.

    unboxed, thinking: see extract.final_answer. tolerance is ignored. An empty box is `no_answer`;
    this verifier never returns `unparseable`.
    """
    answer = final_answer(text, unboxed, thinking)
    if answer is None or not normalise(answer):
        return "no_answer", answer
    bare = read_gold(gold)
    if bare is None:
        return "wrong", answer
    return ("correct" if equal(bare, single_backslashes(answer)) else "wrong"), answer
