r"""Golds as data sets have them -> the bare answer: whole solutions, sentences, lists of one.

Knows how answers are wrapped, not mathematics. A bare answer stays as it is. The functions take
time linear in the length of the gold, and run no code.
"""

import re
from functools import lru_cache

from asymrl.verifiers.extract import answer_tag, boxes, closing_answer, last_boxes

_WRAPPED = re.compile(r"\\f?box|####|<answer>|^\s*\[|answer|\\\\", re.IGNORECASE)
_TEXT = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_LISTED = re.compile(rf"\[\s*{_TEXT}(?:\s*,\s*{_TEXT})*\s*\]", re.DOTALL)
_MEMBER = re.compile(_TEXT, re.DOTALL)
_RUN = re.compile(r"\\+")


@lru_cache(maxsize=20_000)
def read_gold(gold: str) -> str | None:
    r"""The answer in a gold; None if it has several boxes that are not one list.

    The last box of a solution, the text after its last `####` or in its last `<answer>` tag, the
    members of a list of texts (`["72"]`), the formula of a sentence ("the answer is $72$"); else
    the gold. Doubled backslashes (`\\frac`) are undone.
    """
    if not _WRAPPED.search(gold):
        return gold
    if "box" in gold and boxes(gold):
        return None if has_several_boxes(gold) else single_backslashes(", ".join(last_boxes(gold)))
    if "####" in gold:
        gold = gold.rpartition("####")[2].strip()
    elif "<answer>" in gold:
        gold = answer_tag(gold) or gold
    elif _LISTED.fullmatch(gold.strip()):
        gold = ", ".join(map(_unquoted, _MEMBER.finditer(gold)))
    elif len(gold.split()) > 2:
        gold = closing_answer(gold) or gold
    return single_backslashes(gold)


def has_several_boxes(gold: str) -> bool:
    """Whether a solution boxes different answers in different places, so that none is the gold."""
    contents, last = (
        {re.sub(r"\s", "", content) for content in part} - {""}
        for part in ([content for _, _, content in boxes(gold)], last_boxes(gold))
    )
    return not contents <= last


def _unquoted(member: re.Match[str]) -> str:
    quote = member[0][0]
    return member[0][1:-1].replace(f"\\{quote}", quote)


def single_backslashes(latex: str) -> str:
    r"""LaTeX with its doubled backslashes undone: \frac for \\frac.

    Only if every backslash is doubled, and one of them begins a macro or stands before a brace: in
    a matrix, `\\` ends a row, and a single backslash is near it.
    """
    if "\\\\" not in latex or not re.search(r"\\\\(?:[a-zA-Z]{2}|[{}$%])", latex):
        return latex
    if any(len(run) % 2 for run in _RUN.findall(latex)):
        return latex
    return _RUN.sub(lambda run: "\\" * (len(run[0]) // 2), latex)
