"""Run folders -> one HTML page that opens offline, and PNG figures beside it.

    python -m asymrl.report RUN_DIR... [--out report.html]

A folder of runs stands for all runs below it. Runs that differ only in `seed` are one arm.

Knows how the page is put together and what its headline says. Reading is `report_runs` and
`report_rollouts`, arms and their numbers `report_arms`, the tables `report_tables`, which charts
`report_charts`, drawing `report_figures`, layout, style and the rollout reader `report.html`.
Everything that a model or a file name says is escaped, and the page's policy lets no script run but
its own, so a rollout can do nothing to its reader. Importing it loads neither torch nor
transformers.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from asymrl.errors import UserError, shorten
from asymrl.files import write_atomically
from asymrl.report.arms import (
    Arm,
    arms_of,
    differences,
    finished,
    method,
    model,
    table_head,
    table_row,
)
from asymrl.report.charts import Section, draw_all
from asymrl.report.drawing import COLOURS
from asymrl.report.runs import GROUPS, MOST_ROLLOUT_STEPS, ROLLOUTS, Run, read_runs, sample_rollouts


def write_report(runs: Sequence[Path], out: Path) -> list[str]:
    """Writes the page to `out` and its figures to `figures/*.png` beside it, each atomically.

    Returns a sentence for each run folder that could not be read; they are on the page too.
    UserError where a folder does not exist, where none is a readable run, and where `out` is no
    HTML file's name, or it or a figure cannot be written.
    """
    if os.path.isdir(out):  # Path.is_dir raises of names that no file can have
        raise UserError(f"--out {out} is a folder; the name of an HTML file is needed")
    if out.suffix.lower() not in (".html", ".htm"):  # it may be a run's own file
        raise UserError(f"--out {out} is not written: a name that ends in .html is needed")
    found, left_out = read_runs(runs)
    page, sections = build_page(found, left_out)
    figures = out.parent / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
        for section in sections:
            for drawing in section.drawings:
                write_atomically(figures / f"{drawing.name}.png", drawing.png)
        write_atomically(out, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(
            f"--out {out}: it, or its figures in {figures}, cannot be written "
            f"({error.strerror or error}); a place in a folder that can be written is needed"
        ) from None
    return left_out


def build_page(runs: Sequence[Run], left_out: Sequence[str]) -> tuple[str, list[Section]]:
    """The whole page as text, and the figures that are in it."""
    arms = arms_of(runs)
    sections, figure_notes = draw_all(arms)
    rollouts, rollout_notes = _rollouts(runs, arms)
    notes = [f"Left out: {sentence}." for sentence in left_out]
    notes += [note for run in runs for note in run.notes] + _behind(arms)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = _sha256
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        headline=headline(arms),
        title=shorten(" · ".join(arm.label for arm in arms), 80),
        columns=table_head(arms),
        rows=[table_row(arm, arms) | {"look": _look(i)} for i, arm in enumerate(arms)],
        differences=differences(arms),
        labels=[arm.label for arm in arms],
        num_looks=len(COLOURS),
        sections=sections,
        svg={d.name: Markup(d.svg) for section in sections for d in section.drawings},
        rollouts=_island(rollouts) if rollouts["groups"] else "",
        most_steps=MOST_ROLLOUT_STEPS,
        most_rollouts=ROLLOUTS,
        most_groups=max(GROUPS, len(runs)),
        provenance=[_provenance(arm) for arm in arms],
        left_out=len(left_out),
        notes=[*notes, *figure_notes, *rollout_notes],
    )
    return page, sections


def headline(arms: Sequence[Arm]) -> str:
    """One sentence: what is compared, on which model, for how long, with how many seeds."""
    models = list(dict.fromkeys(model(run) for arm in arms for run in arm.runs))
    steps = sorted({run.rows[-1]["step"] for arm in arms for run in arm.runs})
    span = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    on = models[0] if len(models) == 1 else f"{len(models)} models"
    counts = sorted({len(arm.runs) for arm in arms})
    seeds = f", {' to '.join(map(str, counts[:: max(1, len(counts) - 1)]))} seeds each"
    named = [_named(arm) for arm in arms]
    if len(arms) == 1:
        what = f"One arm, {named[0]}," if counts[0] > 1 else f"One run, {named[0]},"
    elif len(arms) <= 4:
        what = f"{', '.join(named[:-1])} and {named[-1]} compared"
    else:
        methods = len({method(arm.runs[0]) for arm in arms})
        what = f"{len(arms)} arms of {methods} method{'s' * (methods > 1)} compared"
    how_long = f"over {span} {'step' if span == '1' else 'steps'} on {on}"
    return f"{what} {how_long}{seeds if counts[-1] > 1 else ''}."


def _named(arm: Arm) -> str:
    name, _, betas = method(arm.runs[0]).partition(" (")
    if arm.label == name:
        return method(arm.runs[0])
    return f"{arm.label} ({name}{', ' + betas if betas else ')'}"


def _look(index: int) -> int:
    return index % len(COLOURS)


def _behind(arms: Sequence[Arm]) -> list[str]:
    """A note for every run that others of its arm have overtaken."""
    return [
        f"{run.label}: at step {run.rows[-1]['step']}, others of its arm further: in the curves as "
        "far as it goes, in no last value of the table"
        for arm in arms
        for run in arm.runs
        if run not in finished(arm)
    ]


def _rollouts(runs: Sequence[Run], arms: Sequence[Arm]) -> tuple[dict[str, Any], list[str]]:
    """What the page's reader reads, and notes. A group's `run` is its place in `runs`."""
    samples = [sample_rollouts(run, max(1, GROUPS // len(runs))) for run in runs]
    look_of = {run.folder: _look(i) for i, arm in enumerate(arms) for run in arm.runs}
    groups = [
        {"run": index, **group} for index, sample in enumerate(samples) for group in sample.groups
    ]
    data = {
        "runs": [{"label": run.label, "look": look_of[run.folder]} for run in runs],
        "groups": sorted(groups, key=lambda group: (group["step"], group["draw"], group["run"])),
    }
    return data, [note for sample in samples for note in sample.notes]


def _island(data: Any) -> Markup:
    """JSON inside a script element: with no < in it, nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _provenance(arm: Arm) -> dict[str, Any]:
    """Settings and environment of an arm's first run, and the folders of all."""
    run = arm.runs[0]
    return {
        "label": arm.label,
        "folders": [str(one.folder) for one in arm.runs],
        "settings": yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True),
        "environment": _environment(run),
    }


def _environment(run: Run) -> str:
    """environment.json, indented; as it stands where it is not JSON, empty where it is absent."""
    try:
        text = (run.folder / "environment.json").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _sha256(text: str) -> str:
    """What a content security policy calls a script by."""
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m asymrl.report", description="Run folders -> one HTML page and PNG figures."
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN_DIR", help="a run folder, or a folder of them"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page to write")
    given = parser.parse_args(arguments)
    try:
        left_out = write_report(given.runs, given.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    print(f"{given.out} written; its figures as PNG are in {given.out.parent / 'figures'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
