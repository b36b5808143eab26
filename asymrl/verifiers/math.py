r"""The `math` verifier: exact match first, then math-verify on what is left.

Knows that math-verify may run for ever: its own timeouts, which need signals and the main thread,
are off, and the deadline of the pool that this runs in is what bounds it. Only LaTeX is read; the
reader of math-verify that hands text to Python's parser is left out.
"""

import logging
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig
from math_verify import parse as read
from math_verify import verify as same

from asymrl.types import Reason
from asymrl.verifiers import exact

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off

MAX_CHARS = 1_000  # no final answer is longer, and longer ones only cost a deadline
_LATEX = (LatexExtractionConfig(boxed_match_priority=0),)


def _parse(latex: str) -> list[Any]:
    """The answer as sympy objects; empty where it cannot be read as mathematics."""
    if len(latex) > MAX_CHARS:
        return []
    boxed = f"\\boxed{{{exact.tidy(latex)}}}"  # bare LaTeX is read badly
    # 0 is no timeout.
    return read(boxed, _LATEX, fallback_mode="no_fallback", parsing_timeout=0)


_parse_gold = lru_cache(maxsize=20_000)(_parse)


@lru_cache(maxsize=20_000)
def _compare(gold: str, answer: str) -> Reason:
    if not (expected := _parse_gold(gold)) or not (found := _parse(answer)):
        return "unparseable"
    # An interval equals the inequality that describes it; 0 is no timeout.
    right = same(expected, found, allow_set_relation_comp=True, timeout_seconds=0)
    return "correct" if right else "wrong"


def parses(gold: str) -> bool:
    """Whether math-verify can read the gold. One that does not is judged by exact match alone."""
    return exact.number(gold) is not None or bool(_parse_gold(gold))


def verify(gold: str, text: str) -> tuple[Reason, str | None]:
    """The verdict on a response and the answer that it was given for.

    `unparseable`: the gold or the answer could not be read, and they are not written alike. Plain
    numbers are decided exactly, without math-verify and its rounding.
    """
    reason, answer = exact.verify(gold, text)
    if reason != "wrong" or answer is None:
        return reason, answer
    if exact.number(gold) is not None and exact.number(answer) is not None:
        return "wrong", answer
    return _compare(gold, answer), answer
