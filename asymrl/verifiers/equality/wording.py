r"""Answers in words: choices, and text golds such as `\text{hyperbola}`, `June 20` or `Yes`.

Knows letters of choices, dates, and which words around a text answer add nothing: articles, the
subject of a sentence, the noun after an adjective. Does not know mathematics. Two texts are the
same only if nothing else is left over, so a word that is not listed here makes another answer.
"""

import re
from itertools import pairwise

from asymrl.verifiers.latex.normalize import WORD_MACROS, normalise_words, without_text_macros
from asymrl.verifiers.latex.words import changes_value, denies

MAX_PROSE_CHARS = 1000
_OPTION = r"(?:(?:the\s+)?(?:[Oo]ption|[Cc]hoice|OPTION)\s+)?"
_CHOICE = re.compile(
    rf"{_OPTION}(?:\(?([A-Z])\)?[.:]?|\(([A-Z])\)[\s.:].*|([A-Z])[.:)]\s.*)", re.DOTALL
)
# A letter in a macro of its own, before the text of its option: \textbf{C}\quad\text{the third}.
_MARKED_CHOICE = re.compile(
    rf"\s*\\(?:{WORD_MACROS}|mathbf|mathrm)\s*\{{\s*\(?([A-Z])\)?[.:]?\s*\}}"
    r"(?:\\q?quad|\\[ ,;:]|[~\s:.])(.*)",
    re.DOTALL,
)
_SEVERAL = re.compile(r"(?:\([A-Z]\)|[A-Z])(?:(?:,\s*(?:and\s+)?|\s+and\s+)(?:\([A-Z]\)|[A-Z]))+")
_RUN_OF_LETTERS = re.compile("[A-H]{2,8}")
_CIRCLED = re.compile("(?:[①-⑳]|[\\s,、;]|and)+")
_OTHER_CHOICE = re.compile(
    r"\b[B-Z]\b|\bA\b(?!\s+[a-z])|\b(?:or|and|no|not|but|wrong|incorrect|actually)\b"
)
# At least two letters before any digit, written so that matching takes linear time.
_TEXT = re.compile(
    r"\s*\\(?:text[a-z]*|mbox)\s*\{[^{}A-Za-z]*[A-Za-z][^{}A-Za-z]*[A-Za-z][^{}]*\}\s*"
)
_PROSE = re.compile(r"(?:\d{1,9}\s+)?[A-Za-z][\s.,'-]*[A-Za-z][A-Za-z\d\s.,'-]*")
_FORMULA = re.compile(r"[*^_=+/<>|]")
_WORD = re.compile(r"[a-z\d]+(?:['-][a-z\d]+)*")

_MONTHS = "january february march april may june july august september october november december"
_DATE = re.compile(
    r"(?:on |the )*(?:(?P<month>[a-z]{3,9}) (?:the )?(?P<day>\d\d?)(?:st|nd|rd|th)?"
    r"|(?P<day2>\d\d?)(?:st|nd|rd|th)? (?:day )?(?:of )?(?P<month2>[a-z]{3,9}))"
    r"(?: (?P<year>\d{4}))?"
)
_POLAR = {"yes": True, "true": True, "no": False, "false": False}
_ARTICLES = frozenset({"the", "a", "an"})
# Before the words that count: a subject and its verb.
_SUBJECT_WORDS = """
    it this that they there answer result limit series sequence integral function curve graph
    conic locus system equation shape figure triangle quadrilateral statement"""
_NOUN_WORDS = "function number integer series sequence integral limit player day"
_CLASS_WORDS = "odd even prime composite positive negative nonnegative nonzero square triangular"
_SUBJECTS, _NOUNS, _CLASSES = (
    frozenset(words.split()) for words in (_SUBJECT_WORDS, _NOUN_WORDS, _CLASS_WORDS)
)
_VERBS = frozenset({"is", "are", "has", "have", "was", "were"})
# After them: what somebody who is named does.
_PREDICATES = re.compile(
    r" (?:always |can |will )*(?:win|wins)(?: the game)?$"
    r"| (?:always )?has (?:a |the )?winning strategy$"
)
_QUANTIFIERS = frozenset({"all", "every", "any", "for", "when", "if", "must", "be", *_VERBS})


def choice(latex: str) -> str | None:
    r"""The letter of a choice, C in `C`, `(C)`, `\textbf{(C)}\ 17`, `Option C`, `C: a reason`."""
    letter, rest = _choice_parts(latex)
    return None if letter is None or _OTHER_CHOICE.search(rest) else letter


def value_of_choice(latex: str) -> str:
    r"""The 17 of `\textbf{(C)}\ 17`; empty if there is nothing beside the letter."""
    return _choice_parts(latex)[1].strip(" .:)")


def _choice_parts(latex: str) -> tuple[str | None, str]:
    if len(latex) > MAX_PROSE_CHARS:
        return None, ""
    text = without_text_macros(latex)
    if match := _CHOICE.fullmatch(text):
        group = match.lastindex or 0
        return match[group], text[match.end(group) + 1 :]
    marked = _MARKED_CHOICE.fullmatch(latex)
    return (marked[1], without_text_macros(marked[2])) if marked else (None, "")


