"""What a run says when it ends."""

from __future__ import annotations

import shlex
from pathlib import Path

import train
from asymrl.report.__main__ import main
from asymrl.run.result import describe_result
from tests.helpers.report_folders import FULL, SHORT, write_run


def test_a_run_ends_with_its_folder_result_and_next_commands(
    finished: Path, config_file: Path, capsys
) -> None:
    arguments = ["--config", str(config_file), "--output-dir", str(finished)]
    assert train.main(arguments) == 0  # nothing to do, but the result is shown
    nothing, *lines = capsys.readouterr().out.splitlines()
    assert "nothing to do" in nothing
    assert lines[0] == f"finished: {finished}, step 5"
    assert lines[1].startswith("  problems greedy: ") and " untrained -> " in lines[1]
    assert lines[2].startswith("  problems t1: ") and "over problems" in lines[2]
    report, evaluate = map(shlex.split, lines[-2:])
    assert report[1:] == ["-m", "asymrl.report", str(finished)]
    problems = str(config_file.parent / "problems.jsonl")
    checkpoint = f"{finished}/checkpoints/latest"
    assert evaluate[1:] == ["eval.py", "--ckpt", checkpoint, "--benchmarks", problems]


def test_a_run_that_is_longer_than_its_config_says_which_step_its_result_is_of(
    finished: Path, config_file: Path, capsys
) -> None:
    arguments = ["--config", str(config_file), "--output-dir", str(finished), "steps=3"]
    assert train.main(arguments) == 0
    note, result, *_ = capsys.readouterr().out.splitlines()
    assert note.startswith(f"note: {finished} is at step 5, longer than steps = 3")
    assert "that of step 5" in note and result == f"finished: {finished}, step 5"


def test_the_first_command_runs(tmp_path: Path) -> None:
    """Although the name has a space."""
    folder = write_run(tmp_path / "a run", FULL)
    command = shlex.split(describe_result(folder, ["held"]).splitlines()[-2])
    assert main(command[3:]) == 0
    assert (folder / "report.html").is_file()


def test_the_last_evaluation_is_beside_the_untrained_one(tmp_path: Path) -> None:
    text = describe_result(write_run(tmp_path / "run", FULL), ["held"])
    assert "  held greedy: 0.250 ± 0.020 untrained -> 0.625 ± 0.020 at step 3" in text


def test_without_evaluations_the_reward_is_shown(tmp_path: Path) -> None:
    text = describe_result(write_run(tmp_path / "run", SHORT), [])
    assert "reward/mean: 0.250 -> 0.500" in text and "--benchmarks" not in text


def test_the_selected_checkpoint_is_the_one_to_evaluate(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", SHORT)
    (folder / "checkpoints" / "best").mkdir(parents=True)
    assert describe_result(folder, []).endswith("checkpoints/best")
