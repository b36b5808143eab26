"""math-verify, for answers that our own grammar does not read.

Knows that math-verify may run for ever: its own timeouts, which need signals and the main thread,
are off, and the deadline of the pool that this runs in is what bounds it. Only its LaTeX reader is
used; the one that hands text to Python's parser is left out. In a fenced worker it can build no
number that it has not built before, so there it mostly says `unparseable`.
"""

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig
from math_verify import parse as read
from math_verify import verify as same_to_math_verify

from asymrl.types import Reason
from asymrl.verifiers import exact

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off

MAX_CHARS = 500
_CONFIG = (LatexExtractionConfig(boxed_match_priority=0),)
# What is not worked out is no final answer, and may take for ever to work out.
_UNFINISHED = re.compile(
    r"\\(?:i+nt|oint|sum|prod|lim)(?![a-zA-Z])|\^\s*\{[^{}]*\^|\d{7}|!|__|[;`@#]|\\input"
)


@lru_cache(maxsize=20_000)
def _parse(latex: str) -> tuple[Any, ...]:
    """The answer as sympy objects; empty where it cannot be read as mathematics."""
    if len(latex) > MAX_CHARS:
        return ()
    boxed = f"\\boxed{{{exact.tidy(latex)}}}"  # bare LaTeX is read badly
    # 0 is no timeout.
    return tuple(read(boxed, _CONFIG, fallback_mode="no_fallback", parsing_timeout=0))


def parses(gold: str) -> bool:
    return bool(_parse(gold))


def compare(gold: str, answer: str) -> Reason:
    """The verdict on an answer of which at least one side is not in our grammar."""
    if _UNFINISHED.search(answer) and not _UNFINISHED.search(gold):
        return "unparseable"
    if not (expected := _parse(gold)) or not (found := _parse(answer)):
        return "unparseable"
    # An interval equals the inequality that describes it; 0 is no timeout.
    right = same_to_math_verify(
        list(expected), list(found), allow_set_relation_comp=True, timeout_seconds=0
    )
    return "correct" if right else "wrong"
