"""What a probe's trials say: means with intervals, one fitted scale, a table, JSON, a figure.

Knows numbers of trials, rich and matplotlib; nothing of models. `studies/probe.py` makes trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Column, Table
from scipy import stats

from asymrl.errors import UserError
from asymrl.files import write_atomically
from asymrl.report.drawing import COLOURS, INK, MUTED, STYLE
from asymrl.types import frozen

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@frozen
class Moved:
    """What one step did. change: of the mean entropy of other contexts, nats a token; half: the
    same after half the step; gain: of the log-prob of the batch's correct rollouts, nats a token.
    """

    change: float
    half: float
    gain: float


@frozen
class Trial:
    """One rollout batch. lr: of its SGD steps; entropy: of the other contexts before, nats a token;
    groups: prompts that take part in the step; moved: by estimator."""

    kappa: float
    lr: float
    entropy: float
    accuracy: float
    groups: int
    moved: Mapping[str, Moved]


@frozen
class Interval:
    """A mean over batches and the half width of its 95% t-interval."""

    mean: float
    half_width: float

    @property
    def sign(self) -> int:
        """-1 or 1; 0 where the interval holds 0."""
        return 0 if abs(self.mean) <= self.half_width else int(math.copysign(1, self.mean))


@frozen
class Row:
    """One estimator over the batches, in nats a token.

    change, gain: as in Moved; shift, gain_shift: minus REINFORCE's of the same batch; raw: lr
    (beta_pos - beta_neg) kappa, what Proposition 1 predicts but for its scale, None where it says
    nothing; alike: batches whose shift has the sign of their own raw; halved: the share of the
    shift (of REINFORCE: of the change) that half the step gives, 0.5 to first order.
    """

    label: str
    change: Interval
    shift: Interval
    raw: Interval | None
    predicted: float | None
    alike: int | None
    halved: float
    gain: Interval
    gain_shift: Interval
    word: str


@frozen
class Summary:
    """scale: the one fitted constant, shift = scale x raw; explained: 1 - the share of the shifts'
    sum of squares that is left when the prediction is taken off; rows: REINFORCE first."""

    batches: int
    kappa: Interval
    entropy: Interval
    accuracy: Interval
    scale: Interval
    explained: float
    rows: tuple[Row, ...]


def interval(numbers: Sequence[float]) -> Interval:
    """95%, Student's t over batches, taken as independent: mean +- t(.975, B - 1) s / sqrt(B)."""
    count = len(numbers)
    spread = float(np.std(numbers, ddof=1)) / math.sqrt(count)
    return Interval(
        mean=float(np.mean(numbers)), half_width=float(stats.t.ppf(0.975, count - 1)) * spread
    )


def prediction(trial: Trial, lean: float) -> float:
    """Proposition 1 but for its scale: lr (beta_pos - beta_neg) kappa, nats a token."""
    return trial.lr * lean * trial.kappa


def summarise(trials: Sequence[Trial], leans: Mapping[str, float | None]) -> Summary:
    """leans: beta_pos - beta_neg of every estimator of the trials, REINFORCE first; or None."""
    reference, *_ = leans
    raws = {
        label: [prediction(trial, lean) for trial in trials]
        for label, lean in leans.items()
        if lean is not None
    }
    shifts = {label: shift_of(trials, label, reference) for label in leans}
    scale, explained = fit(
        [[raws[label][b] for label in raws] for b in range(len(trials))],
        [[shifts[label][b] for label in raws] for b in range(len(trials))],
    )
    rows = tuple(
        row(trials, label, reference, shifts[label], raws.get(label), scale.mean) for label in leans
    )
    return Summary(
        batches=len(trials),
        kappa=interval([trial.kappa for trial in trials]),
        entropy=interval([trial.entropy for trial in trials]),
        accuracy=interval([trial.accuracy for trial in trials]),
        scale=scale,
        explained=explained,
        rows=rows,
    )


