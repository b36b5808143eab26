"""Curves over group accuracy p: what an arm's estimator gives, and what its updates measured.

Knows configs' estimators and metrics by accuracy; nothing of drawing. Loads torch when a curve is
wanted and not before, since the curves are those of the code that trains, not of a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asymrl.report.arms import Arm, Line, mean_line, setting
from asymrl.report.runs import Run, number, series
from asymrl.types import frozen

Points = Sequence[tuple[float, float]]
FINE = 200  # rollouts in the group that a smooth curve is drawn with
LARGEST = 1024  # rollouts in a group that is drawn at all


@frozen
class Curves:
    """Of one arm, by "positive" and "negative": advantage A(p), and mass W(p), the mean |A| that a
    group of accuracy p gives that channel: p |A_pos(p)| and (1 - p) |A_neg(p)|."""

    advantage: Mapping[str, Line]
    mass: Mapping[str, Line]


def curves(arm: Arm) -> Curves | None:
    """The estimator of the arm's config at its own group size G, None where there is none to draw.

    At p = k / G exactly, where a channel has rollouts. Between them, where the values do not depend
    on G, the curve of large groups; else straight lines. Estimators that see more than p are given
    equal log-probs, and a batch with every accuracy once.
    """
    name, size = setting(arm.runs[0], "advantage.name"), setting(arm.runs[0], "rollout.group_size")
    given = setting(arm.runs[0], "advantage")
    if not isinstance(given, Mapping) or not isinstance(size, int) or not 1 < size <= LARGEST:
        return None
    params = {key: v for key, v in given.items() if key != "name"}
    from asymrl.algo.advantages import ADVANTAGES

    if not isinstance(name, str) or name not in ADVANTAGES:
        return None
    try:
        own = _tabulated(ADVANTAGES[name], params, size)
        fine = _tabulated(ADVANTAGES[name], params, size * max(1, FINE // size))
    except (TypeError, ValueError, AssertionError, ArithmeticError, RuntimeError):
        return None  # a config of another version: other names, other ranges, other types
    if any(number(a) is None for points in (*own.values(), *fine.values()) for _, a in points):
        return None
    return Curves(
        advantage={channel: _line(own[channel], fine[channel], False) for channel in own},
        mass={channel: _mass(channel, own[channel], fine[channel]) for channel in own},
    )


def measured(arm: Arm, channel: str) -> Line | None:
    """Gradient mass a group by its accuracy, as measured: means over the arm's runs.

    pressure/<channel>/<p> over groups/accuracy/<p>, both summed over all steps of a run (a missing
    pressure is 0). None where no run has any.
    """
    at: dict[float, list[float]] = {}
    for run in arm.runs:
        for p, mass in _measured(run, channel).items():
            at.setdefault(p, []).append(mass)
    return mean_line(at) if any(mass for masses in at.values() for mass in masses) else None


def _measured(run: Run, channel: str) -> dict[float, float]:
    often: dict[str, float] = {}
    mass: dict[str, float] = {}
    counts, pressures = "groups/accuracy/", f"pressure/{channel}/"
    for row in run.rows:
        for key, given in row.items():
            here = number(given)
            if here is not None and key.startswith(counts):
                often[key.removeprefix(counts)] = often.get(key.removeprefix(counts), 0.0) + here
            elif here is not None and key.startswith(pressures):
                mass[key.removeprefix(pressures)] = (
                    mass.get(key.removeprefix(pressures), 0.0) + here
                )
    if not mass:
        return {}
    shares = {p: total for p, total in often.items() if total > 0 and _is_accuracy(p)}
    return {float(p): mass.get(p, 0.0) / total for p, total in shares.items()}


def _is_accuracy(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def moving(arm: Arm, beta: str) -> bool:
    """Whether a schedule moved advantage/<beta> during some run of the arm."""
    return any(len(set(series(run, f"advantage/{beta}").values)) > 1 for run in arm.runs)


def one_curve(names: Sequence[str], lines: Sequence[Line | None]) -> str:
    """Which arms have the same curve, in words: in a drawing the later may hide the earlier."""
    found: dict[tuple[float, ...], list[str]] = {}
    for name, line in zip(names, lines, strict=True):
        if line:
            found.setdefault((*line.x, *(round(y, 9) for y in line.y)), []).append(name)
    return "".join(f" One curve: {', '.join(own)}." for own in found.values() if len(own) > 1)


def _tabulated(
    estimator: Callable[..., Any], params: Mapping[str, Any], size: int
) -> dict[str, list[tuple[float, float]]]:
    """(p, advantage) of each channel, p = k / size, from groups with k = 0 .. size right ones."""
    import torch

    from asymrl.types import Groups

    k = torch.arange(size + 1)[:, None]
    rewards = (torch.arange(size) < k).double()
    flat = torch.zeros_like(rewards)
    groups = Groups(
        rewards=rewards, valid=rewards >= 0, lengths=flat.long() + 1, mean_logprobs=flat
    )
    found = estimator(groups, **params)
    return {
        "positive": [(j / size, float(found[j, 0])) for j in range(1, size + 1)],
        "negative": [(j / size, float(found[j, -1])) for j in range(size)],
    }


def _mass(channel: str, own: Points, fine: Points) -> Line:
    """p |A+(p)| or (1 - p) |A-(p)|, also beyond the outermost k / G where that stays in scale."""
    own, fine = (
        [(p, (p if channel == "positive" else 1 - p) * abs(a)) for p, a in points]
        for points in (own, fine)
    )
    whole = _line(own, fine, True)
    if max(whole.y) > 2 * max(mass for _, mass in own):  # it grows without bound
        return _line(own, fine, False)
    return whole


def _line(own: Points, fine: Points, whole: bool) -> Line:
    """The fine curve, where it agrees with the own one, between the own points.

    Out to p = 0 and 1 where the two agree on the end (a flip's end depends on G); `whole`: also
    where the channel has no end there. Otherwise straight lines.
    """
    at = {round(p, 9): a for p, a in fine}

    def agree(points: Points) -> bool:
        return all(abs(at[round(p, 9)] - a) <= 1e-4 * max(1.0, abs(a)) for p, a in points)

    inner = [(p, a) for p, a in own if 0 < p < 1]
    if not agree(inner):
        return Line(x=[p for p, _ in own], y=[a for _, a in own])
    ends = [[(p, a) for p, a in own if p == end] for end in (0, 1)]
    low, high = (agree(end) if end else whole for end in ends)
    points = dict(own)
    for p, a in fine:
        if (low or p > inner[0][0]) and (high or p < inner[-1][0]):
            points.setdefault(next((q for q in points if abs(p - q) < 1e-9), p), a)
    return Line(x=sorted(points), y=[points[p] for p in sorted(points)])
