"""Which checkpoint a run in a folder starts from."""

import shutil
from pathlib import Path

import pytest

import train
from asymrl.errors import UserError
from asymrl.run import folder as run_folder
from asymrl.types import Position
from tests.helpers.runs import metrics, run, same_weights


def test_a_branch_is_resumed_by_the_command_that_started_it(
    config_file: Path, finished: Path, tmp_path: Path, capsys
) -> None:
    """A scheduler stops it and starts it again. By then the checkpoint that it started from may
    have been deleted."""
    source = tmp_path / "source"
    shutil.copytree(finished, source, symlinks=True)
    command = ["--resume", str(source / "checkpoints" / "latest")]
    run(config_file, tmp_path / "whole", *command, "steps=8")
    run(config_file, tmp_path / "run", *command, "steps=6")
    shutil.rmtree(source)
    run(config_file, tmp_path / "run", *command, "steps=8")
    assert [row["step"] for row in metrics(tmp_path / "run")] == [6, 7, 8]
    assert same_weights(tmp_path / "run", tmp_path / "whole")
    other = ["--resume", str(finished / "checkpoints" / "latest")]
    folder = ["--config", str(config_file), "--output-dir", str(tmp_path / "run")]
    assert train.main([*folder, *other, "steps=9"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_a_folder_that_another_process_trained_in_meanwhile_is_left_alone(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    before = (folder / "metrics.jsonl").read_bytes()
    older = folder.resolve() / "checkpoints" / "step-000004"
    with (
        pytest.raises(UserError, match="another process trained in"),
        run_folder.open_run_folder(folder, older, Position(step=4)),
    ):
        pass
    assert (folder / "metrics.jsonl").read_bytes() == before
