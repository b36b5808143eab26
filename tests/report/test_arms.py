"""Arms: which runs form one, means and errors over seeds, curves over group accuracy, charts."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from asymrl.report import charts
from asymrl.report.arms import (
    Arm,
    Curve,
    group_into_arms,
    longest_runs,
    metric_curve,
    moving_average,
)
from asymrl.report.curves import estimator_curves, measured_mass
from asymrl.report.drawing import Chart, draw, draw_heat_map
from asymrl.report.runs import Run, kappa_hat, read_runs, series
from tests.helpers.report_folders import FULL, config, step_row, write_run

pytestmark = pytest.mark.slow  # draws figures


def runs_in(folder: Path, **runs: dict[str, Any]) -> list[Run]:
    """Runs by name; `__` in a name separates folders."""
    return read_runs(
        [write_run(folder / name.replace("__", "/"), **given) for name, given in runs.items()]
    )[0]


def arm_with(folder: Path, **advantage: Any) -> Arm:
    (arm,) = group_into_arms(runs_in(folder, run={"config": config(**advantage)}))
    return arm


def test_runs_that_differ_only_in_seed_are_one_arm(tmp_path: Path) -> None:
    seeds = {f"a__seed{n}": {"config": config(seed=n)} for n in (0, 1)}
    other = {f"b__seed{n}": {"config": config(seed=n, beta_pos=0.5)} for n in (0, 1)}
    arms = group_into_arms(runs_in(tmp_path, **seeds, **other))
    assert [(arm.label, len(arm.runs)) for arm in arms] == [("a", 2), ("b", 2)]


def test_a_repeated_seed_starts_another_arm(tmp_path: Path) -> None:
    arms = group_into_arms(runs_in(tmp_path, one={}, two={}, three={"config": config(seed=4)}))
    assert [[run.label for run in arm.runs] for arm in arms] == [["one", "three"], ["two"]]
    assert [arm.label for arm in arms] == ["one and 1 more", "two"]


def test_a_curve_is_the_mean_of_smoothed_runs_with_one_standard_error(tmp_path: Path) -> None:
    rows = [
        [step_row(s, **{"reward/mean": r}) for s, r in enumerate(rewards)]
        for rewards in ([1, 0], [3])
    ]
    seeds = {f"s{n}": {"rows": rows[n], "config": config(seed=n)} for n in (0, 1)}
    (arm,) = group_into_arms(runs_in(tmp_path, **seeds))
    curve = metric_curve(arm, lambda run: series(run, "reward/mean"), smoothed=True)
    assert curve and list(curve.x) == [0, 1]
    assert curve.y == pytest.approx([2.0, 0.7])  # step 0 has 1 and 3, step 1 has one run
    assert curve.low == pytest.approx([1.0, 0.7]) and curve.high == pytest.approx([3.0, 0.7])
    assert [run.label for run in longest_runs(arm)] == ["s0"]


def test_the_moving_average_is_that_of_the_paper() -> None:
    assert moving_average([1.0, 0.0, 2.0]) == pytest.approx([1.0, 0.7, 1.09], abs=1e-12)


def test_kappa_hat_is_the_mean_over_the_first_20_steps(tmp_path: Path) -> None:
    rows = [step_row(s, **{"diag/kappa": 1.0 if s <= 20 else 99.0}) for s in range(1, 40)]
    rows[4]["diag/kappa"] = None
    (run,) = runs_in(tmp_path, run={"rows": rows})
    assert kappa_hat(run.rows) == 1.0


def at(curve: Curve, p: float) -> float:
    return next(y for x, y in zip(curve.x, curve.y, strict=True) if abs(x - p) < 1e-9)


@pytest.mark.parametrize(("pos", "neg"), [(0.9, 0.4), (0.5, 0.5), (0.1, 0.7)])
def test_masses_peak_where_proposition_2_predicts(tmp_path: Path, pos: float, neg: float) -> None:
    curves = estimator_curves(arm_with(tmp_path, beta_pos=pos, beta_neg=neg))
    assert curves
    peaks = {c: curve.x[curve.y.index(max(curve.y))] for c, curve in curves.mass.items()}
    assert peaks["positive"] == pytest.approx(1 - pos, abs=0.006)
    assert peaks["negative"] == pytest.approx(neg, abs=0.006)


def test_advantage_curves_are_those_of_the_estimator_at_its_group_size(tmp_path: Path) -> None:
    grpo = estimator_curves(arm_with(tmp_path / "grpo", beta_pos=0.5, beta_neg=0.5))
    flip = estimator_curves(
        arm_with(tmp_path / "flip", name="ent_decrease", beta_pos=0.5, beta_neg=0.5)
    )
    assert grpo and flip
    assert at(grpo.advantage["positive"], 0.125) == pytest.approx(math.sqrt(7))
    assert min(grpo.advantage["positive"].x) == 0.125  # the channel has no value at p = 0
    assert at(grpo.advantage["positive"], 1.0) == at(grpo.advantage["negative"], 0.0) == 0
    assert at(flip.advantage["positive"], 1.0) == pytest.approx(3.559, abs=1e-3)  # for G = 8
    assert not [
        p for p in flip.advantage["positive"].x if 0.875 < p < 1
    ]  # a straight line to that end
    assert at(flip.advantage["negative"], 0.5) == pytest.approx(-1)


def test_an_estimator_that_depends_on_group_size_is_drawn_at_its_own(tmp_path: Path) -> None:
    text = config().replace('{"name": "asym", "beta_pos": 0.7, "beta_neg": 0.3}', "{name: rloo}")
    curves = estimator_curves(group_into_arms(runs_in(tmp_path, run={"config": text}))[0])
    assert curves and list(curves.advantage["positive"].x) == [k / 8 for k in range(1, 9)]
    assert at(curves.advantage["positive"], 0.5) == pytest.approx(4 / 7)


def test_an_unknown_estimator_or_one_with_wrong_settings_has_no_curve(tmp_path: Path) -> None:
    assert estimator_curves(arm_with(tmp_path / "unknown", name="of_tomorrow")) is None
    assert estimator_curves(arm_with(tmp_path / "betas", name="rloo")) is None  # takes no betas
    for i, beta in enumerate(("x", [1, 2], float("inf"), -9000.0, 9000.0)):
        assert estimator_curves(arm_with(tmp_path / str(i), beta_pos=beta)) is None


def test_measured_mass_is_pressure_over_the_fraction_of_groups(tmp_path: Path) -> None:
    rows = [step_row(s, **{"groups/accuracy/0.25": 0.25}) for s in (1, 2)]
    rows[1]["groups/accuracy/1.0"] = 0.25  # no pressure at p = 1
    (run,) = runs_in(tmp_path, run={"rows": rows})
    curve = measured_mass(Arm(label="run", runs=[run]), "positive")
    assert curve and (list(curve.x), list(curve.y)) == ([0.25, 1.0], [0.75, 0.0])
    rows[0] |= {"groups/accuracy/x": 1.0, "pressure/positive/x": 1.0, "groups/accuracy/nan": 1.0}
    (odd,) = runs_in(tmp_path, odd={"rows": rows})
    curve = measured_mass(Arm(label="odd", runs=[odd]), "positive")
    assert curve and list(curve.x) == [0.25, 1.0]  # names that are not accuracies are ignored
    (bare,) = runs_in(tmp_path, bare={"rows": [{"step": 1, "groups/accuracy/0.5": 1.0}]})
    assert measured_mass(Arm(label="bare", runs=[bare]), "positive") is None


def grid(folder: Path, points: list[tuple[float, float]]) -> list[Arm]:
    rows = [{"step": 1, "eval/held/greedy/avg": 0.5}, {"step": 2, "eval/held/greedy/avg": 0.75}]
    return group_into_arms(
        runs_in(
            folder,
            **{
                f"p{pos}n{neg}": {"rows": rows, "config": config(beta_pos=pos, beta_neg=neg)}
                for pos, neg in points
            },
        )
    )


def titles(arms: list[Arm]) -> list[str]:
    return [section.title for section in charts.draw_all(arms)[0]]


def test_a_grid_of_betas_has_a_heat_map_and_a_line_of_them_has_none(tmp_path: Path) -> None:
    square = grid(tmp_path / "square", [(0.1, 0.1), (0.1, 0.9), (0.9, 0.1), (0.9, 0.9)])
    sections, _ = charts.draw_all(square)
    (drawing,) = next(s.drawings for s in sections if s.title.startswith("Betas"))
    assert "p0.9n0.1 (0.9, 0.1): 0.750." in drawing.alt and drawing.svg.count(">0.750<") == 4
    line = grid(tmp_path / "line", [(0.1, 0.5), (0.5, 0.5), (0.9, 0.5)])
    diagonal = grid(tmp_path / "diagonal", [(0.1, 0.1), (0.5, 0.5), (0.9, 0.9)])
    for arms in (line, diagonal):
        assert not [title for title in titles(arms) if title.startswith("Betas")]


def chart_of(labels: str, curve: Curve) -> Chart:
    """One line for each letter, all with the same curve."""
    curves = dict.fromkeys(range(len(labels)), curve)
    return Chart(name="c", title="", unit="", caption="", labels=list(labels), curves=curves)


def test_dashed_curves_are_drawn_over_solid_ones() -> None:
    """Otherwise arm 5, which is solid, would hide arms 1 to 4, which are dashed."""
    curve = Curve(x=[0.0, 1.0], y=[0.0, 1.0])
    svg = draw(chart_of("abcdef", curve), (0, 1)).svg
    assert re.findall(r'data-arm="(\d)"', svg) == ["0", "5", "1", "2", "3", "4"]


def test_the_caption_names_arms_with_the_same_curve(tmp_path: Path) -> None:
    runs = {
        name: {"config": config(beta_pos=pos, beta_neg=neg)}
        for name, pos, neg in (("a", 0.5, 0.1), ("b", 0.5, 0.2), ("c", 0.7, 0.3))
    }
    sections, _ = charts.draw_all(group_into_arms(runs_in(tmp_path, **runs)))
    captions = {d.name: d.caption for s in sections for d in s.drawings}
    assert captions["advantage_positive"].endswith(" Same curve: a, b.")
    assert captions["mass_positive"].endswith(" Same curve: a, b.")
    assert not [n for n in captions if n.endswith("negative") and "Same curve" in captions[n]]


def test_both_axes_are_labelled_in_every_drawing(tmp_path: Path) -> None:
    sections, _ = charts.draw_all(group_into_arms(runs_in(tmp_path, run={"rows": FULL})))
    drawings = [d for section in sections for d in section.drawings]
    over = {
        "step",
        "group accuracy p (fraction of rollouts correct)",
        "time (seconds per step, mean)",
    }
    assert len(drawings) == 16
    for drawing in drawings:
        texts = set(re.findall(">([^<]+)</text>", drawing.svg))
        assert len(texts & over) == 1, drawing.name
        unit = drawing.alt.split(". ")[0].rsplit(", ", 1)[1]  # the end of the first sentence
        assert unit in texts or drawing.name == "phase_times"  # its bars have names and no y axis


@pytest.mark.parametrize("scale", [1e-7, 1e-5, 0.01, 1e6])
def test_numbers_beside_an_axis_are_short_and_correct(scale: float) -> None:
    curve = Curve(x=[0.0, 1.0], y=[-scale, scale])
    texts = re.findall(r">([^<]*)</text>", draw(chart_of("a", curve), (-scale, scale)).svg)
    numbers = [
        t.replace("\N{MINUS SIGN}", "-") for t in texts if t and t[0] in "\N{MINUS SIGN}0123456789"
    ]
    negative = [t for t in numbers if t.startswith("-")]
    assert min(map(float, negative)) == pytest.approx(-scale) and max(map(len, numbers)) <= 7


def test_a_name_in_characters_that_the_font_lacks_is_drawn_without_a_warning(
    tmp_path: Path,
) -> None:
    name = "\N{CJK UNIFIED IDEOGRAPH-6570}" * 50
    sections, _ = charts.draw_all(group_into_arms(runs_in(tmp_path, **{name: {}})))
    assert all("\N{CJK UNIFIED IDEOGRAPH-6570}…" in d.svg for s in sections for d in s.drawings)


def test_flips_have_figures_of_their_own_beside_other_arms(tmp_path: Path) -> None:
    half: dict[str, Any] = {"beta_pos": 0.5, "beta_neg": 0.5}
    runs: dict[str, dict[str, Any]] = {
        "grpo": {"config": config(**half), "rows": FULL},
        "up": {"config": config(name="ent_increase", **half), "rows": FULL},
        "other": {"rows": FULL},
    }
    sections, _ = charts.draw_all(group_into_arms(runs_in(tmp_path, **runs)))
    (flips,) = (s for s in sections if s.title.startswith("Flips"))
    assert [drawing.name for drawing in flips.drawings] == [
        "flips_entropy",
        "flips_accuracy_held_greedy",
    ]
    assert all("grpo: " in d.alt and "other" not in d.alt for d in flips.drawings)
    assert all('data-arm="1"' in d.svg and 'data-arm="2"' not in d.svg for d in flips.drawings)


def test_an_arm_that_differs_in_more_than_the_estimator_is_not_a_flip(tmp_path: Path) -> None:
    half: dict[str, Any] = {"beta_pos": 0.5, "beta_neg": 0.5}
    bonus = config(**half).replace("token_mean}", "token_mean, entropy_bonus: 0.05}")
    runs: dict[str, dict[str, Any]] = {
        "bonus": {"config": bonus, "rows": FULL},
        "grpo": {"config": config(**half), "rows": FULL},
        "up": {"config": config(name="ent_increase", **half), "rows": FULL},
    }
    arms = group_into_arms(runs_in(tmp_path, **runs))
    sections, _ = charts.draw_all(arms)
    (flips,) = (s for s in sections if s.title.startswith("Flips"))
    assert all("grpo: " in d.alt and "up: " in d.alt for d in flips.drawings)
    assert all("bonus" not in d.alt for d in flips.drawings)
    assert not [title for title in titles(arms[:1] + arms[2:]) if title.startswith("Flips")]


def test_a_heat_map_has_the_standard_error_of_its_cells(tmp_path: Path) -> None:
    runs = {}
    for seed, last in ((0, 0.5), (1, 0.75)):  # standard error of the mean: 0.125
        for pos in (0.1, 0.9):
            for neg in (0.1, 0.9):
                runs[f"p{pos}n{neg}__s{seed}"] = {
                    "rows": [{"step": 1, "eval/held/greedy/avg": last}],
                    "config": config(seed, beta_pos=pos, beta_neg=neg),
                }
    sections, _ = charts.draw_all(group_into_arms(runs_in(tmp_path, **runs)))
    (drawing,) = next(s.drawings for s in sections if s.title.startswith("Betas"))
    assert drawing.svg.count(">0.625<") == 4 and "Over held. " in drawing.caption
    assert "Seeds per cell: 2. Standard error of a cell, root mean square over cells: 0.125." in (
        drawing.caption
    )


def test_numbers_in_a_heat_map_are_readable() -> None:
    """Their contrast is at least 4.5 (WCAG AA) on every shade from the lowest to the highest."""
    cells = {(p / 10, n / 10): ("a", 10.0 * p + n) for p in range(10) for n in range(10)}
    svg = draw_heat_map("h", "", "", "", cells).svg
    shades = re.findall(r"fill: (#\w+); stroke: var\(--paper\)", svg)
    inks = re.findall(r'fill: (#\w+)"[^>]*>\d+\.000<', svg)
    assert len(shades) == len(inks) == 100

    def luminance(code: str) -> float:
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.05 + 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [
        sorted((luminance(shade), luminance(ink))) for shade, ink in zip(shades, inks, strict=True)
    ]
    assert min(high / low for low, high in pairs) >= 4.5


def test_betas_are_drawn_if_a_schedule_changes_them(tmp_path: Path) -> None:
    moved = [step_row(s, **{"advantage/beta_pos": 0.1 * s}) for s in (1, 2)]
    fixed = [step_row(s, **{"advantage/beta_pos": 0.5}) for s in (1, 2)]
    runs = runs_in(tmp_path, moved={"rows": moved}, fixed={"rows": fixed, "config": config(1)})
    arms = [Arm(label=run.label, runs=[run]) for run in runs]
    drawings = [d for s in charts.draw_all(arms)[0] for d in s.drawings]
    (betas,) = (drawing for drawing in drawings if drawing.name == "beta_pos")
    assert "moved: 0.1 at step 1, 0.2 at step 2." in betas.alt and "fixed" not in betas.alt