def shift_of(trials: Sequence[Trial], label: str, reference: str) -> list[float]:
    """An estimator's entropy change minus the reference's, batch by batch."""
    return [trial.moved[label].change - trial.moved[reference].change for trial in trials]


def fit(
    raws: Sequence[Sequence[float]], shifts: Sequence[Sequence[float]]
) -> tuple[Interval, float]:
    """Least squares through the origin over all batches (rows) and estimators: shift = C raw.

    The interval takes whole batches as what varies (the estimators of one share their rollouts):
    se^2 = B / (B - 1) sum_b (sum_e raw (shift - C raw))^2 / (sum raw^2)^2, with t of B - 1. Second
    is 1 - sum (shift - C raw)^2 / sum shift^2. Both are nan where every raw is 0.
    """
    x, y = np.array(raws), np.array(shifts)
    squares, batches = float((x * x).sum()), len(x)
    if not squares:
        return Interval(mean=math.nan, half_width=math.nan), math.nan
    scale = float((x * y).sum()) / squares
    left = y - scale * x
    of_batch = (x * left).sum(1)
    error = math.sqrt(batches / (batches - 1) * float((of_batch**2).sum())) / squares
    width = float(stats.t.ppf(0.975, batches - 1)) * error
    whole = float((y * y).sum())
    explained = 1 - float((left * left).sum()) / whole if whole else math.nan
    return Interval(mean=scale, half_width=width), explained


def row(
    trials: Sequence[Trial],
    label: str,
    reference: str,
    shifts: Sequence[float],
    raws: Sequence[float] | None,
    scale: float,
) -> Row:
    moved, base = [t.moved[label] for t in trials], [t.moved[reference] for t in trials]
    shift, raw = interval(shifts), interval(raws) if raws else None
    is_reference = label == reference
    half = sum(m.half - (0 if is_reference else b.half) for m, b in zip(moved, base, strict=True))
    full = sum(
        m.change - (0 if is_reference else b.change) for m, b in zip(moved, base, strict=True)
    )
    signed = raws is not None and any(raws)
    return Row(
        label=label,
        change=interval([m.change for m in moved]),
        shift=shift,
        raw=raw,
        predicted=scale * raw.mean if raw else None,
        alike=sum(s * r > 0 for s, r in zip(shifts, raws or (), strict=True)) if signed else None,
        halved=half / full if full else math.nan,
        gain=interval([m.gain for m in moved]),
        gain_shift=interval([m.gain - b.gain for m, b in zip(moved, base, strict=True)]),
        word="the reference" if is_reference else word(shift, raw),
    )


def word(shift: Interval, raw: Interval | None) -> str:
    """Signs only, each of an interval that leaves out 0."""
    if raw is None or not raw.sign:
        return "none predicted"
    if not shift.sign:
        return "not resolved"
    return "as predicted" if shift.sign == raw.sign else "opposite"


def report(
    trials: Sequence[Trial],
    leans: Mapping[str, float | None],
    asked: Mapping[str, Any],
    console: Any,
) -> None:
    """The table on the console; with an --out folder, probe.json and probe.png there."""
    summary = summarise(trials, leans)
    console.print(table(summary))
    console.print(*sentences(summary), sep="\n", soft_wrap=True)
    if asked["out"] is None:
        return
    folder = Path(asked["out"])
    content = {
        "asked": {key: str(g) if isinstance(g, Path) else g for key, g in asked.items()},
        "summary": asdict(summary),
        "trials": [asdict(trial) for trial in trials],
    }
    write_atomically(folder / "probe.json", json.dumps(without_nan(content), indent=2) + "\n")
    draw({f"{asked['ckpt']}, {asked['data']}": summary}, folder / "probe.png")
    console.print(f"every number: {folder / 'probe.json'}; figure: {folder / 'probe.png'}")


