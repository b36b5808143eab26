"""Reports a probe's trials: means with intervals, one fitted scale, a table, JSON and a figure.

Knows numbers, rich and matplotlib; no models. `studies/probe.py` makes the trials.
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
from tabulate import tabulate

from asymrl.errors import UserError
from asymrl.files import read_json, write_atomically
from asymrl.report.drawing import COLOURS, INK, MUTED, STYLE
from asymrl.statistics import standard_error, t_half_width
from asymrl.types import frozen

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@frozen
class StepEffect:
    """The effect of one step, in nats per token. change: of the mean entropy of other contexts;
    half: the same after half the step; gain: of the log-prob of the batch's correct rollouts."""

    change: float
    half: float
    gain: float


@frozen
class Trial:
    """One rollout batch. lr: of its SGD steps; entropy: of the other contexts before the step, nats
    a token; groups: prompts in the step; effects: by estimator."""

    kappa: float
    lr: float
    entropy: float
    accuracy: float
    groups: int
    effects: Mapping[str, StepEffect]


@frozen
class Interval:
    """A mean over batches and the half width of its 95% t-interval."""

    mean: float
    half_width: float

    @property
    def sign(self) -> int:
        """-1 or 1; 0 if the interval contains 0."""
        return 0 if abs(self.mean) <= self.half_width else int(math.copysign(1, self.mean))


@frozen
class EstimatorSummary:
    """One estimator over the batches, in nats per token.

    change, gain: as in StepEffect. shift, gain_shift: minus REINFORCE's of the same batch. raw: lr
    (beta_pos - beta_neg) kappa, the prediction of Proposition 1 up to its scale; None without one.
    same_sign: batches whose shift has the sign of their own raw. halved: the share of the shift
    (for REINFORCE: of the change) after half the step, 0.5 to first order.
    """

    label: str
    change: Interval
    shift: Interval
    raw: Interval | None
    predicted: float | None
    same_sign: int | None
    halved: float
    gain: Interval
    gain_shift: Interval
    word: str


@frozen
class Summary:
    """scale: the one fitted constant, shift = scale x raw. explained: 1 - (residual / total sum of
    squares of the shifts). rows: REINFORCE first."""

    batches: int
    kappa: Interval
    entropy: Interval
    accuracy: Interval
    scale: Interval
    explained: float
    rows: tuple[EstimatorSummary, ...]


def interval(numbers: Sequence[float]) -> Interval:
    """mean +- t(.975, B - 1) s / sqrt(B) over B batches, taken as independent."""
    half_width = t_half_width(standard_error(numbers), len(numbers) - 1)
    return Interval(mean=float(np.mean(numbers)), half_width=half_width)


def prediction(trial: Trial, lean: float) -> float:
    """Proposition 1 up to its scale: lr (beta_pos - beta_neg) kappa, nats per token."""
    return trial.lr * lean * trial.kappa


