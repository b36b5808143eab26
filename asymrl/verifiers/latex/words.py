"""English words around a number: which ones leave it as it is, and which ones change it.

Knows words, not notation. Words after a number may say what is counted (`12 students`), but not how
much it is (`12 at most`), how it is scaled (`12 thousand`), or that it is not the answer. Since a
wrong answer must never be accepted, a phrase counts as a description only if nothing in it belongs
to a class of words that change a number.
"""

import re
from fractions import Fraction

HEDGES = re.compile(
    r"\b(?:or|not|any|either|maybe|perhaps|possibly|probably|unless|if|wrong|depends?|cannot|"
    r"unknown|between|none|neither|nor|never|undefined|no|but|incorrect|alternatively|actually)\b"
    r"|n't\b"
)
# Number words and operations: without them a wrong answer would be accepted.
ARITHMETIC = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|dozen|"
    r"hundred|thousand|million|billion|trillion|lakh|crore|gross|score|squared|cubed|plus|minus|"
    r"times|less|more|base|power|half|twice|double|triple|absolute|quarter|modulo)s?\b"
)
# Words that scale the number before them. K and T do so only directly after it: 12 K is kelvin.
_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "lakh": 10**5, "crore": 10**7, "mn": 10**6, "bn": 10**9,
}  # fmt: skip
_SCALE_LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
NUMBERS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14,
    "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20,
}  # fmt: skip
_PARTS = {
    "halves": 2, "thirds": 3, "fourths": 4, "fifths": 5, "sixths": 6, "sevenths": 7, "eighths": 8,
    "ninths": 9, "tenths": 10, "elevenths": 11, "twelfths": 12, "hundredths": 100,
    "thousandths": 1000, "millionths": 10**6, "billionths": 10**9,
}  # fmt: skip

# Bounds, comparisons and rough values.
_BOUND_WORDS = """
    at least most up down upward upwards downward downwards onward onwards above below over
    under beneath beyond past within without around about near nearly almost approx
    approximately roughly circa ish so change inclusive exclusive inclusively exclusively
    excluded excluding exclude excludes except excepted exceeding exceeds exceed until till
    starting fewer greater larger smaller bigger higher lower longer shorter lesser further
    minimum maximum max tops too enough short extra off away apart thereabouts something odd
    give take negative negated opposite reversed inverse reciprocal complement conjugate
    rounded truncated estimated close closer instead rather other another different unequal"""
# Words that say that it is not the answer.
_DENYING_WORDS = """
    fail fails failed failing false falsely untrue invalid impossible reject rejects rejected
    ruled contradicts contradict contradiction contradictory violates violate refuted disproved
    error erroneous mistake mistaken unlikely doubtful unsure uncertain nonsense bad guess
    guessed guessing"""
# The last word of a phrase is a noun, except these.
_NO_NOUN = re.compile(
    r".{2,}[^e]ed|.{3,}(?:able|ible|ive|ish)|.{2,}(?:ly|ous|less|ful|wise|wards?)"
)
_HARMLESS_WORDS = """
    family checked required requested desired wanted needed verified confirmed exactly
    precisely combined only"""
_VERB = re.compile(r"(?:is|are|was|were|has|have|does|do|can|could|will|would|may|might|must)\b")
_CONFIRMS = re.compile(
    r"(?:is|are) (?:the |our |my )?(?:final |right |correct |required |desired )?"
    r"(?:answer|result|value|solution|total|number|correct|right)s?"
)
_ADDS = re.compile(r"(?:and|with|together|along|besides|also)\b")  # other members of the answer
_NAMING = frozenset(
    {"minimum", "maximum", "max", "smaller", "larger", "greater", "other", "inverse"}
)
_BOUNDS, _DENIALS, _HARMLESS = (
    frozenset(words.split()) for words in (_BOUND_WORDS, _DENYING_WORDS, _HARMLESS_WORDS)
)
_CHANGES = _BOUNDS | _DENIALS
_PLAIN = re.compile(r"[a-z\s.,;:!'’()/*^\d{}-]*")  # noqa: RUF001
_WORD = re.compile(r"[a-z']+")


def describes(phrase: str) -> bool:
    """Whether the words after a number only say what it is a number of: `students`, `in total`."""
    lowered = phrase.casefold().strip(" .,;:()")
    words = _WORD.findall(lowered)
    if not _PLAIN.fullmatch(lowered) or not _CHANGES.isdisjoint(words):
        return False
    if _ADDS.match(lowered):
        return False
    if HEDGES.search(lowered) or ARITHMETIC.search(lowered) or not _PARTS.keys().isdisjoint(words):
        return False
    if _VERB.match(lowered) and not _CONFIRMS.fullmatch(lowered):
        return False
    return not words or words[-1] in _HARMLESS or not _NO_NOUN.fullmatch(words[-1])


def changes_value(phrase: str) -> bool:
    """Whether words before a value bound, round or deny it: `at most`, `roughly`, `not`."""
    return denies(phrase) or not _BOUNDS.isdisjoint(_WORD.findall(phrase.casefold()))


def names_value(phrase: str) -> bool:
    """Whether words before a value only say what it is: `the minimum value is`, `Total:`."""
    bounds = _BOUNDS - _NAMING
    return not denies(phrase) and bounds.isdisjoint(_WORD.findall(phrase.casefold()))


def denies(phrase: str) -> bool:
    """Whether words hedge or deny what they stand beside: `or 7`, `which is wrong`."""
    lowered = phrase.casefold()
    return bool(HEDGES.search(lowered)) or not _DENIALS.isdisjoint(_WORD.findall(lowered))


def starts_with_scale(text: str) -> bool:
    """Whether the first word of a text scales the number before it: ` million`, `k`."""
    word = re.match(r"\s*([A-Za-z]+)", text)
    return bool(word and scale(word[1], attached=not text[0].isspace()))


def scale(word: str, attached: bool) -> Fraction | None:
    """The factor that a word multiplies the number before it with: 1000 for `thousand`.

    attached: nothing is between the number and the word. None for any other word.
    """
    if word in _SCALE_LETTERS and (attached or word not in "KT"):
        return Fraction(_SCALE_LETTERS[word])
    lowered = word.casefold()
    if lowered in _PARTS:
        return Fraction(1, _PARTS[lowered])
    factor = _SCALES.get(lowered) or _SCALES.get(lowered.removesuffix("s"))
    return Fraction(factor) if factor else None
