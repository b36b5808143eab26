"""Run folders -> one HTML page that opens offline, and PNG figures beside it.

    python -m asymrl.report RUN_DIR... [--out report.html]

Knows what the page says: headline, tables, which rollouts stand side by side. Reading is
`report_runs`, drawing `report_figures`, layout and style `report.html`. Everything that a model or
a file name says is escaped, and the page's policy lets no script run but its own, so a rollout can
do nothing to its reader. Loads neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from asymrl.files import write_atomically
from asymrl.report_figures import COLOURS, Drawing, draw_charts, shortened
from asymrl.report_runs import (
    Run,
    Series,
    benchmarks,
    minutes,
    number,
    read_runs,
    sample_rollouts,
    series,
    setting,
)
from asymrl.types import UserError

PROBLEMS = 24  # shared among the runs at each saved step, so that a page of 30 runs stays light
NONE, MINUS, SPACE = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Writes the page to `out` and its figures to `figures/*.png` beside it, each atomically.

    UserError where a folder is no run, a file in it is damaged, or `out` cannot be a file.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; the name of an HTML file is needed")
    page, drawings = build_page(read_runs(runs))
    figures = out.parent / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {out}: {figures} cannot be made ({error.strerror}); "
            "a place in a folder that can be written is needed"
        ) from None
    for drawing in drawings:
        write_atomically(figures / f"{drawing.name}.png", drawing.png)
    write_atomically(out, page.encode("utf-8", errors="replace"))


def build_page(runs: Sequence[Run]) -> tuple[str, list[Drawing]]:
    """The whole page as text, and the figures that are in it."""
    drawings, figure_notes = draw_charts(runs)
    reader, reader_notes = _reader(runs)
    run_notes = [note for run in runs for note in run.notes]
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = _sha256
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        headline=headline(runs),
        title=shortened(" · ".join(run.label for run in runs), 80),
        columns=_table_head(runs),
        rows=[_table_row(run, index, benchmarks(runs)) for index, run in enumerate(runs)],
        differences=differences(runs),
        labels=[run.label for run in runs],
        figures=[(drawing, Markup(drawing.svg)) for drawing in drawings],
        reader=reader,
        provenance=[(run.label, _as_yaml(run.config), _environment(run)) for run in runs],
        notes=[*run_notes, *figure_notes, *reader_notes],
    )
    return page, drawings


def headline(runs: Sequence[Run]) -> str:
    """One sentence: what is compared, on which model, for how long."""
    models = list(dict.fromkeys(_model(run) for run in runs))
    steps = sorted({run.rows[-1]["step"] for run in runs})
    span = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    on = models[0] if len(models) == 1 else f"{len(models)} models"
    if len(runs) == 1:
        what = f"One run, {_named(runs[0])},"
    elif len(runs) <= 4:
        named = [_named(run) for run in runs]
        what = f"{', '.join(named[:-1])} and {named[-1]} compared"
    else:
        methods = len({method(run) for run in runs})
        what = f"{len(runs)} runs of {methods} method{'s' * (methods > 1)} compared"
    return f"{what} over {span} {'step' if span == '1' else 'steps'} on {on}."


def method(run: Run) -> str:
    """The estimator's name and its betas where the config has them: `asym (β+ 0.7, β- 0.3)`."""
    betas = [
        f"{sign}{SPACE}{setting(run, key)}"
        for sign, key in (("β+", "advantage.beta_pos"), (f"β{MINUS}", "advantage.beta_neg"))
        if setting(run, key) is not None
    ]
    name = str(setting(run, "advantage.name") or "unknown method")
    return f"{name} ({', '.join(betas)})" if betas else name


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all runs: dotted key, its value in each run."""
    flat = [_flat(run.config) for run in runs]
    keys = sorted({key for settings in flat for key in settings})
    table = [(key, [settings.get(key, NONE) for settings in flat]) for key in keys]
    return [(key, given) for key, given in table if len(set(given)) > 1]


def _named(run: Run) -> str:
    name, _, betas = method(run).partition(" (")
    if run.label == name:
        return method(run)
    return f"{run.label} ({name}{', ' + betas if betas else ')'}"


def _model(run: Run) -> str:
    return shortened(str(setting(run, "model.path") or "an unnamed model"), 48)


def _table_head(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(name, unit) of each column after the run's own."""
    names = benchmarks(runs)
    held_out = [
        column
        for name in names
        for column in (
            (f"Held-out {name}", "accuracy, fraction"),
            ("Gain", "fraction" if len(names) == 1 else f"{name}, fraction"),
        )
    ]
    return [
        ("Method", ""),
        *held_out,
        ("Reward", "mean, fraction"),
        ("Entropy", "nats a token"),
        ("Steps", "done"),
        ("Time", "minutes"),
        ("Seed", ""),
        ("Model", ""),
    ]


