"""Assembles the page: run folders -> one HTML file, and its figures as PNG files beside it.

`runs` reads, `arms` and `curves` compute, `charts` chooses the figures,
`drawing` draws them, page.html is layout, style and the rollout reader. Everything from a run
folder is escaped, and the page's content security policy allows only its own script, so the text of
a rollout cannot run code. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from asymrl.errors import UserError, shorten
from asymrl.files import write_atomically
from asymrl.report.arms import (
    Arm,
    differing_settings,
    group_into_arms,
    longest_runs,
    method,
    model,
    table_columns,
    untrained_arm,
)
from asymrl.report.charts import FigureSection, draw_all
from asymrl.report.drawing import COLOURS
from asymrl.report.runs import (
    MAX_GROUPS,
    MAX_ROLLOUT_STEPS,
    MAX_ROLLOUTS,
    Run,
    gpu_memory,
    read_runs,
    sample_rollouts,
)

GPU_COLUMNS = ("reserved", "peak", "estimate", "free")


def write_report(
    folders: Sequence[Path], out: Path, names: Mapping[Path, str] | None = None
) -> list[str]:
    """Write the page to `out` and its figures to `figures/*.png` beside it, each atomically.

    names: run folder -> the name of its arm; by default arms are named after folders.

    Returns a sentence for each run folder that was skipped; the page has them too. UserError if a
    folder does not exist, no run can be read, `out` is not the name of an HTML file, or `out` or a
    figure cannot be written.
    """
    if os.path.isdir(out):  # Path.is_dir raises for names that no file system accepts
        raise UserError(f"--out {out} is a folder; expected the name of an HTML file")
    if out.suffix.lower() not in (".html", ".htm"):  # never overwrite a run's own file
        raise UserError(f"--out {out}: expected a name that ends in .html")
    runs, skipped = read_runs(folders)
    page, sections = build_page(runs, skipped, names or {})
    figures = out.parent / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
        for section in sections:
            for drawing in section.drawings:
                write_atomically(figures / f"{drawing.name}.png", drawing.png)
        write_atomically(out, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(
            f"--out {out}: the page or its figures in {figures} cannot be written "
            f"({error.strerror or error}); name a file in a writable folder"
        ) from None
    return skipped


def build_page(
    runs: Sequence[Run], skipped: Sequence[str], names: Mapping[Path, str]
) -> tuple[str, list[FigureSection]]:
    """The page as text, and its figures."""
    arms = group_into_arms(runs, names)
    sections, figure_notes = draw_all(arms)
    rollouts, rollout_notes = _rollouts(runs, arms)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["sha256"] = _sha256
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        headline=headline(arms),
        title=shorten(" · ".join(arm.label for arm in arms), 80),
        arms=arms,
        untrained=untrained_arm(arms),
        columns=table_columns(arms),
        num_looks=len(COLOURS),
        differences=differing_settings(arms),
        sections=sections,
        memory=_gpu_memory(arms),
        gpu_columns=GPU_COLUMNS,
        rollouts=rollouts,
        max_steps=MAX_ROLLOUT_STEPS,
        max_rollouts=MAX_ROLLOUTS,
        max_groups=max(MAX_GROUPS, len(runs)),
        file_of_run=_file_of_run,
        num_skipped=len(skipped),
        notes=[
            *(f"Skipped: {sentence}." for sentence in skipped),
            *(note for run in runs for note in run.notes),
            *_unequal_lengths(arms),
            *figure_notes,
            *rollout_notes,
        ],
    )
    return page, sections


def headline(arms: Sequence[Arm]) -> str:
    """One sentence: which methods, on which model, over how many steps and seeds."""
    models = list(dict.fromkeys(map(model, arms)))
    steps = sorted({run.rows[-1]["step"] for arm in arms for run in arm.runs})
    span = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    on = models[0] if len(models) == 1 else f"{len(models)} models"
    counts = sorted({len(arm.runs) for arm in arms})
    seeds = f", {' to '.join(map(str, counts[:: max(1, len(counts) - 1)]))} seeds each"
    names = [_with_method(arm) for arm in arms]
    if len(arms) == 1:
        what = f"One arm, {names[0]}," if counts[0] > 1 else f"One run, {names[0]},"
    elif len(arms) <= 4:
        what = f"{', '.join(names[:-1])} and {names[-1]} compared"
    else:
        methods = len(set(map(method, arms)))
        what = f"{len(arms)} arms of {methods} method{'s' * (methods > 1)} compared"
    length = f"over {span} {'step' if span == '1' else 'steps'} on {on}"
    return f"{what} {length}{seeds if counts[-1] > 1 else ''}."


def _with_method(arm: Arm) -> str:
    name, _, betas = method(arm).partition(" (")
    if arm.label == name:
        return method(arm)
    return f"{arm.label} ({name}{', ' + betas if betas else ')'}"


def _unequal_lengths(arms: Sequence[Arm]) -> list[str]:
    """A note for each run that is shorter than the longest run of its arm."""
    return [
        f"{run.label}: ends at step {run.rows[-1]['step']}, before other runs of its arm; the "
        "curves include its steps, the table's last values do not"
        for arm in arms
        for run in arm.runs
        if run not in longest_runs(arm)
    ]


def _rollouts(runs: Sequence[Run], arms: Sequence[Arm]) -> tuple[dict[str, Any], list[str]]:
    """The data of the page's rollout reader, and notes. A group's `run` is its index in `runs`."""
    look_of = {run.folder: i % len(COLOURS) for i, arm in enumerate(arms) for run in arm.runs}
    groups, notes = [], []
    for index, run in enumerate(runs):
        sample, sample_notes = sample_rollouts(run, max(1, MAX_GROUPS // len(runs)))
        groups += [{"run": index, **group} for group in sample]
        notes += sample_notes
    data = {
        "runs": [{"label": run.label, "look": look_of[run.folder]} for run in runs],
        "groups": sorted(groups, key=lambda group: (group["step"], group["draw"], group["run"])),
    }
    return data, notes


def _gpu_memory(arms: Sequence[Arm]) -> list[tuple[Arm, str, list[str]]]:
    """Rows of the page's table of GPU memory: an arm, a phase, and a text for each column."""
    return [
        (arm, phase, [f"{gib[what]:.1f}" if what in gib else "" for what in GPU_COLUMNS])
        for arm in arms
        for phase, gib in gpu_memory([row for run in arm.runs for row in run.rows]).items()
    ]


def _file_of_run(arm: Arm, name: str) -> str:
    """The text of a file in the folder of the arm's first run; empty if it cannot be read."""
    try:
        return (arm.runs[0].folder / name).read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _sha256(text: str) -> str:
    """The hash by which a content security policy allows a script."""
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
