"""Which checkpoint a run in a folder starts from."""

import shutil
from pathlib import Path

import pytest

import train
from asymrl.config.load import dump_config, load_config
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


@pytest.mark.parametrize("name", ["notes.md", "step.py", "models/"])
def test_a_folder_of_other_files_is_no_place_for_a_run(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.write_text("mine")
    with pytest.raises(UserError, match=r"already holds other files \((notes|step|models)"):
        run_folder.find_checkpoint(tmp_path, load_config("pocket_asym"), "auto")


def test_a_new_run_may_have_logs_and_hidden_files_beside_it(tmp_path: Path) -> None:
    for name in (".lock", ".gitkeep", "train.log", "slurm-7.out", "stuck-rank-0.txt", "begun_from"):
        (tmp_path / name).write_text("")
    assert run_folder.find_checkpoint(tmp_path, load_config("pocket_asym"), "auto") is None


def test_a_run_without_a_finished_step_starts_anew_with_any_config(tmp_path: Path) -> None:
    """As one does that failed in its first step, by a mistake that its user has mended since."""
    config = load_config("pocket_asym", ["optim.lr=1.0"])
    (tmp_path / "config.yaml").write_text(dump_config(load_config("pocket_asym")))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st')
    (tmp_path / "notes.md").write_text("mine")
    assert run_folder.find_checkpoint(tmp_path, config, "auto") is None
    with pytest.raises(UserError, match="already holds a run"):
        run_folder.find_checkpoint(tmp_path, config, "never")
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    with pytest.raises(UserError, match=r"another config, which differs in optim\.lr"):
        run_folder.find_checkpoint(tmp_path, config, "auto")


def test_a_config_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: gpt2\n")
    with pytest.raises(UserError, match=r"unknown|section|missing"):
        run_folder.find_checkpoint(tmp_path, load_config("pocket_asym"), "auto")