def _table_row(run: Run, index: int, names: Sequence[str]) -> dict[str, Any]:
    """A run's cells, each (text, small print)."""
    done, planned, seed = run.rows[-1]["step"], setting(run, "steps"), setting(run, "seed")
    curves = [series(run, f"eval/{name}/avg") for name in names]
    cells = [
        (method(run), ""),
        *(cell for curve in curves for cell in (_from_to(curve), _gain(curve))),
        *(_from_to(series(run, metric)) for metric in ("reward/mean", "policy/entropy")),
        (str(done), f"of {planned}" if number(planned) not in (None, done) else ""),
        (f"{minutes(run):.1f}" if minutes(run) else NONE, ""),
        (NONE if seed is None else str(seed), ""),
        (_model(run), ""),
    ]
    return {"label": run.label, "look": index % len(COLOURS), "cells": cells}


def _from_to(curve: Series) -> tuple[str, str]:
    """`first → last`, each with its standard error if there is one; the steps as small print."""
    if not curve.values:
        return NONE, ""
    errors = [f" ± {error:.3f}" for error in curve.errors] or [""] * len(curve.values)
    first, last = (f"{curve.values[i]:.3f}{errors[i]}" for i in (0, -1))
    if len(curve.values) == 1:
        return first, f"step {curve.steps[0]}"
    return f"{first} → {last}", f"steps {curve.steps[0]} → {curve.steps[-1]}"


def _gain(curve: Series) -> tuple[str, str]:
    """Last minus first. No error: the two evaluations share problems, so theirs do not add up."""
    if len(curve.values) < 2:
        return NONE, ""
    return f"{curve.values[-1] - curve.values[0]:+.3f}".replace("-", MINUS), ""


def _reader(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rollouts to read: for the first and the last saved step a column a run, and notes."""
    parts: dict[str, list[dict[str, Any]]] = {"first": [], "last": []}
    notes: list[str] = []
    for index, run in enumerate(runs):
        samples, said = sample_rollouts(run, min(6, max(2, PROBLEMS // len(runs))))
        notes += said
        for when, sample in zip(("first", "last"), samples, strict=False):
            look = index % len(COLOURS)
            parts[when].append({"label": run.label, "look": look, "sample": sample})
    return [{"when": when, "columns": columns} for when, columns in parts.items() if columns], notes


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, given in settings.items():
        if isinstance(given, Mapping):
            flat |= _flat(given, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = shortened(str(given), 60)
    return flat


def _as_yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def _environment(run: Run) -> str:
    """environment.json, indented; as it stands where it is not JSON, empty where it is absent."""
    file = run.folder / "environment.json"
    if not file.is_file():
        return ""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _sha256(text: str) -> str:
    """What a content security policy calls a script by."""
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m asymrl.report", description="Run folders -> one HTML page and PNG figures."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="a run folder")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page to write")
    given = parser.parse_args(arguments)
    try:
        write_report(given.runs, given.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.out} written; its figures as PNG are in {given.out.parent / 'figures'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
