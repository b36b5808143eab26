"""Arms: what is one arm, means and intervals over its seeds, curves over group accuracy."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from asymrl.report import charts
from asymrl.report.arms import Arm, Line, arms_of, curve, estimate, finished, kappa_hat, smooth
from asymrl.report.curves import curves, measured
from asymrl.report.drawing import STYLE, Chart, draw, draw_heat_map
from asymrl.report.runs import Run, read_runs, series
from tests.helpers.report_folders import FULL, config, step_row, write_run


def runs_in(folder: Path, **runs: dict[str, Any]) -> list[Run]:
    """A run by its name; `--` in a name is a folder's end."""
    return read_runs(
        [write_run(folder / name.replace("__", "/"), **given) for name, given in runs.items()]
    )[0]


def arm_with(folder: Path, **advantage: Any) -> Arm:
    (arm,) = arms_of(runs_in(folder, run={"config": config(**advantage)}))
    return arm


def test_runs_that_differ_only_in_seed_are_one_arm(tmp_path: Path) -> None:
    made = {f"a__seed{n}": {"config": config(seed=n)} for n in (0, 1)}
    other = {f"b__seed{n}": {"config": config(seed=n, beta_pos=0.5)} for n in (0, 1)}
    arms = arms_of(runs_in(tmp_path, **made, **other))
    assert [(arm.label, len(arm.runs)) for arm in arms] == [("a", 2), ("b", 2)]


def test_the_same_seed_twice_is_not_two_draws(tmp_path: Path) -> None:
    arms = arms_of(runs_in(tmp_path, one={}, two={}, three={"config": config(seed=4)}))
    assert [[run.label for run in arm.runs] for arm in arms] == [["one", "three"], ["two"]]
    assert [arm.label for arm in arms] == ["one and 1 more", "two"]


def test_a_curve_is_the_mean_of_smoothed_runs_with_one_standard_error(tmp_path: Path) -> None:
    rows = [[step_row(s, **{"reward/mean": r}) for s, r in enumerate(of)] for of in ([1, 0], [3])]
    made = {f"s{n}": {"rows": rows[n], "config": config(seed=n)} for n in (0, 1)}
    (arm,) = arms_of(runs_in(tmp_path, **made))
    line = curve(arm, lambda run: series(run, "reward/mean"), smoothed=True)
    assert line and list(line.x) == [0, 1]
    assert line.y == pytest.approx([2.0, 0.7])  # of 1 and 3; then of one run alone
    assert line.low == pytest.approx([1.0, 0.7]) and line.high == pytest.approx([3.0, 0.7])
    assert [run.label for run in finished(arm)] == ["s0"]


def test_an_estimate_is_the_t_interval_worked_by_hand() -> None:
    found = estimate([1.0, 2.0, 3.0, math.nan])  # s = 1, t(.975, 2) = 4.30265
    assert found and (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.30265 / math.sqrt(3), abs=1e-5)
    one = estimate([0.25])
    assert one and one.half is None and estimate([math.nan]) is None


def test_intervals_over_seeds_hold_the_truth_nearly_as_often_as_they_say() -> None:
    generator, held = np.random.default_rng(0), []
    for _ in range(3000):
        found = estimate(generator.normal(0.5, 0.1, 4).tolist())
        assert found and found.half
        held.append(abs(found.mean - 0.5) <= found.half)
    assert 0.935 <= sum(held) / len(held) <= 0.965


def test_the_moving_average_is_the_papers() -> None:
    assert smooth([1.0, 0.0, 2.0]) == pytest.approx([1.0, 0.7, 1.09], abs=1e-12)


def test_kappa_hat_is_the_mean_over_the_first_20_steps(tmp_path: Path) -> None:
    rows = [step_row(s, **{"diag/kappa": 1.0 if s <= 20 else 99.0}) for s in range(1, 40)]
    rows[4]["diag/kappa"] = None
    (run,) = runs_in(tmp_path, run={"rows": rows})
    assert kappa_hat(run) == 1.0


def at(line: Any, p: float) -> float:
    return next(y for x, y in zip(line.x, line.y, strict=True) if abs(x - p) < 1e-9)


