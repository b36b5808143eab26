"""Paired comparisons over seeds, and what may be said of them. Knows numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from asymrl.types import frozen

ALPHA = 0.05
Verdict = Literal["shown", "not shown: the opposite", "undecided", "not measured"]


@frozen
class Contrast:
    """Differences of pairs: their mean, its 95% interval, and two-sided p values.

    p: of the paired t test; p_flip: of the exact sign-flip test, 2 / 2^n at the least; n: pairs.
    With fewer than two pairs nothing but the mean is known: the interval is nan and p is 1.
    """

    mean: float
    low: float
    high: float
    p: float
    p_flip: float
    n: int


def paired(differences: Sequence[float]) -> Contrast:
    """The t interval, mean -+ t(.975, n - 1) s / sqrt(n), s with n - 1, and both tests of mean 0.

    nan differences (a pair that could not be measured) are left out. Degenerate: where all are the
    same number the interval is that number, the t test says nothing, and p is `p_flip`.
    """
    known = np.array([d for d in differences if math.isfinite(d)], dtype=float)
    n = len(known)
    if n < 2:
        mean = float(known.mean()) if n else math.nan
        return Contrast(mean=mean, low=math.nan, high=math.nan, p=1.0, p_flip=1.0, n=n)
    mean, error = float(known.mean()), standard_error(known)
    half = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * error
    flip = sign_flip(known)
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error > 0 else flip
    return Contrast(mean=mean, low=mean - half, high=mean + half, p=p, p_flip=flip, n=n)


def standard_error(numbers: Sequence[float] | np.ndarray) -> float:
    """s / sqrt(n), s with n - 1; nan for fewer than two."""
    n = len(numbers)
    return float(np.std(numbers, ddof=1)) / math.sqrt(n) if n > 1 else math.nan


def sign_flip(differences: Sequence[float] | np.ndarray) -> float:
    """Exact two-sided sign-flip (Fisher-Pitman) p: the share of all 2^n assignments of signs whose
    sum is at least as far from 0 as the observed one. Holds for any distribution symmetric about 0.
    """
    known = np.asarray(differences, dtype=float)
    n = len(known)
    assert n <= 20, f"{n} pairs have 2^{n} assignments of signs"
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    far = np.abs(signs @ known) >= abs(known.sum()) * (1 - 1e-12) - 1e-300
    return float(far.mean())


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the k-th smallest of m p values becomes (m - k + 1) p, at least
    what the smaller ones became and at most 1. Below alpha it holds the family-wise error at alpha
    under any dependence (Holm 1979)."""
    adjusted, so_far = [1.0] * len(ps), 0.0
    for k, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        so_far = max(so_far, min(1.0, (len(ps) - k) * ps[index]))
        adjusted[index] = so_far
    return adjusted


def verdict(contrast: Contrast, sign: int, adjusted: float, alpha: float = ALPHA) -> Verdict:
    """What a contrast says of the claim that its mean has that sign (+1 or -1).

    shown: that sign, and the adjusted p below alpha; the opposite: the other sign, and below alpha;
    undecided: not below alpha, whatever the sign; not measured: fewer than two pairs.
    """
    assert sign in (1, -1), f"a claim has a sign, not {sign}"
    if contrast.n < 2:
        return "not measured"
    if adjusted >= alpha:
        return "undecided"
    return "shown" if contrast.mean * sign > 0 else "not shown: the opposite"
