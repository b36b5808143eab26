"""Text that fits into a drawing: names cut to a width and still told apart, brief numbers.

Knows how wide matplotlib's own font is; nothing of charts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from asymrl.report_runs import printable

LEGEND_SIZE = 8.5  # points
LONGEST = 120  # characters; more would fit into no drawing
KEPT = 8  # characters of what all names begin with: `…asym_pos0.9`


def shortened(text: str, length: int) -> str:
    """At most `length` characters, the middle left out."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def fitting(text: str, room: float, **look: Any) -> str:
    """The text, its middle left out as far as it takes to be no wider than `room` points."""
    length = min(len(text), LONGEST)
    while length > 1 and text_width(shortened(text, length), **look) > room:
        length -= 1
    return shortened(text, length)


@cache
def text_width(text: str, **look: Any) -> float:
    """In points, in matplotlib's own font: as wide as any that a browser takes, and its box for a
    letter that it lacks as wide as a Chinese one."""
    font = FontProperties(**look)
    return text_to_path.get_text_width_height_descent(printable(text), font, False)[0]


def entries_of(names: Sequence[str], room: float) -> list[str]:
    """What a legend calls them: as much of each as fits. Where that makes two the same, what all
    begin and end with goes first, but for the last few characters before they part."""
    entries = [fitting(name, room, size=LEGEND_SIZE) for name in names]
    if len(set(entries)) == len(set(names)):
        return entries
    head = _shared(names)
    tail = _shared([name[head:][::-1] for name in names])
    head = max(0, head - KEPT)
    own = [f"{'…' * (head > 0)}{n[head : len(n) - tail]}{'…' * (tail > 0)}" for n in names]
    return [fitting(name, room, size=LEGEND_SIZE) for name in own]


def brief(given: float) -> str:
    """Three digits and a power of ten: 2.5e-5."""
    mantissa, exponent = f"{given:.2e}".split("e")
    text = f"{float(mantissa):g}e{int(exponent)}" if given else "0"
    return text.replace("-", "\N{MINUS SIGN}", 1) if given < 0 else text


def _shared(names: Sequence[str]) -> int:
    """How many characters all of them begin with."""
    together = zip(*names, strict=False)
    return next((i for i, here in enumerate(together) if len(set(here)) > 1), min(map(len, names)))
