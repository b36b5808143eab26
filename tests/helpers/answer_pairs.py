r"""Pairs made by rule from real golds: the same answer in other notation, and near misses.

Knows notation, not verifiers. `rewrites(gold)` are the same answer. `changes(gold)` differ in one
digit, in the sign, or in the order where order matters; a rule skips golds where its effect is
unclear (words, percentages next to digits, powers of 1). `mutated(gold, ...)` is mostly invalid.
"""

import json
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

SETS = (
    "math_train math_test math500 olympiadbench minerva aime24 aime25 amc23 gsm8k_test gsm8k_train"
)
_INTEGER = re.compile(r"-?\d+")
_PLAIN_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_SCALAR = re.compile(r"-?(?:\d+(?:\.\d+)?|\\[dt]?frac\{\d+\}\{\d+\}|\d*\\sqrt\{\d+\}|\d*\\pi)")
_MEMBERS = re.compile(r"(\\\{)?([^()\[\]{}\\=<>|]*(?:,[^()\[\]{}\\=<>|]*)+)(\\\})?")
_POINT = re.compile(r"\(([^()\[\]\\]*(?:,[^()\[\]\\]*)+)\)")
# Golds whose value may survive a changed digit: 1^2, 0 times, \log of 1, x_1, 0.10, words.
_SAFE_DIGITS = re.compile(
    r"(?!.*(?:\\text|\\mbox|_|\^|\\log|\\ln|!|binom|\\pm|\\%|%|:|mod))[^a-zA-Z]*"
)


def golds(folder: Path, names: str = SETS) -> Iterator[tuple[str, str]]:
    """(data set, gold) for each distinct gold."""
    seen = set()
    for name in names.split():
        with (folder / f"{name}.jsonl").open(encoding="utf-8") as rows:
            for row in rows:
                gold = str(json.loads(row)["answer"])
                if gold not in seen:
                    seen.add(gold)
                    yield name, gold


def rewrites(gold: str) -> list[str]:
    """The gold in other notation."""
    answers = [f" {gold} ", f"{gold}.", f"${gold}$", f"\\displaystyle {gold}"]
    if not re.search(r"\\text|\\mbox|\\!|\{,\}", gold):
        answers += [re.sub(r"(?<=[\w})])\s*([+-])\s*(?=[\w\\({])", r" \1 ", gold)]
        answers += [re.sub(r",(?!\d{3})", r",\\ ", gold)]
    if "\\frac" in gold:
        answers += [gold.replace("\\frac", "\\dfrac"), gold.replace("\\frac", "\\tfrac")]
    if "\\left" not in gold:
        answers += [gold.replace("(", "\\left(").replace(")", "\\right)")] if _round(gold) else []
    if _SCALAR.fullmatch(gold):
        answers += [
            f"x = {gold}",
            f"{gold}\\text{{ units}}",
            f"{gold} \\text{{ cm}}^2",
            f"n={gold}",
        ]
        answers += [f"\\mathbf{{{gold}}}", f"\\left({gold}\\right)", f"+{gold}".replace("+-", "-")]
    if _INTEGER.fullmatch(gold):
        answers += [f"{gold}.0", f"{int(gold):,}", f"{int(gold):,}".replace(",", ",\\!")]
    if match := _PLAIN_FRACTION.fullmatch(gold):
        over, under = int(match[2]), int(match[3])
        answers += [f"{match[1]}{over}/{under}", f"{match[1]}\\frac{{{2 * over}}}{{{2 * under}}}"]
        if under and 10**6 % under == 0:
            value = Fraction(over, under)
            answers += [f"{match[1]}{float(value):.6f}"]
    match = _MEMBERS.fullmatch(gold)
    if match and bool(match[1]) == bool(match[3]) and not re.search(r"\d,\d{3}(?!\d)", gold):
        members = match[2].split(",")
        answers += [",".join([*members[1:], members[0]]), "\\{" + ", ".join(members[::-1]) + "\\}"]
    return [answer for answer in dict.fromkeys(answers) if answer != gold]


def _round(gold: str) -> bool:
    return "(" in gold and gold.count("(") == gold.count(")") and "[" not in gold


def changes(gold: str) -> list[str]:
    """Answers that differ from the gold."""
    answers = []
    mixed = re.search(r"\d\s*\\[dt]?frac", gold)  # 1\frac54 is a product, and so may be 1\frac14
    if not mixed and _SAFE_DIGITS.fullmatch(
        re.sub(r"\\[dt]?frac|\\left|\\right|\\sqrt|\\pi|\\!", "", gold)
    ):
        for match in list(re.finditer(r"\d", gold))[:6]:
            answers += [_with_digit(gold, match.start(), (int(match[0]) + 1) % 10 or 1)]
            answers += [_with_digit(gold, match.start(), (int(match[0]) + 4) % 10 or 2)]
    if _SCALAR.fullmatch(gold) and re.search(r"[1-9]|\\pi", gold):
        answers += [
            gold[1:] if gold.startswith("-") else f"-{gold}",
            f"{gold}\\pm 1",
            f"{gold}, 1017",
        ]
    if match := _POINT.fullmatch(gold):
        parts = [part.strip() for part in match[1].split(",")]
        if len(set(parts)) == len(parts) and not any(map(re.compile("[{}]").search, parts)):
            answers += ["(" + ",".join([*parts[1:], parts[0]]) + ")"]
            answers += ["(" + ",".join(parts[:-1]) + ")", "(" + ",".join([*parts, parts[0]]) + ")"]
    return [answer for answer in dict.fromkeys(answers) if answer != gold]


def _with_digit(gold: str, at: int, digit: int) -> str:
    return f"{gold[:at]}{digit}{gold[at + 1 :]}"


PIECES = r"""
^ ^{9} ^{99999} ! ( ) [ ] { } \frac \sqrt \{ \} , = < \cup \pm % _ | \text{or} x e i \infty \binom
\begin{pmatrix} \\ & \sin \log \int \sum \lim ' \pi 10^{10} e999 ∞ ² \in \mathbb{R} - ^\circ \lfloor
__import__('os') lambda:0 {0.__class__} \rfloor !! 99999999999999999999
"""


def mutated(text: str, others: list[str], source: random.Random) -> str:
    """The text after one to six random cuts, repetitions, splices and insertions."""
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(text) + 1)
        end = min(len(text), at + source.randint(1, 8))
        match source.randrange(4):
            case 0 | 1:
                text = text[:at] + source.choice(PIECES.split()) + text[at:]
            case 2:
                text = text[:at] + text[end:]
            case _:
                other = source.choice(others)
                text = text[:end] + text[at:end] * source.randint(0, 6) + other[:15] + text[end:]
    return text
