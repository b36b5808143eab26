"""A whole sweep: real runs of a tiny policy in a real worker process."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from asymrl.sweep.__main__ import main
from asymrl.sweep.plan import folder_name
from tests.helpers.runs import run, same_weights

Sweep = tuple[Path, Path, int, str, str]
GOOD = ("verifier.name=exact", "checkpoint.every=1", "steps=2")


@pytest.fixture(scope="module")
def sweep(config_file: Path, model_folder: Path, tmp_path_factory) -> Sweep:
    """OUT, the folder of the first arm, exit code and output of two arms x two seeds. The first arm
    has finished seed 0 and was interrupted after one step of seed 1; the second arm fails."""
    out = tmp_path_factory.mktemp("sweep")
    arm = out / folder_name(f"path={model_folder}")
    run(config_file, arm / "seed-0", *GOOD)
    run(config_file, arm / "seed-1", *GOOD, "seed=1", "steps=1")
    words = [*GOOD, f"model.path={model_folder},nowhere", "--seeds", "2", "--jobs", "1"]
    with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
        code = main([str(config_file), *words, "--out", str(out)])
    return out, arm, code, stdout.getvalue(), stderr.getvalue()


def test_a_failed_run_is_named_at_the_end_and_the_others_finish(sweep: Sweep) -> None:
    out, _, code, stdout, stderr = sweep
    *named, last = stderr.splitlines()
    assert code == 1
    assert [line.split(": ")[:2] for line in named] == [
        ["failed", str(out / "path=nowhere" / f"seed-{seed}")] for seed in (0, 1)
    ]
    assert all("nowhere" in line and "train.log" in line for line in named)
    assert last.startswith("error: 2 of 4 runs failed")
    assert "2 combinations x 2 seeds, 1 of 4 runs already finished; 1 at a time" in stdout
    assert "± one standard error over seeds" in stdout


def test_a_finished_run_is_skipped_and_an_interrupted_one_resumes(sweep: Sweep) -> None:
    starts = [
        len(json.loads((sweep[1] / f"seed-{seed}" / "environment.json").read_text()))
        for seed in (0, 1)
    ]
    assert starts == [1, 2]


def test_a_run_equals_that_of_train_py(sweep: Sweep, config_file: Path, tmp_path: Path) -> None:
    whole = run(config_file, tmp_path / "run", *GOOD, "seed=1")
    assert same_weights(whole, sweep[1] / "seed-1")


def test_a_longer_run_is_a_mistake_before_any_run(sweep: Sweep, config_file: Path, capsys) -> None:
    words = [*GOOD[:2], "steps=1,2", "--seeds", "1", "--out", str(sweep[0])]
    (sweep[0] / "steps=1").mkdir()
    (sweep[0] / "steps=1" / "seed-0").symlink_to(sweep[1] / "seed-0")
    assert main([str(config_file), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{sweep[0] / 'steps=1' / 'seed-0'} is at step 2, longer than steps = 1" in line
    assert "use steps=2 or another --out" in line and not (sweep[0] / "steps=2").exists()


def test_report_and_tables_have_the_runs_that_finished(sweep: Sweep, model_folder: Path) -> None:
    page = (sweep[0] / "report.html").read_text()
    assert f">path={model_folder}<" in page and "path=nowhere" not in page
    for name in ("results.csv", "results.md", "results.tex"):
        text = (sweep[0] / name).read_text()
        assert "untrained" in text and "nowhere" not in text
