"""Results of studies with invented numbers: each test says what its arms do."""

from __future__ import annotations

from typing import Any

from studies.results import SERIES, Result


def invented(task: str, arm: str, seed: int, greedy: float = 0.5, **fields: Any) -> Result:
    """A run whose accuracy rises from 0.2 to `greedy`; series are flat unless given by name, as
    policy_entropy=0.5 for policy/entropy."""
    series = {name: 0.5 for name in SERIES}
    series |= {n: fields.pop(k) for n in SERIES if (k := n.replace("/", "_")) in fields}
    whole: dict[str, Any] = {
        "settings": "0123456789abcdef",
        "greedy": {"0": 0.2, "20": 0.3, "40": greedy, "60": greedy, "80": greedy, "100": greedy},
        "tempered": greedy,
        "samples": 64,
        "solved": (0, 16, 32, 64),
        "kappa_hat": 0.01,
        "series": {name: (value,) * 20 for name, value in series.items()},
        "pressure": {
            "positive": {"0.25": 1.0, "0.5": 2.0, "0.75": 1.0},
            "negative": {"0.25": 1.0, "0.5": 2.0, "0.75": 1.0},
        },
        "seconds": 30,
        "date": "2026-01-02",
        "commit": "0123456789abcdef",
        "software": "Python 3.11, torch 2.13, transformers 5.19",
    }
    return Result(task=task, arm=arm, seed=seed, **(whole | fields))
