"""The tables of a sweep, from run folders with made-up numbers."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from asymrl.errors import UserError
from asymrl.sweep.plan import Run, make_arms, make_runs
from asymrl.sweep.results import check_results, collect, name_of_start, write_results
from tests.helpers.report_folders import config, evaluation, step_row, write_run


def sweep(folder: Path, lasts: dict[tuple[str, int], float]) -> list[Run]:
    """Finished runs of beta_pos 0.9 and 0.5. lasts: (beta_pos, seed) -> last accuracy."""
    arms = make_arms("pocket", ["advantage.beta_pos=0.9,0.5"], None)
    runs = make_runs("pocket", arms, 3, folder, [])
    for run in runs:
        beta = run.arm.settings["advantage.beta_pos"]
        if (beta, run.seed) in lasts:
            last = step_row(1) | evaluation(1, lasts[beta, run.seed])
            rows = [evaluation(0, (1 + run.seed) / 8), last]
            write_run(run.folder, rows, config=config(run.seed, beta_pos=float(beta)))
    return [run for run in runs if run.folder.exists()]


LASTS = {("0.9", 0): 0.5, ("0.9", 1): 0.75, ("0.9", 2): 1.0, ("0.5", 0): 0.25}


def squeezed(text: str) -> list[str]:
    return [re.sub(" +", " ", line) for line in text.splitlines()]


def test_the_tables_have_means_and_standard_errors_over_seeds(tmp_path: Path) -> None:
    """.5, .75, 1: mean .75, s / sqrt(3) = .1443; untrained .125, .25, .375: half of that."""
    files = write_results(sweep(tmp_path, LASTS), tmp_path)
    assert [file.name for file in files] == ["results.csv", "results.md", "results.tex"]
    lines = squeezed((tmp_path / "results.md").read_text())
    assert lines[2:5] == [
        "| untrained | 25.00 ± 7.22 | 3 |",
        "| beta_pos=0.9 | 75.00 ± 14.43 | 3 |",
        "| beta_pos=0.5 | 25.00 | 1 |",
    ]
    tex = (tmp_path / "results.tex").read_text()
    assert r"beta\_pos=0.9 & $75.00 \pm 14.43$ & $3$ \\" in tex
    for text in (lines[-1], tex):
        assert "standard error over seeds" in " ".join(text.split())


def test_results_of_other_arms_or_more_seeds_are_not_replaced(tmp_path: Path) -> None:
    runs = sweep(tmp_path, LASTS)
    write_results(runs, tmp_path)
    check_results(runs, tmp_path)
    with pytest.raises(UserError, match=r"results\.csv has .* of beta_pos=0\.5, which this one"):
        check_results([run for run in runs if run.arm.name == "beta_pos=0.9"], tmp_path)
    with pytest.raises(UserError, match=r"results\.csv has .* of seed_1, seed_2, which this one"):
        check_results([run for run in runs if run.seed == 0], tmp_path)


def test_the_csv_has_every_seed(tmp_path: Path) -> None:
    write_results(sweep(tmp_path, LASTS), tmp_path)
    with (tmp_path / "results.csv").open() as file:
        untrained, first, second = csv.DictReader(file)
    assert first == {
        "arm": "beta_pos=0.9",
        "advantage.beta_pos": "0.9",
        "benchmark": "held",
        "sampling": "greedy",
        "accuracy": "0.75",
        "stderr_over_seeds": "0.144338",
        "seeds": "3",
        "seed_0": "0.5",
        "seed_1": "0.75",
        "seed_2": "1.0",
    }
    assert untrained["advantage.beta_pos"] == "" and untrained["accuracy"] == "0.25"
    assert second["stderr_over_seeds"] == second["seed_1"] == ""


def test_runs_without_evaluations_have_no_tables(tmp_path: Path) -> None:
    runs = sweep(tmp_path, {("0.9", 0): 0.5})
    (tmp_path / "beta_pos=0.9" / "seed-0" / "metrics.jsonl").write_text('{"step": 1}\n')
    assert write_results(runs, tmp_path) == [] and not (tmp_path / "results.csv").exists()


def test_what_changes_the_untrained_policy_gives_it_another_row() -> None:
    arms = make_arms("pocket", ["rollout.max_tokens=8,16", "optim.lr=1e-3,1e-4"], None)
    names = [name_of_start(arm) for arm in arms]
    assert names == [f"untrained, rollout.max_tokens={n}" for n in (8, 8, 16, 16)]


def test_a_damaged_run_is_left_out(tmp_path: Path) -> None:
    runs = sweep(tmp_path, LASTS)
    (runs[0].folder / "metrics.jsonl").unlink()
    seeds = {row.name: row.scores["held, greedy"].keys() for row in collect(runs)}
    assert seeds == {"untrained": {0, 1, 2}, "beta_pos=0.9": {1, 2}, "beta_pos=0.5": {0}}