def summarise(trials: Sequence[Trial], leans: Mapping[str, float | None]) -> Summary:
    """leans: beta_pos - beta_neg by estimator, REINFORCE first; None without a prediction."""
    reference, *_ = leans
    raws = {
        label: [prediction(trial, lean) for trial in trials]
        for label, lean in leans.items()
        if lean is not None
    }
    shifts = {label: entropy_shifts(trials, label, reference) for label in leans}
    scale, explained = fit(
        [[raws[label][b] for label in raws] for b in range(len(trials))],
        [[shifts[label][b] for label in raws] for b in range(len(trials))],
    )
    rows = tuple(
        summarise_estimator(trials, label, reference, shifts[label], raws.get(label), scale.mean)
        for label in leans
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


def entropy_shifts(trials: Sequence[Trial], label: str, reference: str) -> list[float]:
    """An estimator's entropy change minus the reference's, batch by batch."""
    return [trial.effects[label].change - trial.effects[reference].change for trial in trials]


def fit(
    raws: Sequence[Sequence[float]], shifts: Sequence[Sequence[float]]
) -> tuple[Interval, float]:
    """Least squares through the origin over all batches (rows) and estimators: shift = C raw.

    The interval is clustered by batch, since the estimators of a batch share its rollouts:
    se^2 = B / (B - 1) sum_b (sum_e raw (shift - C raw))^2 / (sum raw^2)^2, with B - 1 degrees of
    freedom. The second value is 1 - sum (shift - C raw)^2 / sum shift^2. Both are nan if every raw
    is 0.
    """
    x, y = np.array(raws), np.array(shifts)
    squares, batches = float((x * x).sum()), len(x)
    if not squares:
        return Interval(mean=math.nan, half_width=math.nan), math.nan
    scale = float((x * y).sum()) / squares
    residuals = y - scale * x
    by_batch = (x * residuals).sum(1)
    stderr = math.sqrt(batches / (batches - 1) * float((by_batch**2).sum())) / squares
    total = float((y * y).sum())
    explained = 1 - float((residuals**2).sum()) / total if total else math.nan
    return Interval(mean=scale, half_width=t_half_width(stderr, batches - 1)), explained


def summarise_estimator(
    trials: Sequence[Trial],
    label: str,
    reference: str,
    shifts: Sequence[float],
    raws: Sequence[float] | None,
    scale: float,
) -> EstimatorSummary:
    pairs = [(t.effects[label], t.effects[reference]) for t in trials]
    shift, raw = interval(shifts), interval(raws) if raws else None
    is_reference = label == reference
    half = sum(e.half - (0 if is_reference else r.half) for e, r in pairs)
    full = sum(e.change - (0 if is_reference else r.change) for e, r in pairs)
    same_sign = None
    if raws is not None and any(raws):
        same_sign = sum(s * r > 0 for s, r in zip(shifts, raws, strict=True))
    return EstimatorSummary(
        label=label,
        change=interval([e.change for e, _ in pairs]),
        shift=shift,
        raw=raw,
        predicted=scale * raw.mean if raw else None,
        same_sign=same_sign,
        halved=half / full if full else math.nan,
        gain=interval([e.gain for e, _ in pairs]),
        gain_shift=interval([e.gain - r.gain for e, r in pairs]),
        word="the reference" if is_reference else word(shift, raw),
    )


def word(shift: Interval, raw: Interval | None) -> str:
    """Compares signs only; a sign counts if its interval excludes 0."""
    if raw is None or not raw.sign:
        return "none predicted"
    if not shift.sign:
        return "not resolved"
    return "as predicted" if shift.sign == raw.sign else "opposite"


def report(
    trials: Sequence[Trial],
    leans: Mapping[str, float | None],
    settings: Mapping[str, Any],
    console: Any,
) -> None:
    """Print the table; write probe.json and probe.png if there is an --out folder."""
    summary = summarise(trials, leans)
    console.print(table(summary))
    console.print(*sentences(summary), sep="\n", soft_wrap=True)
    if settings["out"] is None:
        return
    folder = Path(settings["out"])
    content = {
        "settings": {key: str(x) if isinstance(x, Path) else x for key, x in settings.items()},
        "leans": leans,
        "summary": asdict(summary),
        "trials": [asdict(trial) for trial in trials],
    }
    write_atomically(folder / "probe.json", json.dumps(without_nan(content), indent=2) + "\n")
    draw({f"{settings['ckpt']}, {settings['data']}": summary}, folder / "probe.png")
    console.print(f"every number: {folder / 'probe.json'}; figure: {folder / 'probe.png'}")


def make_folder(folder: Path | None) -> None:
    """Create the folder before any work, so that results can be written."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be created: {error.strerror}") from None


def without_nan(tree: Any) -> Any:
    """The same tree with null for NaN and infinity, which JSON does not have."""
    if isinstance(tree, Mapping):
        return {key: without_nan(node) for key, node in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_nan(node) for node in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def table(summary: Summary) -> Table:
    """In 1e-3 nats per token, with 95% intervals, minus REINFORCE's (except the half step)."""
    names = ("entropy change", "predicted", "batches", "half step", "log-prob gain")
    table = Table(
        Column("estimator", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in names),
        Column("sign", no_wrap=True),
        title="one SGD step, minus REINFORCE's, in 1e-3 nats per token",
    )
    for one in summary.rows:
        table.add_row(*cells(one, summary.batches))
    return table


def cells(one: EstimatorSummary, batches: int) -> list[str]:
    return [
        one.label,
        thousandths(one.shift),
        "-" if one.predicted is None else f"{1e3 * one.predicted:+.3f}",
        "-" if one.same_sign is None else f"{one.same_sign}/{batches}",
        f"{one.halved:.2f}",
        thousandths(one.gain_shift),
        one.word,
    ]


def thousandths(one: Interval) -> str:
    return f"{1e3 * one.mean:+.3f} ± {1e3 * one.half_width:.3f}"


def sentences(summary: Summary) -> list[str]:
    """What the reader needs to know about the table."""
    first, kappa = summary.rows[0], summary.kappa
    reads = {1: "above 0", -1: "below 0", 0: "not distinguishable from 0, so no sign is predicted"}
    return [
        f"kappa {kappa.mean:+.4f} ± {kappa.half_width:.4f} nats over {summary.batches} batches: "
        f"{reads[kappa.sign]}. Accuracy {summary.accuracy.mean:.2f}, entropy of the contexts "
        f"{summary.entropy.mean:.3f} nats per token.",
        f"REINFORCE's own step, in 1e-3 nats per token: entropy {thousandths(first.change)}, "
        f"log-prob of the batch's correct rollouts {thousandths(first.gain)}.",
        "Predicted is scale x lr x (beta_pos - beta_neg) x kappa. Proposition 1 predicts signs and "
        f"proportions; the scale is fitted to these shifts: {summary.scale.mean:.3g} ± "
        f"{summary.scale.half_width:.2g}. The prediction explains {100 * summary.explained:.0f}% "
        "of the shifts' sum of squares.",
        "Batches: how many have a shift with the sign that their own kappa predicts. Half step: "
        "the share of the shift (for REINFORCE: of the change) after half the step, 0.5 to first "
        "order. Intervals: 95%, Student's t over batches.",
    ]


def draw(panels: Mapping[str, Summary], file: Path) -> None:
    """Measured shifts over the predictions of Proposition 1 up to its scale, one panel a probe."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.4 + 3.5 * len(panels), 3.9), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for place, (title, summary) in zip(axes, panels.items(), strict=True):
            place.axhline(0, color=MUTED, linewidth=0.6)
            place.axvline(0, color=MUTED, linewidth=0.6)
            for number, one in enumerate(row for row in summary.rows if row.raw is not None):
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
        axes[0].set_ylabel("entropy change minus REINFORCE's\n(10⁻³ nats per token)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False)
        figure.savefig(file, dpi=160, facecolor="white")


# --- the page

PAGE_HEAD = """# The one-step probe of Proposition 1

{opening}

Generated by `python -m studies report probe` from results/probe-*.json; do not edit. Proposition 1
(arXiv 2604.04894): to first order around (0, 0), a step with (beta_pos, beta_neg) changes the
entropy by eta (beta_pos - beta_neg) kappa more than REINFORCE's step. Two runs cannot test this,
because after one update they no longer have the same policy. The probe takes one plain SGD step per
estimator from the same weights on the same rollouts, and measures the entropy on other prompts
([probe.py](../studies/probe.py)). The proposition assumes a tabular softmax policy and natural
gradient; a network satisfies neither, so only the signs and the proportions are predictions, and
the scale is fitted.

Shifts are relative to REINFORCE's step on the same batch, in 1e-3 nats per token, with 95% t
intervals over batches. *batches*: those whose shift has the sign that their own kappa predicts.
*half step*: the share of the shift after half the step, 0.5 to first order. *log-prob gain*: of the
batch's correct rollouts.
"""


def write_page(docs: Path) -> list[Path]:
    """Write probe.md and probe.png from docs/results/probe-*.json. UserError without any."""
    files = sorted((docs / "results").glob("probe-*.json"))
    if not files:
        raise UserError(
            f"{docs / 'results'} has no probe-*.json; `python -m studies.probe` makes it"
        )
    probes = {file.stem.removeprefix("probe-"): read_probe(file) for file in files}
    summaries = {name: summary for name, (_, summary) in probes.items()}
    draw(summaries, docs / "probe.png")
    text = [
        PAGE_HEAD.format(opening=opening(summaries)),
        "![Shifts over predictions](probe.png)",
        "",
    ]
    for name, (settings, summary) in probes.items():
        command = (
            f"{settings['ckpt']}, {settings['batches']} batches of {settings['prompts']} prompts"
        )
        text += [
            f"## {name}",
            "",
            f"{command} x {settings['group_size']} rollouts, seed {settings['seed']}.",
            *sentences(summary)[:2],
            "",
            markdown(summary),
            "",
        ]
    write_atomically(docs / "probe.md", "\n".join(text) + "\n")
    return [docs / "probe.md", docs / "probe.png"]


def read_probe(file: Path) -> tuple[dict[str, Any], Summary]:
    """The settings and the summary of a probe.json."""
    content = read_json(file)
    trials = [
        Trial(
            **{**one, "effects": {k: StepEffect(**numbers(e)) for k, e in one["effects"].items()}}
        )
        for one in content["trials"]
    ]
    return content["settings"], summarise(trials, content["leans"])


def numbers(effect: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in effect.items()}


def opening(summaries: Mapping[str, Summary]) -> str:
    """Three sentences to quote."""
    signs = {1: "positive", -1: "negative", 0: "not distinguishable from 0"}
    kappas = ", ".join(
        f"{signs[s.kappa.sign]} on `{name}` ({s.kappa.mean:+.3f})" for name, s in summaries.items()
    )
    words = [row.word for s in summaries.values() for row in s.rows[1:]]
    counts = ", ".join(
        f"{words.count(word)} {word}" for word in ("as predicted", "opposite", "not resolved")
    )
    gains = [
        row.gain_shift
        for s in summaries.values()
        for row in s.rows
        if row.label in ("(0, 0.25)", "(0, 0.5)")
    ]
    return (
        f"kappa is {kappas}. Of the signs of entropy shifts that Proposition 1 predicts from it: "
        f"{counts}. The log-prob gain of correct rollouts with a larger beta_neg, which the paper "
        f"says rises: above REINFORCE's in {sum(g.sign > 0 for g in gains)} of {len(gains)} cases, "
        f"below in {sum(g.sign < 0 for g in gains)}."
    )


def markdown(summary: Summary) -> str:
    header = ["estimator", "entropy change", "predicted", "batches", "half step", "log-prob gain"]
    return tabulate(
        [cells(one, summary.batches) for one in summary.rows],
        [*header, "sign"],
        tablefmt="pipe",
        disable_numparse=True,
    )