def make_folder(folder: Path | None) -> None:
    """Before any work, so that nothing is computed that cannot be kept."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made a folder: {error.strerror}") from None


def without_nan(tree: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(tree, Mapping):
        return {key: without_nan(node) for key, node in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_nan(node) for node in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def table(summary: Summary) -> Table:
    """In 1e-3 nats a token, with 95% intervals; all but the half step is minus REINFORCE's."""
    names = ("entropy change", "predicted", "batches", "half step", "log-prob gain")
    drawn = Table(
        Column("estimator", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in names),
        Column("sign", no_wrap=True),
        title="one SGD step, minus REINFORCE's, in 1e-3 nats a token",
    )
    for one in summary.rows:
        drawn.add_row(
            one.label,
            thousandths(one.shift),
            "-" if one.predicted is None else f"{1e3 * one.predicted:+.3f}",
            "-" if one.alike is None else f"{one.alike}/{summary.batches}",
            f"{one.halved:.2f}",
            thousandths(one.gain_shift),
            one.word,
        )
    return drawn


def thousandths(of: Interval) -> str:
    return f"{1e3 * of.mean:+.3f} ± {1e3 * of.half_width:.3f}"


def sentences(summary: Summary) -> list[str]:
    """What the table stands on, in words."""
    first, kappa = summary.rows[0], summary.kappa
    reads = {1: "above 0", -1: "below 0", 0: "not resolved from 0, so no sign is predicted"}
    return [
        f"kappa {kappa.mean:+.4f} ± {kappa.half_width:.4f} nats over {summary.batches} batches: "
        f"{reads[kappa.sign]}. Accuracy {summary.accuracy.mean:.2f}, entropy of the contexts "
        f"{summary.entropy.mean:.3f} nats a token.",
        f"REINFORCE's own step, in 1e-3 nats a token: entropy {thousandths(first.change)}, "
        f"log-prob of the batch's correct rollouts {thousandths(first.gain)}.",
        "Predicted is scale x lr x (beta_pos - beta_neg) x kappa. Proposition 1 predicts signs and "
        f"proportions; the scale is fitted to these shifts: {summary.scale.mean:.3g} ± "
        f"{summary.scale.half_width:.2g}. The prediction takes up {100 * summary.explained:.0f}% "
        "of the shifts' sum of squares.",
        "Batches: those whose shift has the sign that their own kappa predicts. Half step: the "
        "share that half the step gives, 0.5 to first order (of the shift; for REINFORCE of the "
        "change itself). Intervals: 95%, Student's t over batches.",
    ]


def draw(panels: Mapping[str, Summary], file: Path) -> None:
    """Measured shifts over what Proposition 1 predicts but for its scale, a panel a probe."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.4 + 3.5 * len(panels), 3.9), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for place, (title, summary) in zip(axes, panels.items(), strict=True):
            place.axhline(0, color=MUTED, linewidth=0.6)
            place.axvline(0, color=MUTED, linewidth=0.6)
            shown = [one for one in summary.rows if one.raw is not None]
            for number, one in enumerate(shown):
                assert one.raw is not None
                place.errorbar(
                    1e3 * one.raw.mean,
                    1e3 * one.shift.mean,
                    xerr=1e3 * one.raw.half_width,
                    yerr=1e3 * one.shift.half_width,
                    fmt=MARKERS[number % len(MARKERS)],
                    color=COLOURS[number % len(COLOURS)],
                    label=one.label,
                    markersize=5,
                    linewidth=1,
                    capsize=2,
                )
            place.axline((0, 0), slope=summary.scale.mean, color=INK, linewidth=0.8, linestyle="--")
            place.set_title(title, fontsize=9)
            place.set_xlabel("lr (β₊ \N{MINUS SIGN} β₋) κ  (10⁻³ nats)")
        axes[0].set_ylabel("entropy change minus REINFORCE's\n(10⁻³ nats a token)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False)
        figure.savefig(file, dpi=160, facecolor="white")


__all__ = ["Moved", "Summary", "Trial", "draw", "make_folder", "report", "summarise"]
