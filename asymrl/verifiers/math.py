r"""The `math` verifier: is the response's final answer the same mathematics as the gold?

Knows the order in which two answers are compared, cheapest first: written alike, the same number,
the same choice or words, then as trees (`grammar`, `answers`), and what no tree can be made of by
math-verify (`last_resort`). Golds and verdicts are cached. Runs in the workers of a pool, whose
deadline bounds what is left that may take long.
"""

import re
from functools import lru_cache

from asymrl.types import Reason
from asymrl.verifiers import exact, last_resort
from asymrl.verifiers.answers import same
from asymrl.verifiers.expressions import Node
from asymrl.verifiers.extract import final_answer
from asymrl.verifiers.grammar import read
from asymrl.verifiers.notation import plain, unwrapped, words
from asymrl.verifiers.tokens import Unreadable, has_thousands
from asymrl.verifiers.values import Beyond

FENCED = True  # in a worker it may run no code, and open and reach nothing

_CHOICE = re.compile(r"\(?([A-Z])\)?[.:]?|\(([A-Z])\)[\s.:].*|([A-Z])[.:)]\s.*", re.DOTALL)
_OTHER_CHOICE = re.compile(
    r"\b[B-Z]\b|\bA\b(?!\s+[a-z])|\b(?:or|and|no|not|but|wrong|incorrect|actually)\b"
)
_TEXT = re.compile(r"\s*\\(?:text\w*|mbox)\s*\{[^{}]*[A-Za-z][^{}]*[A-Za-z][^{}]*\}\s*")
_PROSE = re.compile(r"[A-Za-z][A-Za-z\s.,'-]*[A-Za-z][A-Za-z\d\s.,'-]*")


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


@lru_cache(maxsize=50_000)
def compare(gold: str, answer: str, tolerance: float = 0.0) -> Reason:
    """The verdict on a bare answer."""
    if exact.equal(gold, answer):
        return "correct"
    if not tolerance and exact.number(gold) is not None and exact.number(answer) is not None:
        return "wrong"
    if letter := choice(gold):
        return "correct" if letter == choice(answer) else "wrong"
    golds, answers = trees(gold), trees(answer)
    try:
        if any(same(one, other, tolerance) for one in golds for other in answers):
            return "correct"
    except (Beyond, RecursionError):
        return "unparseable"
    # words alone drop signs and case: never where the gold could be a formula
    if (not golds or _TEXT.fullmatch(gold)) and is_prose(gold) and words(gold) == words(answer):
        return "correct"
    if golds:  # a gold that we can read is never left to math-verify, which guesses
        return "wrong" if answers else "unparseable"
    return last_resort.compare(gold, answer)


def choice(latex: str) -> str | None:
    r"""The letter of a choice: `C`, `(C)`, `\text{(C)}`, `\textbf{(C)}\ 17`, `C: a reason`."""
    text = unwrapped(latex) if len(latex) <= 1000 else ""
    match = _CHOICE.fullmatch(text)
    if match is None or _OTHER_CHOICE.search(text, match.end(match.lastindex or 0) + 1):
        return None
    return match[match.lastindex or 0]


def is_prose(latex: str) -> bool:
    r"""Whether an answer is words, bare or all of it in a `\text{}`: compared as such."""
    return len(latex) <= 1000 and bool(_PROSE.fullmatch(unwrapped(latex)) or _TEXT.fullmatch(latex))


@lru_cache(maxsize=50_000)
def trees(latex: str) -> tuple[Node, ...]:
    """The readings of an answer, none where the grammar has none: 1,234 is a number or a list."""
    readings: dict[Node, None] = {}
    for thousands in (True, False) if has_thousands(plain(latex[:2000])) else (True,):
        try:
            readings[read(latex, thousands)] = None
        except (Unreadable, RecursionError):
            continue
    return tuple(readings)


def parses(gold: str) -> bool:
    """Whether the gold can be read as mathematics, a choice or words."""
    return (
        exact.number(gold) is not None
        or bool(trees(gold))
        or choice(gold) is not None
        or is_prose(gold)
        or last_resort.parses(gold)
    )
