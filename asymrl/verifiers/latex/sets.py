r"""Sets of numbers in words -> LaTeX: `all positive integers`, `all real numbers except 2`.

Knows phrases, not sets: `parser` reads what comes out. A phrase with any other word is left alone.
"""

import re

from asymrl.verifiers.latex.normalize import WORD_MACROS

MAX_CHARS = 300
_MENTIONS = re.compile("numbers?|integers?|reals?|solutions?|values")
_MACROS = re.compile(rf"\\(?:{WORD_MACROS})\s*\{{([^{{}}]*)\}}")
_NO_SOLUTION = re.compile(
    r"(?:(?:there (?:is|are|exists?)|(?:the |this )?(?:equation|system|inequality|it) has) )?"
    r"no (?:real )?solutions?(?: exists?)?"
)
_SET = re.compile(
    r"(?:(?P<name>[a-z]) (?:is|are|can be|may be|\\in) |(?:it|this|which) is )?"
    r"(?:the set of )?(?P<all>(?:all|any|every)(?: the| of the| values of)? )?(?:set of )?"
    r"(?P<sign>(?:strictly )?positive |negative |non-?negative |non-?zero |non-?positive )?"
    r"(?:(?P<real>real)|(?P<field>rational|complex|natural|whole)|(?P<integer>integers?))"
    r"(?P<plural>s?(?: numbers?| values?)?)"
    r"(?:,? (?P<relation>except(?: for)?|excluding|other than|besides|not equal to|greater than"
    r" or equal to|less than or equal to|greater than|less than|at least|at most) (?P<rest>.+))?"
)
_SIGNED = {
    "": r"\mathbb{R}", "positive": r"(0,\infty)", "negative": r"(-\infty,0)",
    "nonnegative": r"[0,\infty)", "nonpositive": r"(-\infty,0]",
    "nonzero": r"(-\infty,0)\cup (0,\infty)",
}  # fmt: skip
_INTEGERS = {
    "": r"\mathbb{Z}", "positive": r"\mathbb{Z}_{>0}", "nonnegative": r"\mathbb{Z}_{\ge 0}",
    "negative": r"\mathbb{Z}_{<0}", "nonzero": r"\mathbb{Z}\setminus\{0\}",
}  # fmt: skip
_FIELDS = {"rational": "Q", "complex": "C", "natural": "N"}
_RAYS = {
    "greater than": r"(%s,\infty)", "less than": r"(-\infty,%s)",
    "greater than or equal to": r"[%s,\infty)", "less than or equal to": r"(-\infty,%s]",
    "at least": r"[%s,\infty)", "at most": r"(-\infty,%s]",
}  # fmt: skip
_WORDS = re.compile(r"[a-z]{2,}")


def set_notation(text: str) -> str:
    r"""A text in simplified notation with its set in symbols; other texts as they are."""
    if len(text) > MAX_CHARS or not _MENTIONS.search(text.casefold()):
        return text
    phrase = " ".join(_MACROS.sub(r" \1 ", text).casefold().split()).strip(" .,")
    if _NO_SOLUTION.fullmatch(phrase):
        return r"\emptyset "
    match = _SET.fullmatch(phrase)
    if match is None or not (
        match["all"] or "s" in match["plural"] or match["integer"] == "integers"
    ):
        return text
    sign = (match["sign"] or "").replace("-", "").removeprefix("strictly ").strip()
    whole = match["field"] == "whole"
    if match["integer"] or whole:
        found = _INTEGERS.get(sign or ("nonnegative" if whole else ""))
    elif match["field"]:
        found = None if sign else rf"\mathbb{{{_FIELDS[match['field']]}}}"
    else:
        found = _SIGNED[sign]
    if not found or not match["relation"]:
        return found or text
    return (
        _restricted(found, match["relation"], match["rest"], is_real=not sign and match["real"])
        or text
    )


def _restricted(found: str, relation: str, rest: str, is_real: object) -> str | None:
    """The set without the members that `except 2 and 3` names, or the ray `greater than 2`."""
    rest = re.sub(r"^(?:for )?(?:[a-z] ?= ?)", "", rest)
    if ray := _RAYS.get(relation):
        return ray % rest if is_real and not _WORDS.search(rest.replace("\\", "")) else None
    excluded = re.sub(r",? and |,? or ", ",", rest)
    if _WORDS.search(re.sub(r"\\[a-z]+", "", excluded)):
        return None
    return (
        rf"({found})\setminus\{{{excluded}\}}"
        if "cup" in found
        else rf"{found}\setminus\{{{excluded}\}}"
    )