@pytest.mark.parametrize(("pos", "neg"), [(0.9, 0.4), (0.5, 0.5), (0.1, 0.7)])
def test_masses_peak_where_proposition_2_says(tmp_path: Path, pos: float, neg: float) -> None:
    found = curves(arm_with(tmp_path, beta_pos=pos, beta_neg=neg))
    assert found
    peaks = {c: line.x[line.y.index(max(line.y))] for c, line in found.mass.items()}
    assert peaks["positive"] == pytest.approx(1 - pos, abs=0.006)
    assert peaks["negative"] == pytest.approx(neg, abs=0.006)


def test_advantage_curves_are_those_of_the_estimator_and_its_group_size(tmp_path: Path) -> None:
    grpo = curves(arm_with(tmp_path / "grpo", beta_pos=0.5, beta_neg=0.5))
    flip = curves(arm_with(tmp_path / "flip", name="ent_decrease", beta_pos=0.5, beta_neg=0.5))
    assert grpo and flip
    assert at(grpo.advantage["positive"], 0.125) == pytest.approx(math.sqrt(7))
    assert min(grpo.advantage["positive"].x) == 0.125  # no further: it has no end there
    assert at(grpo.advantage["positive"], 1.0) == at(grpo.advantage["negative"], 0.0) == 0
    assert at(flip.advantage["positive"], 1.0) == pytest.approx(3.559, abs=1e-3)  # of G = 8
    assert not [p for p in flip.advantage["positive"].x if 0.875 < p < 1]  # straight to that end
    assert at(flip.advantage["negative"], 0.5) == pytest.approx(-1)


def test_an_estimator_that_depends_on_group_size_is_drawn_at_its_own(tmp_path: Path) -> None:
    text = config().replace('{"name": "asym", "beta_pos": 0.7, "beta_neg": 0.3}', "{name: rloo}")
    found = curves(arms_of(runs_in(tmp_path, run={"config": text}))[0])
    assert found and list(found.advantage["positive"].x) == [k / 8 for k in range(1, 9)]
    assert at(found.advantage["positive"], 0.5) == pytest.approx(4 / 7)


def test_an_estimator_that_is_unknown_or_set_otherwise_has_no_curve(tmp_path: Path) -> None:
    assert curves(arm_with(tmp_path / "unknown", name="of_tomorrow")) is None
    assert curves(arm_with(tmp_path / "betas", name="rloo")) is None  # it takes no betas
    for i, beta in enumerate(("x", [1, 2], float("inf"), -9000.0, 9000.0)):
        assert curves(arm_with(tmp_path / str(i), beta_pos=beta)) is None


def test_measured_mass_is_pressure_by_share_of_groups(tmp_path: Path) -> None:
    rows = [step_row(s, **{"groups/accuracy/0.25": 0.25}) for s in (1, 2)]
    rows[1]["groups/accuracy/1.0"] = 0.25  # without pressure there
    (run,) = runs_in(tmp_path, run={"rows": rows})
    line = measured(Arm(label="run", runs=[run]), "positive")
    assert line and (list(line.x), list(line.y)) == ([0.25, 1.0], [0.75, 0.0])
    rows[0] |= {"groups/accuracy/x": 1.0, "pressure/positive/x": 1.0, "groups/accuracy/nan": 1.0}
    (odd,) = runs_in(tmp_path, odd={"rows": rows})
    line = measured(Arm(label="odd", runs=[odd]), "positive")
    assert line and list(line.x) == [0.25, 1.0]  # what is no accuracy is none
    (bare,) = runs_in(tmp_path, bare={"rows": [{"step": 1, "groups/accuracy/0.5": 1.0}]})
    assert measured(Arm(label="bare", runs=[bare]), "positive") is None


