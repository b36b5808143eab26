"""Times of day, durations in several units, angles, and remarks after the answer."""

import pytest

from asymrl.verifiers import math

ALIKE = r"""
17:05 <- 5:05 \text{ p.m.}
7:50\text{ p.m.} <- 19:50
7:50\text{ p.m.} <- 7:50
00:30 <- 12:30\text{ a.m.}
12:15 \text{ PM} <- 12:15
22:10 <- 22:10:00
3\text{ hours }40\text{ minutes} <- 220\text{ minutes}
3\text{ hours }40\text{ minutes} <- 3\text{ h }40\text{ min}
3\text{ hours }40\text{ minutes} <- 3\text{ hours and }40\text{ minutes}
3\text{ hours }45\text{ minutes} <- 3.75\text{ hours}
1\text{ hour }1\text{ minute }30\text{ seconds} <- 3690\text{ seconds}
6\text{ ft }3\text{ in} <- 6.25\text{ feet}
90^\circ-\beta <- \frac{\pi}{2}-\beta
\sqrt3+i <- 2e^{30^\circ i}
58 <- 58,\text{ altogether}
58 <- 58, \text{ in all}
1:2 <- 3:6
"""
OTHER = r"""
17:05 <- 5:05
17:05 <- 5:05 \text{ a.m.}
7:50\text{ p.m.} <- 7:50\text{ a.m.}
7:50\text{ p.m.} <- 7:51
12:15 \text{ PM} <- 00:15
22:10 <- 11:05
22:10 <- 22:10:01
3\text{ hours }40\text{ minutes} <- 3\text{ hours}
3\text{ hours }40\text{ minutes} <- 3.4\text{ hours}
3\text{ hours }40\text{ minutes} <- 40\text{ minutes}
43 <- 3\text{ hours }40\text{ minutes}
6\text{ ft }3\text{ in} <- 6.3\text{ feet}
6\text{ ft }3\text{ kg} <- 6\text{ ft}
90^\circ-\beta <- \frac{\pi}{2}+\beta
\sqrt3+i <- 2e^{30i}
58 <- 58,\text{ at least}
58 <- 58,\text{ as a minimum}
58 <- 58 \text{ when rounded}
58 <- 58, \text{ in part}
58 <- 58, 59
"""


def pairs(text: str) -> list[tuple[str, ...]]:
    return [tuple(line.split(" <- ")) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("gold", "answer"), pairs(ALIKE))
def test_the_same_time_duration_or_angle_is_accepted(gold, answer):
    assert math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER))
def test_another_time_duration_or_angle_is_not_accepted(gold, answer):
    assert math.compare(gold, answer) != "correct"
