"""Times of day: 3:45 p.m. is 15:45, and 20:34:00 is 20:34.

Knows clocks, not ratios: 6:15 can be either, and is left to the comparison of numbers if it may be
a ratio in lowest terms.
"""

import math
import re

from asymrl.verifiers.latex.normalize import without_text_macros

MAX_CHARS = 60
_TIME = re.compile(
    r"(?:at )?(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))? ?"
    r"(?P<half>[ap]\.? ?m\.?)?(?: in the (?:morning|afternoon|evening))?"
)
Time = tuple[tuple[int, int, int], str]  # hour, minute and second as written; "a", "p" or ""


def same_time(gold: str, answer: str) -> bool | None:
    """Whether both are the same time of day; None if they are not two times.

    A time without a.m. or p.m. answers one that has it; alone it is one of a 24-hour clock.
    """
    if ":" not in gold or ":" not in answer:
        return None
    one, other = _time(gold), _time(answer)
    if one is None or other is None:
        return None
    if one[0] == other[0] and not (one[1] and other[1] and one[1] != other[1]):
        return True
    if one[1] or other[1]:
        return _seconds(one) == _seconds(other)
    return None if _may_be_ratio(one) else False


def _time(latex: str) -> Time | None:
    if len(latex) > MAX_CHARS:
        return None
    text = " ".join(without_text_macros(latex).casefold().split())
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    written = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    half = (match["half"] or "")[:1]
    valid = 1 <= written[0] <= 12 if half else written[0] < 24
    return (written, half) if valid and max(written[1:]) < 60 else None


def _seconds(time: Time) -> int:
    (hour, minute, second), half = time
    hour = hour % 12 + 12 * (half == "p") if half else hour
    return (hour * 60 + minute) * 60 + second


def _may_be_ratio(time: Time) -> bool:
    hour, minute, second = time[0]
    return not second and minute > 9 and math.gcd(hour, minute) == 1