def grid(folder: Path, points: list[tuple[float, float]]) -> list[Arm]:
    rows = [{"step": 1, "eval/held/avg": 0.5}, {"step": 2, "eval/held/avg": 0.75}]
    return arms_of(
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


def test_a_grid_of_betas_is_a_heat_map_and_a_line_is_not(tmp_path: Path) -> None:
    square = grid(tmp_path / "square", [(0.1, 0.1), (0.1, 0.9), (0.9, 0.1), (0.9, 0.9)])
    sections, _ = charts.draw_all(square)
    (drawing,) = next(s.drawings for s in sections if s.title.startswith("Betas"))
    assert "p0.9n0.1 (0.9, 0.1): 0.750." in drawing.alt and drawing.svg.count(">0.750<") == 4
    line = grid(tmp_path / "line", [(0.1, 0.5), (0.5, 0.5), (0.9, 0.5)])
    diagonal = grid(tmp_path / "diagonal", [(0.1, 0.1), (0.5, 0.5), (0.9, 0.9)])
    for arms in (line, diagonal):
        assert not [title for title in titles(arms) if title.startswith("Betas")]


def test_of_curves_that_agree_the_dashed_one_lies_on_the_whole_one() -> None:
    """Else the later hides the earlier: arm 5 has a whole line, arms 1 to 4 have gaps in theirs."""
    line = Line(x=[0.0, 1.0], y=[0.0, 1.0])
    chart = Chart(name="c", title="", unit="", caption="", names=list("abcdef"), lines=[line] * 6)
    svg = draw(chart, (0, 1)).svg
    assert re.findall(r'data-arm="(\d)"', svg) == ["0", "5", "1", "2", "3", "4"]


def test_arms_with_the_same_curve_are_named_below_it(tmp_path: Path) -> None:
    made = {
        name: {"config": config(beta_pos=pos, beta_neg=neg)}
        for name, pos, neg in (("a", 0.5, 0.1), ("b", 0.5, 0.2), ("c", 0.7, 0.3))
    }
    sections, _ = charts.draw_all(arms_of(runs_in(tmp_path, **made)))
    said = {d.name: d.caption for s in sections for d in s.drawings}
    assert said["advantage_positive"].endswith(" One curve: a, b.")
    assert said["mass_positive"].endswith(" One curve: a, b.")
    assert not [n for n in said if n.endswith("negative") and "One curve" in said[n]]


def test_both_axes_are_labelled_in_every_drawing(tmp_path: Path) -> None:
    sections, _ = charts.draw_all(arms_of(runs_in(tmp_path, run={"rows": FULL})))
    drawings = [d for section in sections for d in section.drawings]
    over = {"step", "group accuracy p (fraction of rollouts right)", "time (seconds a step, mean)"}
    assert len(drawings) == 16
    for drawing in drawings:
        texts = set(re.findall(">([^<]+)</text>", drawing.svg))
        assert len(texts & over) == 1, drawing.name
        unit = drawing.alt.split(". ")[0].rsplit(", ", 1)[1]  # as it is told in words
        assert unit in texts or drawing.name == "phase_times"  # its bars have names and no axis


@pytest.mark.parametrize("scale", [1e-7, 1e-5, 0.01, 1e6])
def test_numbers_beside_an_axis_are_short_and_right(scale: float) -> None:
    line = Line(x=[0.0, 1.0], y=[-scale, scale])
    chart = Chart(name="c", title="", unit="", caption="", names=["a"], lines=[line])
    with matplotlib.rc_context(STYLE):
        texts = re.findall(r">([^<]*)</text>", draw(chart, (-scale, scale)).svg)
    near = [
        t.replace("\N{MINUS SIGN}", "-") for t in texts if t and t[0] in "\N{MINUS SIGN}0123456789"
    ]
    below = [t for t in near if t.startswith("-")]
    assert min(map(float, below)) == pytest.approx(-scale) and max(map(len, near)) <= 7


def test_a_name_in_letters_that_matplotlib_lacks_is_drawn_without_complaint(
    tmp_path: Path,
) -> None:
    name = "\N{CJK UNIFIED IDEOGRAPH-6570}" * 50
    sections, _ = charts.draw_all(arms_of(runs_in(tmp_path, **{name: {}})))
    assert all("\N{CJK UNIFIED IDEOGRAPH-6570}…" in d.svg for s in sections for d in s.drawings)


def test_flips_are_drawn_alone_where_there_are_other_arms(tmp_path: Path) -> None:
    half: dict[str, Any] = {"beta_pos": 0.5, "beta_neg": 0.5}
    made: dict[str, dict[str, Any]] = {
        "grpo": {"config": config(**half), "rows": FULL},
        "up": {"config": config(name="ent_increase", **half), "rows": FULL},
        "other": {"rows": FULL},
    }
    sections, _ = charts.draw_all(arms_of(runs_in(tmp_path, **made)))
    (flips,) = (s for s in sections if s.title.startswith("Flips"))
    assert [drawing.name for drawing in flips.drawings] == ["flips_entropy", "flips_accuracy_held"]
    assert all("grpo: " in d.alt and "other" not in d.alt for d in flips.drawings)
    assert all('data-arm="1"' in d.svg and 'data-arm="2"' not in d.svg for d in flips.drawings)


def test_what_differs_in_more_than_the_estimator_is_no_flip(tmp_path: Path) -> None:
    half: dict[str, Any] = {"beta_pos": 0.5, "beta_neg": 0.5}
    bonus = config(**half).replace("token_mean}", "token_mean, entropy_bonus: 0.05}")
    made: dict[str, dict[str, Any]] = {
        "bonus": {"config": bonus, "rows": FULL},
        "grpo": {"config": config(**half), "rows": FULL},
        "up": {"config": config(name="ent_increase", **half), "rows": FULL},
    }
    arms = arms_of(runs_in(tmp_path, **made))
    sections, _ = charts.draw_all(arms)
    (flips,) = (s for s in sections if s.title.startswith("Flips"))
    assert all("grpo: " in d.alt and "up: " in d.alt for d in flips.drawings)
    assert all("bonus" not in d.alt for d in flips.drawings)
    assert not [title for title in titles(arms[:1] + arms[2:]) if title.startswith("Flips")]


def test_a_heat_map_says_how_sure_a_cell_is(tmp_path: Path) -> None:
    made = {}
    for seed, last in ((0, 0.5), (1, 0.75)):  # standard error of the mean: 0.125
        for pos in (0.1, 0.9):
            for neg in (0.1, 0.9):
                made[f"p{pos}n{neg}__s{seed}"] = {
                    "rows": [{"step": 1, "eval/held/avg": last}],
                    "config": config(seed, beta_pos=pos, beta_neg=neg),
                }
    sections, _ = charts.draw_all(arms_of(runs_in(tmp_path, **made)))
    (drawing,) = next(s.drawings for s in sections if s.title.startswith("Betas"))
    assert drawing.svg.count(">0.625<") == 4 and "Over held. " in drawing.caption
    assert "Seeds a cell: 2. Standard error of a cell, root mean square over cells: 0.125." in (
        drawing.caption
    )


def test_numbers_in_a_heat_map_can_be_read() -> None:
    """Contrast of at least 4.5 (WCAG AA) on every shade between the least and the most."""
    cells = {(p / 10, n / 10): ("a", 10.0 * p + n) for p in range(10) for n in range(10)}
    with matplotlib.rc_context(STYLE):
        svg = draw_heat_map("h", "", "", "", cells).svg
    shades = re.findall(r"fill: (#\w+); stroke: var\(--paper\)", svg)
    inks = re.findall(r'fill: (#\w+)"[^>]*>\d+\.000<', svg)
    assert len(shades) == len(inks) == 100

    def light(code: str) -> float:
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.05 + 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [sorted((light(shade), light(ink))) for shade, ink in zip(shades, inks, strict=True)]
    assert min(high / low for low, high in pairs) >= 4.5


def test_betas_are_drawn_where_a_schedule_moves_them(tmp_path: Path) -> None:
    moved = [step_row(s, **{"advantage/beta_pos": 0.1 * s}) for s in (1, 2)]
    fixed = [step_row(s, **{"advantage/beta_pos": 0.5}) for s in (1, 2)]
    runs = runs_in(tmp_path, moved={"rows": moved}, fixed={"rows": fixed, "config": config(1)})
    arms = [Arm(label=run.label, runs=[run]) for run in runs]
    drawings = [d for s in charts.draw_all(arms)[0] for d in s.drawings]
    (betas,) = (drawing for drawing in drawings if drawing.name == "beta_pos")
    assert "moved: 0.1 at step 1, 0.2 at step 2." in betas.alt and "fixed" not in betas.alt
