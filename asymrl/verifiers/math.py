r"""The `math` verifier: whether the final answer of a response is mathematically the gold.

Compares two answers in order of cost: as text, as plain numbers, as a choice or words, then as
trees (`latex.parser`, `equality.answers`). Verdicts and trees of short texts are cached; trees of
long texts would fill a worker's memory. The deadline of the pool bounds what can take long.
"""

import contextlib
from functools import lru_cache
from itertools import product
from typing import Any

from asymrl.types import Reason
from asymrl.verifiers import exact, sandbox
from asymrl.verifiers.equality.answers import same_answer
from asymrl.verifiers.equality.clock import same_time
from asymrl.verifiers.equality.symbolic import evaluate_operators
from asymrl.verifiers.equality.values import NoValue
from asymrl.verifiers.equality.wording import (
    choice,
    is_prose,
    is_text,
    same_choices,
    same_words,
    value_of_choice,
)
from asymrl.verifiers.extract import final_answer
from asymrl.verifiers.golds import read_gold, single_backslashes
from asymrl.verifiers.latex.lexer import (
    Unreadable,
    has_ambiguous_thousands,
    has_ambiguous_units,
)
from asymrl.verifiers.latex.normalize import simplify_notation
from asymrl.verifiers.latex.parser import parse
from asymrl.verifiers.latex.tree import OPERATORS, Node, has

# A tree takes up to 100 bytes per character: 400 MB for two caches full of the worst trees.
CACHED_CHARS = 200  # of gold and answer together
CACHE_SIZE = 20_000
MAX_GOLD_WORDS = 12  # no response repeats a longer sentence


def prepare_worker(**_settings: Any) -> None:
    """Lets sympy compile its tables, then blocks code, files, processes and the network."""
    compare(r"\sum_{k=0}^{\infty} 2^{-k}, \int_0^{\infty} e^{-x^2} dx", r"2, \sqrt{\pi}/2")
    sandbox.install_sandbox(sandbox.CODE_EVENTS | sandbox.SYSTEM_EVENTS)


def verify(
    gold: str, text: str, unboxed: bool = False, thinking: bool = False, tolerance: float = 0.0
) -> tuple[Reason, str | None]:
    """The verdict on a response, and the answer found in it.

    unboxed, thinking: see extract.final_answer. tolerance: relative, if the gold is a decimal.
    `unparseable`: the gold or the answer cannot be parsed, and they differ as text.
    """
    answer = final_answer(text, unboxed, thinking)
    if answer is None or not exact.normalise(answer):
        return "no_answer", answer
    bare = read_gold(gold)
    if bare is None:
        return "unparseable", answer
    tolerance = tolerance if "." in bare else 0.0
    return compare(bare, single_backslashes(answer), tolerance), answer


def compare(gold: str, answer: str, tolerance: float = 0.0) -> Reason:
    """The verdict on a bare answer, for a bare gold."""
    short = len(gold) + len(answer) <= CACHED_CHARS
    return (_cached_verdict if short else _verdict)(gold, answer, tolerance)


def _verdict(gold: str, answer: str, tolerance: float) -> Reason:
    if exact.equal(gold, answer):
        return "correct"
    if not tolerance and exact.number(gold) is not None and exact.number(answer) is not None:
        return "wrong"
    if letter := choice(gold):
        if letter == choice(answer):
            return "correct"
        value = value_of_choice(gold)
        return _verdict(value, answer, tolerance) if value and not choice(answer) else "wrong"
    if (same_letters := same_choices(gold, answer)) is not None:
        return "correct" if same_letters else "wrong"
    if (same_hour := same_time(gold, answer)) is not None:
        return "correct" if same_hour else "wrong"
    golds, answers = trees(gold), trees(answer)
    try:
        if _unevaluated(answers) and not _unevaluated(golds):
            return "unparseable"
        golds, answers = with_operator_values(golds), with_operator_values(answers)
        if any(same_answer(one, other, tolerance) for one in golds for other in answers):
            return "correct"
    except (NoValue, RecursionError):
        return "unparseable"
    # comparing words ignores signs and case, so not where the gold can be a formula
    prose = (not golds or is_text(gold)) and is_prose(gold)
    if prose and same_words(gold, answer):
        return "correct"
    readable = (golds and answers) or (prose and is_prose(answer))
    return "wrong" if readable else "unparseable"


def trees(latex: str) -> tuple[Node, ...]:
    """All parses of an answer: 1,234 is a number or a list, km a unit or a product.

    Empty if it cannot be parsed.
    """
    return (_cached_trees if len(latex) <= CACHED_CHARS else _trees)(latex)


def _trees(latex: str) -> tuple[Node, ...]:
    text = simplify_notation(latex[:2000])
    readings = product(
        (True, False) if has_ambiguous_thousands(text) else (True,),
        (False, True) if has_ambiguous_units(text) else (False,),
    )
    parsed: dict[Node, None] = {}
    for thousands, products in readings:
        with contextlib.suppress(Unreadable, RecursionError):
            parsed[parse(latex, thousands, products)] = None
    return tuple(parsed)


_cached_verdict = lru_cache(maxsize=CACHE_SIZE)(_verdict)
_cached_trees = lru_cache(maxsize=CACHE_SIZE)(_trees)


def clear_caches() -> None:
    _cached_verdict.cache_clear()
    _cached_trees.cache_clear()


def _unevaluated(nodes: tuple[Node, ...]) -> bool:
    return any(has(node, *OPERATORS) for node in nodes)


def with_operator_values(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The trees with sums, integrals and limits evaluated, except those that have no value."""
    evaluated: list[Node] = []
    for node in nodes:
        with contextlib.suppress(NoValue):
            evaluated.append(evaluate_operators(node))
    return tuple(evaluated)


def is_valid_gold(gold: str) -> bool:
    """Whether the gold can be read as mathematics, a choice or words. No sentence can."""
    bare = read_gold(gold)
    if bare is None:
        return False
    gold = bare
    return (
        exact.number(gold) is not None
        or bool(with_operator_values(trees(gold)))
        or choice(gold) is not None
        or (is_prose(gold) and len(gold.split()) <= MAX_GOLD_WORDS)
    )
