"""Reading run folders: what is whole is read, what is damaged is named with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from asymrl.report_runs import LONGEST_TEXT, labels, minutes, read_runs, sample_rollouts, series
from asymrl.types import UserError
from tests.report_folders import rollout, step_row, write_run


def test_null_and_infinite_values_are_gaps(tmp_path: Path) -> None:
    rows = [step_row(1), step_row(2, **{"reward/mean": None}), step_row(3)]
    rows.append(step_row(4, **{"reward/mean": float("inf")}))
    (run,) = read_runs([write_run(tmp_path / "run", rows)])
    curve = series(run, "reward/mean")
    assert (curve.steps, curve.values) == ([1, 3], [0.25, 0.75])


def test_standard_errors_are_used_only_if_every_evaluation_has_one(tmp_path: Path) -> None:
    rows = [{"step": s, "eval/a/avg": 0.5, "eval/b/avg": 0.5, "eval/a/stderr": 0.1} for s in (0, 1)]
    rows[1]["eval/b/stderr"] = 0.2
    (run,) = read_runs([write_run(tmp_path / "run", rows)])
    assert series(run, "eval/a/avg").errors == [0.1, 0.1]
    assert not series(run, "eval/b/avg").errors


def test_minutes_count_the_whole_step_once(tmp_path: Path) -> None:
    phases = [step_row(1), step_row(2)]
    whole = [row | {"time/step": 30.0} for row in phases]
    runs = read_runs([write_run(tmp_path / "a", phases), write_run(tmp_path / "b", whole)])
    assert [minutes(run) for run in runs] == pytest.approx([0.1, 1.0])


def test_labels_take_on_parents_until_they_differ() -> None:
    folders = [Path(p) for p in ("/r/asym/s0", "/r/grpo/s0", "/q/grpo/s0", "/r/grpo/s1")]
    assert labels(folders) == ["asym/s0", "r/grpo/s0", "q/grpo/s0", "s1"]


def test_a_folder_given_twice_is_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "same")
    assert len(read_runs([run, run / ".." / "same"])) == 1


def test_rollouts_are_of_the_first_and_the_last_saved_step(tmp_path: Path) -> None:
    steps = {step: [rollout(step, 0, step=step)] for step in (1, 9, 10, 200)}
    samples, _ = sample_rollouts(read_runs([write_run(tmp_path / "run", rollouts=steps)])[0], 4)
    assert [sample.step for sample in samples] == [1, 200]


def test_each_kind_of_rollout_is_sampled_and_counts_are_over_all(tmp_path: Path) -> None:
    wrong = [rollout(0, i) for i in range(6)]
    correct = rollout(0, 6, reason="correct", reward=1.0)
    cut = rollout(0, 7, reason="no_answer", truncated=True, answer=None)
    others = [rollout(draw, 0) for draw in (1, 2)]
    run = write_run(tmp_path / "run", rollouts={1: [*wrong, correct, cut, *others]})
    samples, _ = sample_rollouts(read_runs([run])[0], 2)
    (sample,) = samples
    assert (sample.rollouts, sample.correct, sample.truncated) == (10, 1, 1)
    first, _ = sample.problems
    assert (first["solved"], first["size"]) == (1, 8)
    kinds = [(row["correct"], row["truncated"]) for row in first["rollouts"]]
    assert kinds == [(True, False), (False, False), (False, True), (False, False)]


def test_correct_is_what_earned_the_reward(tmp_path: Path) -> None:
    zeroed = rollout(0, 0, reason="correct", reward=0.0, truncated=True)
    run = write_run(tmp_path / "run", rollouts={1: [zeroed]})
    samples, _ = sample_rollouts(read_runs([run])[0], 1)
    assert samples[0].correct == 0


def test_a_long_response_keeps_its_beginning_and_end(tmp_path: Path) -> None:
    response = "BEGIN" + "x" * 10 * LONGEST_TEXT + "END"
    run = write_run(tmp_path / "run", rollouts={1: [rollout(0, 0, response=response)]})
    samples, _ = sample_rollouts(read_runs([run])[0], 1)
    shown = samples[0].problems[0]["rollouts"][0]["response"]
    assert shown.startswith("BEGIN") and shown.endswith("END")
    assert f"{len(response) - LONGEST_TEXT:,} characters left out" in shown
    assert len(shown) < LONGEST_TEXT + 100


def test_a_half_written_last_line_is_left_out_with_a_note(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "crashed", rollouts={1: [rollout(0, 0)]})
    for file in (folder / "metrics.jsonl", folder / "rollouts/step-000001.jsonl"):
        file.write_text(file.read_text() + '{"step": 3, "rew')
    (run,) = read_runs([folder])
    samples, said = sample_rollouts(run, 1)
    assert [row["step"] for row in run.rows] == [1, 2] and samples[0].rollouts == 1
    assert run.notes == ["crashed: the half-written last line of metrics.jsonl was left out"]
    assert said == ["crashed: the half-written last line of step-000001.jsonl was left out"]


def test_a_whole_last_line_needs_no_line_break(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "whole")
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text().rstrip("\n"))
    (run,) = read_runs([folder])
    assert [row["step"] for row in run.rows] == [1, 2] and not run.notes


@pytest.mark.parametrize("line", ["{not json", "[1]", '{"step": "two"}', '{"reward/mean": 1}', ""])
def test_a_malformed_line_is_refused_with_file_and_line(tmp_path: Path, line: str) -> None:
    folder = write_run(tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2 "):
        read_runs([folder])
