"""The `line` verifier: whether the first line of a response is the gold, character by character.

For raw continuation, where the answer is the rest of the prompt's last line ("3 + 4 =" -> " 7").
Spaces at both ends do not count. Knows no mathematics.
"""

from asymrl.types import Reason


def is_valid_gold(gold: str) -> bool:
    """Whether a first line can equal this gold: one line that is not empty."""
    return len(gold.strip().splitlines()) == 1


def verify(
    gold: str, text: str, unboxed: bool = False, thinking: bool = False, tolerance: float = 0.0
) -> tuple[Reason, str | None]:
    """The verdict on a response, and its first line. An empty first line is `no_answer`.

    unboxed, thinking and tolerance are ignored.
    """
    answer = (text.splitlines() or [""])[0].strip()
    if not answer:
        return "no_answer", None
    return ("correct" if answer == gold.strip() else "wrong"), answer
