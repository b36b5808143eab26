"""The paper's table on the pocket task: rows, standard errors, paired differences to GRPO."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from asymrl.files import write_atomically
from asymrl.study import figures
from asymrl.study.arms import SCHEDULED, Job
from asymrl.study.results import Result, Seed, at_the_end, by_seed, each, mean, ran_on
from asymrl.study.runs import SAMPLES
from asymrl.study.statistics import Contrast, paired, standard_error
from asymrl.types import value

ANCHOR = "grpo"


@value
class Line:
    """A row of the table. values: measure -> (mean, standard error over seeds); to_grpo and
    to_fixed: paired differences of accuracy at temperature 1, to GRPO and to `asym`."""

    arm: str
    values: Mapping[str, tuple[float, float]]
    to_grpo: Contrast
    to_asym: Contrast


def accuracy(result: Result, temperature: float) -> float:
    return result.accuracy[temperature]


MEASURES: Mapping[str, Callable[[Result], float]] = {
    "accuracy, T = 1": partial(accuracy, temperature=1.0),
    f"avg@{SAMPLES}, T = 0.4": partial(accuracy, temperature=0.4),
    "entropy at the end": partial(at_the_end, metric="policy/entropy"),
    "none solved at the end": partial(at_the_end, metric="groups/none_solved"),
}
HOT = "accuracy, T = 1"


def differences(seeds: Sequence[Seed], arm: str, other: str) -> Contrast:
    """Of accuracy at temperature 1, paired by seed."""
    ours, theirs = (each(seeds, name, MEASURES[HOT]) for name in (arm, other))
    return paired([a - b for a, b in zip(ours, theirs, strict=True)])


def lines(seeds: Sequence[Seed], arms: Sequence[str]) -> list[Line]:
    made = []
    for arm in arms:
        columns = {name: each(seeds, arm, measure) for name, measure in MEASURES.items()}
        made.append(
            Line(
                arm=arm,
                values={
                    n: (mean(numbers), standard_error(numbers)) for n, numbers in columns.items()
                },
                to_grpo=differences(seeds, arm, ANCHOR),
                to_asym=differences(seeds, arm, "asym"),
            )
        )
    return made


def like_the_best(seeds: Sequence[Seed], table: Sequence[Line]) -> list[str]:
    """The arms whose paired 95% interval of the difference to the best one contains 0, best first.

    The best one is chosen by the same numbers and nothing is adjusted for that, so this is a
    reading aid and no test.
    """
    ranked = sorted(table, key=lambda line: -line.values[HOT][0])
    best = ranked[0].arm
    near = [line.arm for line in ranked[1:] if not differences(seeds, line.arm, best).high < 0]
    return [best, *near]


def report(jobs: Sequence[Job], out: Path, docs: Path, command: str) -> list[Path]:
    """Write table2-pocket.md and table2-pocket.png."""
    seeds = by_seed(jobs, "easy")
    table = lines(seeds, list(dict.fromkeys(job.arm.name for job in jobs)))
    near = like_the_best(seeds, table)
    picture = figures.dots(table, list(MEASURES)[:3], docs / "table2-pocket.png")
    text = [
        HEAD.format(seeds=len(seeds), samples=SAMPLES),
        *markdown(table),
        "",
        alike(near, len(seeds)),
        "",
        *schedules(table),
        "![Accuracy and entropy by arm, with standard errors](table2-pocket.png)",
        "",
        "## How it was obtained",
        "",
        f"`{command}`, finished {time.strftime('%Y-%m-%d')}: {len(jobs)} runs on the easy mix, "
        f"seeds 0 to {len(seeds) - 1}, {max(job.steps for job in jobs)} steps each, the last "
        f"checkpoint; 320 held-out problems. {ran_on(jobs)}.",
    ]
    write_atomically(docs / "table2-pocket.md", "\n".join(text) + "\n")
    return [docs / "table2-pocket.md", picture]


def alike(near: Sequence[str], seeds: int) -> str:
    if seeds == 1:
        return "Of one seed there are no errors: nothing here tells two rows apart."
    return (
        f"Not distinguishable from the best, {near[0]}, over these seeds (the paired 95% interval "
        "of the difference contains 0, nothing adjusted): "
        f"{', '.join(near[1:]) or 'none'}. The order among these means little."
    )


HEAD = """# The paper's table on the pocket task

Made by `make table2-pocket`; not written by hand. Mean and standard error over seeds ({seeds} of
them), which all arms share; the warm-started policy is the same for all. Accuracy is avg@{samples}
on held-out problems at temperature 1 and at 0.4. Entropy (nats a token) and the none-solved
fraction are means over the last 10 steps. The last column is the mean paired difference of accuracy
at temperature 1 to GRPO, with its 95% t interval. **Bold** is the highest mean of a column,
<u>underlined</u> the second. `base` is the untrained policy, its entropy that of one batch.
"""


def markdown(table: Sequence[Line]) -> list[str]:
    ranked = {
        name: sorted(table, key=lambda line: -line.values[name][0])[:2]
        for name in list(MEASURES)[:2]
    }
    rows = ["| row | " + " | ".join(MEASURES) + " | to GRPO |", "|---" * (len(MEASURES) + 2) + "|"]
    for line in table:
        cells = []
        for name, (middle, error) in line.values.items():
            text = with_error(middle, error)
            top = [other.arm for other in ranked.get(name, [])]
            if line.arm in top:
                text = f"**{text}**" if line.arm == top[0] else f"<u>{text}</u>"
            cells.append(text)
        rows.append(f"| {line.arm} | " + " | ".join([*cells, in_words(line.to_grpo)]) + " |")
    return rows


def schedules(table: Sequence[Line]) -> list[str]:
    """The schedules beside the fixed betas that they start from."""
    ours = [line for line in table if line.arm in {arm.name for arm in SCHEDULED}]
    if not ours:
        return []
    rows = ["## Schedules beside fixed (0.9, 0.4)", "", "Same seeds, same start.", ""]
    rows += ["| schedule | accuracy, T = 1 | to asym | that is |", "|---|---|---|---|"]
    for line in ours:
        middle, error = line.values[HOT]
        c = line.to_asym
        word = "higher" if c.low > 0 else "lower" if c.high < 0 else "not distinguishable"
        rows.append(f"| {line.arm} | {with_error(middle, error)} | {in_words(c)} | {word} |")
    return [*rows, ""]


def with_error(middle: float, error: float) -> str:
    """Of one seed there is no error."""
    if not math.isfinite(middle):
        return "-"
    return f"{middle:.3f} ± {error:.3f}" if math.isfinite(error) else f"{middle:.3f}"


def in_words(contrast: Contrast) -> str:
    if contrast.mean == contrast.low == contrast.high == 0:
        return "-"
    if math.isnan(contrast.low):
        return f"{contrast.mean:+.3f}"
    return f"{contrast.mean:+.3f} ({contrast.low:+.3f} to {contrast.high:+.3f})"
