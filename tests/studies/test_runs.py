"""Executing studies: real runs of a tiny policy in real worker processes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from asymrl.config.load import dump_config, load_config
from asymrl.errors import UserError
from asymrl.run import workers
from studies import runs
from studies.jobs import Arm, Job, folder_of
from studies.results import Result, evaluation_folder, find_results, read_run


def make_jobs(config_file: Path, *arms: tuple[str, ...]) -> list[Job]:
    """One job for each tuple of overrides, on a problem file with an absolute path."""
    data = config_file.parent / "problems.jsonl"
    fixed = (f"data.train={data}", "verifier.name=exact", "seed=0", "steps=2")
    return [
        Job(
            task="pocket",
            arm=Arm(name=f"arm{n}", row="grpo"),
            seed=0,
            config=str(config_file),
            overrides=(*fixed, *overrides),
            settings=f"settings{n}",
            benchmark=str(data),
        )
        for n, overrides in enumerate(arms)
    ]


def reproducible(result: Result) -> dict:
    """What does not depend on the arm's name or on wall time."""
    return {**asdict(result), "arm": "", "settings": "", "seconds": 0}


@pytest.fixture(scope="module")
def study(config_file: Path, tmp_path_factory) -> tuple[list[Job], list[workers.Failure], Path]:
    """Four runs in one worker: the third fails before it starts, the fourth repeats the first."""
    out = tmp_path_factory.mktemp("study")
    jobs = make_jobs(config_file, (), ("advantage.beta_pos=0.1",), ("model.path=nowhere",), ())
    return jobs, runs.run_all(jobs, 1, out, out), out


def test_a_failed_run_is_reported_with_the_last_line_of_its_log_and_others_continue(study) -> None:
    jobs, failures, out = study
    assert [failure.task.name for failure in failures] == ["pocket/arm2/seed-0"]
    assert failures[0].reason.startswith("error: ") and "nowhere" in failures[0].reason
    assert [*find_results(jobs, out)] == [jobs[0], jobs[1], jobs[3]]


def test_a_run_in_a_reused_worker_equals_one_in_a_new_worker(study) -> None:
    jobs, _, out = study
    found = find_results(jobs, out)
    assert reproducible(found[jobs[0]]) == reproducible(found[jobs[3]])
    assert reproducible(found[jobs[0]]) != reproducible(found[jobs[1]])


def test_a_result_has_the_metrics_and_evaluations_of_its_run(study) -> None:
    jobs, _, out = study
    job, result = jobs[0], find_results(jobs, out)[jobs[0]]
    lines = (folder_of(job, out) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [*result.greedy] == [str(r["step"]) for r in rows if "eval/problems/greedy/avg" in r]
    mean = sum(row["policy/entropy"] for row in rows[1:]) / 2
    assert result.series["policy/entropy"] == pytest.approx((mean,), abs=1e-5)
    for temperature, samples in runs.TASKS["pocket"].samples.items():
        summary = json.loads(
            (evaluation_folder(job, temperature, out) / "summary.json").read_text()
        )
        scores = summary["benchmarks"]["problems"]
        assert summary["sampling"]["temperature"] == temperature
        assert scores["samples"] == samples
        if temperature == 0.4:
            assert result.tempered == pytest.approx(scores["avg"], abs=1e-5)
        else:
            assert sum(result.solved) / len(result.solved) / samples == scores["avg"]
    assert not (folder_of(job, out) / "checkpoints").exists()


def test_jobs_with_a_result_are_skipped_by_every_study(study, tmp_path: Path) -> None:
    jobs, _, out = study
    assert runs.run_all([jobs[0], jobs[1]], 2, tmp_path, out) == []
    assert not (tmp_path / "pocket").exists()


def test_an_interrupted_evaluation_is_completed_without_training_again(
    config_file: Path, tmp_path: Path
) -> None:
    (job,) = make_jobs(config_file, ())
    assert runs.execute(job, tmp_path) == 0
    trained = (folder_of(job, tmp_path) / "metrics.jsonl").stat().st_mtime_ns
    before = read_run(job, tmp_path, 1)
    (evaluation_folder(job, 1.0, tmp_path) / "summary.json").unlink()
    assert runs.execute(job, tmp_path) == 0
    assert (folder_of(job, tmp_path) / "metrics.jsonl").stat().st_mtime_ns == trained
    assert read_run(job, tmp_path, 1) == before


def test_a_run_with_missing_steps_is_no_result(study, tmp_path: Path) -> None:
    job = study[0][0]
    folder = folder_of(job, tmp_path)
    folder.mkdir(parents=True)
    lines = (folder_of(job, study[2]) / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text(lines[0] + lines[2])
    with pytest.raises(UserError, match="must have every step once"):
        read_run(job, tmp_path, 1)


def test_a_worker_that_dies_is_replaced(config_file: Path, tmp_path: Path) -> None:
    """An exception other than UserError ends the worker: the last line of the traceback is the
    reason, and the next job gets a new worker."""
    broken, whole = make_jobs(config_file, ("advantage.beta_pos=0.1",), ())
    folder = folder_of(broken, tmp_path)
    (folder / "metrics.jsonl").mkdir(parents=True)
    config = load_config(broken.config, broken.overrides)
    (folder / "config.yaml").write_text(dump_config(config))
    failures = runs.run_all([broken, whole], 1, tmp_path, tmp_path)
    assert [failure.task.name for failure in failures] == [broken.name]
    assert [*find_results([broken, whole], tmp_path)] == [whole]
    assert failures[0].reason.startswith("IsADirectoryError")
