"""What is wrongly given to eval.py and asymrl.report: one sentence, exit code 2, nothing lost."""

import json
import shutil
from pathlib import Path

import pytest

import eval as evaluation
from asymrl.evaluation import setup as evaluation_setup
from asymrl.report import __main__
from tests.helpers.report_folders import FULL, write_run
from tests.helpers.report_folders import evaluation as evaluated


@pytest.fixture
def one_problem(finished: Path, tmp_path: Path) -> list[str]:
    """Arguments of an evaluation of one problem."""
    data = {"id": "a", "problem": "What is 1 + 1 (mod 13)?", "answer": "2"}
    (tmp_path / "some.jsonl").write_text(json.dumps(data) + "\n")
    arguments = ["--ckpt", str(finished / "checkpoints" / "latest"), "--data-dir", str(tmp_path)]
    return [*arguments, "--benchmarks", "some", "--output", str(tmp_path / "out")]


@pytest.mark.parametrize(
    "again",
    [["--ckpt", "b"], ["--ckpt=b"], ["--output", "b"], ["--data-dir=b"], ["--benchmarks", "b"]],
)
def test_a_flag_that_is_given_twice_is_refused(one_problem, capsys, again: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluation.main([*one_problem, *again])
    flag = again[0].partition("=")[0]
    assert stopped.value.code == 2 and f"{flag} is given twice" in capsys.readouterr().err
    assert not Path(one_problem[-1]).exists()


def test_the_checkpoint_that_was_found_is_the_one_that_is_asked(
    one_problem, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    """Whatever `latest` names while an evaluation loads, as beside a run."""
    run = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    link, load = run / "checkpoints" / "latest", evaluation_setup.load_benchmarks

    def moved(*arguments):
        link.unlink()
        link.symlink_to("step-000001")
        return load(*arguments)

    monkeypatch.setattr(evaluation_setup, "load_benchmarks", moved)
    common = [*one_problem[2:-1], str(tmp_path / "moved"), "--temperature", "1"]
    assert evaluation.main(["--ckpt", str(link), *common]) == 0
    monkeypatch.undo()
    common[-3] = str(tmp_path / "alone")
    assert evaluation.main(["--ckpt", str(run / "checkpoints" / "step-000005"), *common]) == 0
    for name in ("some.jsonl", "settings.json"):
        one, other = ((tmp_path / out / name).read_bytes() for out in ("moved", "alone"))
        assert one == other
    common[-3] = str(tmp_path / "first")
    assert evaluation.main(["--ckpt", str(run / "checkpoints" / "step-000001"), *common]) == 0
    assert (tmp_path / "first" / "some.jsonl").read_bytes() != one  # else this shows nothing


def test_the_folder_of_a_run_is_no_model(one_problem, finished: Path, capsys) -> None:
    for folder, inside in (("", "checkpoints/latest"), ("checkpoints", "latest")):
        assert evaluation.main(["--ckpt", str(finished / folder), *one_problem[2:]]) == 2
        valid = f"use {finished / folder}/{inside}\n"
        assert capsys.readouterr().err.endswith(valid)
    logged = str(finished / "rollouts")
    assert evaluation.main(["--ckpt", logged, *one_problem[2:]]) == 2
    assert f"{logged} is not a model folder: config.json is missing" in capsys.readouterr().err


def test_two_configs_and_half_a_flag_are_refused(capsys) -> None:
    for arguments, part in (
        (["--config", "a", "--config", "b"], "--config is given twice"),
        (["--config", "a", "--conf", "b"], "unrecognized arguments: --conf"),
    ):
        with pytest.raises(SystemExit) as stopped:
            evaluation.main(arguments)
        assert stopped.value.code == 2 and part in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--ckpt", "--config"])
def test_a_name_that_no_file_can_have_is_refused(one_problem, capsys, flag: str) -> None:
    for name, part in (("", f"{flag} is empty"), ("x" * 300, f"{flag} is too long")):
        assert evaluation.main([flag, name, *one_problem[2:]]) == 2
        assert part in capsys.readouterr().err
    benchmark = ["--ckpt", one_problem[1], "--benchmarks", "x" * 300]
    for arguments in (benchmark, [*benchmark, *one_problem[2:4]]):
        assert evaluation.main(arguments) == 2
        assert "error: benchmark 'xxx" in capsys.readouterr().err


def test_a_plain_model_is_told_how_it_is_asked(one_problem, model_folder, capsys) -> None:
    plain = ["--ckpt", str(model_folder), *one_problem[2:], "--avg-at", "1", "--max-tokens", "4"]
    assert evaluation.main(plain) == 0
    assert "has no asymrl.json, so the default prompt is used" in capsys.readouterr().err
    assert evaluation.main([*one_problem, "--avg-at", "1", "--replace"]) == 0
    assert "has no asymrl.json" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "[1]", "", "\0"])
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_damaged_files_of_a_model_are_named(
    one_problem, model_folder, tmp_path, capsys, name: str, text: str
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model_folder, damaged)
    (damaged / name).write_text(text)
    assert evaluation.main(["--ckpt", str(damaged), *one_problem[2:]]) == 2
    assert f"error: {damaged / name}: " in capsys.readouterr().err
    assert not Path(one_problem[-1]).exists()


def test_weights_that_are_a_folder_are_refused(one_problem, model_folder, tmp_path, capsys) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model_folder, damaged)
    (damaged / "model.safetensors").unlink()
    (damaged / "model.safetensors").mkdir()
    assert evaluation.main(["--ckpt", str(damaged), *one_problem[2:]]) == 2
    assert f"{damaged / 'model.safetensors'} is damaged" in capsys.readouterr().err


def test_a_problem_beyond_the_models_positions_is_refused(one_problem, tmp_path, capsys) -> None:
    data = {"id": "a", "problem": "What is 7 + 11? " * 400, "answer": "2"}
    (tmp_path / "some.jsonl").write_text(json.dumps(data) + "\n")
    assert evaluation.main(one_problem) == 2
    said = capsys.readouterr().err
    assert "has only 1024 positions" in said and "shorter problems" in said


def test_a_report_that_cannot_be_written_exits_with_2(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "run", FULL)
    (tmp_path / "taken/figures/entropy.png").mkdir(parents=True)
    names = ("taken/r.html", "x" * 300 + ".html", "run/metrics.jsonl/r.html")
    for out in (tmp_path / name for name in names):
        assert __main__.main([str(run), "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: --out {str(out)[:100]}") and "cannot be written" in line
    assert not (tmp_path / "taken/r.html").exists()


def test_metrics_with_unprintable_names_are_drawn(tmp_path: Path) -> None:
    """Each benchmark has a figure, even if names are unprintable, very long, or nearly equal."""
    names = ["\ud800\x00\n", "a b", "a_b", "mean", "x" * 999]
    row = {f"eval/{name}/greedy/avg": 0.5 for name in names} | {
        "time/\x00<b>": 1.0,
        "time/less": -1.0,
    }
    run = write_run(tmp_path / "run", [evaluated(0, 0.5) | row])
    assert __main__.main([str(run), "--out", str(tmp_path / "r.html")]) == 0
    figures = [file.name for file in (tmp_path / "figures").glob("accuracy_*")]
    assert (
        len(figures) == len(names) + 2 and "accuracy_held_greedy.png" in figures
    )  # and their mean