def choices(latex: str, as_run: bool = False) -> list[str] | None:
    """The sorted letters of several choices: `A, C and E`, `ACE` (only as_run), `①③`."""
    if len(latex) > MAX_PROSE_CHARS:
        return None
    circled = _without_macros(latex)
    if _CIRCLED.fullmatch(circled) and (numbers := re.findall("[①-⑳]", circled)):
        return sorted(numbers)
    text = without_text_macros(latex)
    if not _SEVERAL.fullmatch(text):
        sorted_run = _RUN_OF_LETTERS.fullmatch(text) and all(a < b for a, b in pairwise(text))
        return list(text) if as_run and sorted_run else None
    return sorted(re.findall("[A-Z]", text))


def same_choices(gold: str, answer: str) -> bool | None:
    """Whether both name the same choices, in any order; None if they are not both choices."""
    listed = choices(gold), choices(answer)
    if listed[0] is None and listed[1] is None:
        return None
    one, other = choices(gold, as_run=True), choices(answer, as_run=True)
    return one == other if one and other else None


def _without_macros(latex: str) -> str:
    return re.sub(rf"\\(?:{WORD_MACROS})\s*|[{{}}$]", "", latex).strip(" .")


def is_prose(latex: str) -> bool:
    r"""Whether an answer consists of words, bare or in one `\text{}`, and is compared as words."""
    return len(latex) <= MAX_PROSE_CHARS and bool(
        _PROSE.fullmatch(without_text_macros(latex)) or _TEXT.fullmatch(latex)
    )


def is_text(latex: str) -> bool:
    r"""Whether an answer is one `\text{...}` with words, or the name of a class: `odd $n$`."""
    if len(latex) > MAX_PROSE_CHARS:
        return False
    return bool(_TEXT.fullmatch(latex)) or _class_of(without_text_macros(latex)) is not None


def same_words(gold: str, answer: str) -> bool:
    """Whether two answers in words say the same: `a hyperbola` and `It is a hyperbola`.

    Dates may be written in any order, and `Yes` may be followed by a sentence that agrees.
    """
    if len(answer) > MAX_PROSE_CHARS:
        return False
    one, other = without_text_macros(gold), without_text_macros(answer)
    if _FORMULA.search(other):
        return False
    if normalise_words(gold) == normalise_words(answer):
        return True
    if (date := _date(one)) and (other_date := _date(other)):
        return date == other_date
    if (expected := _POLAR.get(one.casefold().strip(" ."))) is not None:
        return _agrees(one, other, expected)
    if (parts := _parts(one)) and len(parts) > 1:
        return parts == _parts(other)
    first, second = _essence(one), _essence(other)
    if first and (first == second or _same_but_noun(first, second)):
        return True
    return (about := _class_of(one)) is not None and about == _class_of(other)


def _date(text: str) -> tuple[str, ...] | None:
    """The month, the day and the year, if there is one, of a date."""
    match = _DATE.fullmatch(" ".join(re.sub(r"[.,]", " ", text.casefold()).split()))
    if match is None:
        return None
    name, day = match["month"] or match["month2"], match["day"] or match["day2"]
    months = [month for month in _MONTHS.split() if month.startswith(name)]
    return (months[0], str(int(day)), match["year"] or "") if len(months) == 1 else None


def _agrees(word: str, sentence: str, expected: bool) -> bool:
    """Whether `Yes, it is possible` begins with the word, and the rest does not contradict it."""
    first, _, rest = sentence.casefold().strip().partition(",")
    if first.strip(" .") != word.casefold().strip(" .") or not rest:
        return False
    said = {_POLAR[word] for word in _WORD.findall(rest) if word in _POLAR}
    if expected:
        return said <= {True} and not changes_value(rest)
    return said <= {False} and not denies(re.sub(r"\b(?:not|cannot|never|no)\b|n't\b", "", rest))


def _parts(text: str) -> frozenset[str] | None:
    """The members of `1 and all odd primes`, in words."""
    members = [member for member in re.split(r",| and ", text.casefold()) if member.strip()]
    parts = frozenset(" ".join(_essence(member)) for member in members)
    return parts if len(parts) == len(members) and "" not in parts else None


def _essence(text: str) -> tuple[str, ...]:
    """The words without articles, without `it is` before them and `wins` after them."""
    lowered = " ".join(text.casefold().strip(" .!").split())
    words = [*_WORD.findall(_PREDICATES.sub("", lowered))]
    words = [word for word in words if word not in _ARTICLES]
    if len(words) > 1 and words[0] in _SUBJECTS:
        words = words[2:] if words[1] in _VERBS else words[1:]
    elif len(words) > 1 and words[0] in _VERBS:
        words = words[1:]
    if words[:1] == ["no"] and words[-1].startswith("solution"):
        words = [word for word in words if word != "real"]
        words[-1] = words[-1].removesuffix("s")
    return tuple(words)


def _same_but_noun(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """`even` and `even function`: one of them names what the adjective is about."""
    short, long = sorted((one, other), key=len)
    return len(long) == len(short) + 1 and long[:-1] == short and long[-1] in _NOUNS


def _class_of(text: str) -> tuple[str, str] | None:
    """odd and n, for `odd n`, `n is odd` and `all odd n`."""
    words = [word for word in re.findall("[A-Za-z]+", text) if word not in _QUANTIFIERS]
    if len(words) != 2:
        return None
    kind, name = words if words[0] in _CLASSES else words[::-1]
    return (kind, name) if kind in _CLASSES and len(name) == 1 else None
