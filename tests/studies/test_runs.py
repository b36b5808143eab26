"""Executing studies: real runs of a tiny policy in real worker processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asymrl.config.load import dump_config
from asymrl.errors import UserError
from studies import runs
from studies.jobs import Arm, Job, jobs
from studies.results import read


def make_jobs(config_file: Path, out: Path, *arms: tuple[str, ...], seeds: int = 1) -> list[Job]:
    """One arm for each tuple of overrides, on a problem file with an absolute path."""
    data = config_file.parent / "problems.jsonl"
    fixed = (f"data.train={data}", "verifier.name=exact")
    named = [
        Arm(name=f"arm{n}", config=str(config_file), overrides=(*fixed, *overrides))
        for n, overrides in enumerate(arms)
    ]
    return jobs(named, ["facts"], seeds, out, steps=2)


def reproducible_metrics(job: Job) -> list[dict]:
    """The metrics that do not depend on wall time."""
    lines = (job.folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        {k: v for k, v in row.items() if k.partition("/")[0] not in ("time", "perf")}
        for row in rows
    ]


@pytest.fixture(scope="module")
def study(config_file: Path, tmp_path_factory) -> tuple[list[Job], list[runs.Failure]]:
    """Four runs in one worker: the third fails before it starts, the fourth repeats the first."""
    out = tmp_path_factory.mktemp("study")
    all_jobs = make_jobs(
        config_file, out, (), ("advantage.beta_pos=0.1",), ("model.path=nowhere",), ()
    )
    return all_jobs, runs.run_all(all_jobs, workers=1)


def test_a_failed_run_is_reported_with_the_last_line_of_its_log_and_others_continue(study) -> None:
    all_jobs, failures = study
    assert [failure.job.name for failure in failures] == ["facts/arm2/seed-0"]
    assert failures[0].reason.startswith("error: ") and "nowhere" in failures[0].reason
    assert [runs.done(job) for job in all_jobs] == [True, True, False, True]


def test_a_run_in_a_reused_worker_equals_one_in_a_new_worker(study) -> None:
    all_jobs, _ = study
    first, _, _, again = all_jobs
    assert (
        reproducible_metrics(first) == reproducible_metrics(again)
        and len(reproducible_metrics(first)) == 3
    )
    assert read(first).accuracy == read(again).accuracy
    assert reproducible_metrics(first) != reproducible_metrics(all_jobs[1])


def test_each_run_is_evaluated_greedily_and_at_two_temperatures_with_four_samples(study) -> None:
    job = study[0][0]
    assert set(read(job).accuracy) == {0.0, 0.4, 1.0}
    for temperature in (0.0, 0.4, 1.0):
        summary = json.loads(runs.summary_file(job, temperature).read_text())
        assert summary["sampling"]["temperature"] == temperature
        assert summary["benchmarks"]["problems"]["samples"] == (4 if temperature else 1)


def test_finished_runs_are_skipped_and_unfinished_ones_completed(study) -> None:
    job, other = study[0][0], study[0][1]
    unchanged = [runs.summary_file(job, 1.0), runs.summary_file(other, 1.0)]
    before = [file.stat().st_mtime_ns for file in unchanged]
    trained = (job.folder / "metrics.jsonl").stat().st_mtime_ns
    runs.summary_file(job, 0.4).unlink()
    assert not runs.done(job) and runs.done(other)
    assert runs.run_all([job, other], workers=2) == []
    assert runs.done(job)
    assert (job.folder / "metrics.jsonl").stat().st_mtime_ns == trained
    assert [file.stat().st_mtime_ns for file in unchanged] == before


def test_a_folder_with_another_config_or_more_steps_is_an_error_before_any_run(
    study, config_file: Path
) -> None:
    out = study[0][0].folder.parents[2]
    with pytest.raises(UserError, match=r"differs in optim\.lr"):
        runs.run_all(make_jobs(config_file, out, ("optim.lr=0.5",)), workers=1)
    with pytest.raises(UserError, match="is at step 2, but this study has 1"):
        runs.run_all(make_jobs(config_file, out, ("steps=1",)), workers=1)


def test_a_worker_that_dies_is_replaced(config_file: Path, tmp_path: Path) -> None:
    """An exception other than UserError ends the worker: the last line of the traceback is the
    reason, and the next job gets a new worker."""
    broken, whole = make_jobs(config_file, tmp_path, ("advantage.beta_pos=0.1",), ())
    (broken.folder / "metrics.jsonl").mkdir(parents=True)
    (broken.folder / "config.yaml").write_text(dump_config(broken.config()))
    failures = runs.supervise([broken, whole], 1, no_report)
    assert [failure.job for failure in failures] == [broken] and runs.done(whole)
    assert failures[0].reason.startswith("IsADirectoryError")


def no_report(finished: int, running: object, message: str) -> None: ...


def test_jobs_are_ordered_by_seed_so_that_a_stopped_study_has_complete_seeds(
    config_file: Path, tmp_path: Path
) -> None:
    all_jobs = make_jobs(config_file, tmp_path, (), ("advantage.beta_pos=0.1",), seeds=3)
    assert [job.seed for job in all_jobs] == [0, 0, 1, 1, 2, 2]
    assert len({job.folder for job in all_jobs}) == 6
