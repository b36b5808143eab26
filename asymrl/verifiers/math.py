r"""The `math` verifier: is the response's final answer the same mathematics as the gold?

Knows the order in which two answers are compared, cheapest first: written alike, the same number,
the same choice or words, then as trees (`grammar`, `answers`). What no tree can be made of is
`unparseable`, never guessed at. Verdicts and trees are cached, of short texts only: a cache of long
ones would take all of a worker's memory. Runs in the workers of a pool, whose deadline bounds what
is left that may take long.
"""

import contextlib
import re
from functools import lru_cache

from asymrl.types import Reason
from asymrl.verifiers import exact
from asymrl.verifiers.equality.answers import same
from asymrl.verifiers.equality.symbolic import finished, unfinished
from asymrl.verifiers.equality.values import Beyond
from asymrl.verifiers.extract import final_answer
from asymrl.verifiers.latex.lexer import Unreadable, has_thousands
from asymrl.verifiers.latex.normalize import plain, unwrapped, words
from asymrl.verifiers.latex.parser import read
from asymrl.verifiers.latex.tree import Node

FENCED = True  # in a worker it may run no code, and open and reach nothing

# A tree takes up to 100 bytes a character of its text: 400 MB if all were the worst.
KEPT_CHARS = 200  # of gold and answer together
KEPT = 20_000
PROSE_CHARS = 1000
_CHOICE = re.compile(r"\(?([A-Z])\)?[.:]?|\(([A-Z])\)[\s.:].*|([A-Z])[.:)]\s.*", re.DOTALL)
_CHOICES = re.compile(r"(?:\([A-Z]\)|[A-Z])(?:(?:,\s*(?:and\s+)?|\s+and\s+)(?:\([A-Z]\)|[A-Z]))+")
_OTHER_CHOICE = re.compile(
    r"\b[B-Z]\b|\bA\b(?!\s+[a-z])|\b(?:or|and|no|not|but|wrong|incorrect|actually)\b"
)
# Two letters, at least, before any digit; each written so that no character is read twice.
_TEXT = re.compile(
    r"\s*\\(?:text[a-z]*|mbox)\s*\{[^{}A-Za-z]*[A-Za-z][^{}A-Za-z]*[A-Za-z][^{}]*\}\s*"
)
_PROSE = re.compile(r"[A-Za-z][\s.,'-]*[A-Za-z][A-Za-z\d\s.,'-]*")
_FORMULA = re.compile(r"[*^_=+/<>|]")


def verify(
    gold: str, text: str, unboxed: bool = False, thinking: bool = False, tolerance: float = 0.0
) -> tuple[Reason, str | None]:
    """The verdict on a response and the answer that it was given for.

    unboxed, thinking: see extract.final_answer. tolerance: relative, where the gold is a decimal.
    `unparseable`: the gold or the answer could not be read, and they are not written alike.
    """
    answer = final_answer(text, unboxed, thinking)
    if answer is None or not exact.normalise(answer):
        return "no_answer", answer
    return compare(gold, answer, tolerance if "." in gold else 0.0), answer


def compare(gold: str, answer: str, tolerance: float = 0.0) -> Reason:
    """The verdict on a bare answer."""
    short = len(gold) + len(answer) <= KEPT_CHARS
    return (_kept_verdict if short else _verdict)(gold, answer, tolerance)


def _verdict(gold: str, answer: str, tolerance: float) -> Reason:
    if exact.equal(gold, answer):
        return "correct"
    if not tolerance and exact.number(gold) is not None and exact.number(answer) is not None:
        return "wrong"
    if letter := choice(gold):
        return "correct" if letter == choice(answer) else "wrong"
    golds, answers = trees(gold), trees(answer)
    try:
        if any(map(unfinished, answers)) and not any(map(unfinished, golds)):
            return "unparseable"  # an answer is worked out
        golds, answers = worked_out(golds), worked_out(answers)
        if any(same(one, other, tolerance) for one in golds for other in answers):
            return "correct"
    except (Beyond, RecursionError):
        return "unparseable"
    # words alone drop signs and case: never where the gold could be a formula
    prose = (not golds or bool(_TEXT.fullmatch(gold))) and is_prose(gold)
    if prose and same_words(gold, answer):
        return "correct"
    readable = (golds and answers) or (prose and is_prose(answer))
    return "wrong" if readable else "unparseable"


def choice(latex: str) -> str | None:
    r"""The letter of a choice: `C`, `(C)`, `\text{(C)}`, `\textbf{(C)}\ 17`, `C: a reason`."""
    text = unwrapped(latex) if len(latex) <= PROSE_CHARS else ""
    match = _CHOICE.fullmatch(text)
    if match is None or _OTHER_CHOICE.search(text, match.end(match.lastindex or 0) + 1):
        return None
    return match[match.lastindex or 0]


def is_prose(latex: str) -> bool:
    r"""Whether an answer is words, bare or all of it in a `\text{}`: compared as such."""
    return len(latex) <= PROSE_CHARS and bool(
        _PROSE.fullmatch(unwrapped(latex)) or _TEXT.fullmatch(latex)
    )


def same_words(gold: str, answer: str) -> bool:
    """Whether an answer is the words of the gold, or its letters (`A, C and E`) in any order."""
    if len(answer) > PROSE_CHARS:
        return False
    one, other = unwrapped(gold), unwrapped(answer)
    if _CHOICES.fullmatch(one) and _CHOICES.fullmatch(other):
        return sorted(re.findall("[A-Z]", one)) == sorted(re.findall("[A-Z]", other))
    return not _FORMULA.search(other) and words(gold) == words(answer)


def trees(latex: str) -> tuple[Node, ...]:
    """The readings of an answer, none where the grammar has none: 1,234 is a number or a list."""
    return (_kept_trees if len(latex) <= KEPT_CHARS else _trees)(latex)


def _trees(latex: str) -> tuple[Node, ...]:
    readings: dict[Node, None] = {}
    for thousands in (True, False) if has_thousands(plain(latex[:2000])) else (True,):
        try:
            readings[read(latex, thousands)] = None
        except (Unreadable, RecursionError):
            continue
    return tuple(readings)


_kept_verdict = lru_cache(maxsize=KEPT)(_verdict)
_kept_trees = lru_cache(maxsize=KEPT)(_trees)


def forget() -> None:
    """Empties the caches, for measurements."""
    _kept_verdict.cache_clear()
    _kept_trees.cache_clear()


def worked_out(readings: tuple[Node, ...]) -> tuple[Node, ...]:
    """Those readings of which every sum, integral and limit has a value, with that in its place."""
    found: list[Node] = []
    for node in readings:
        with contextlib.suppress(Beyond):
            found.append(finished(node))
    return tuple(found)


def parses(gold: str) -> bool:
    """Whether the gold can be read as mathematics, a choice or words."""
    return (
        exact.number(gold) is not None
        or bool(worked_out(trees(gold)))
        or choice(gold) is not None
        or is_prose(gold)
    )
