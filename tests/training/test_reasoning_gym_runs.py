"""A run on tasks of reasoning-gym: resumed bit for bit, evaluated by eval.py, and in the report."""

from pathlib import Path

import pytest

import eval as eval_program
from asymrl.files import read_json
from asymrl.report import __main__ as report
from tests.helpers.runs import comparable, run, same_weights

GYM = (
    "data.train=reasoning_gym:count_bits,gcd",
    "data.reasoning_gym={size: 20, seed: 3, difficulty: {count_bits: {max_n: 40}}}",
    "eval.benchmarks=['reasoning_gym:count_bits']",
    "verifier={name: exact, unboxed: true}",
    "eval.every=1",
    "steps=3",
)


@pytest.fixture(scope="module")
def gym_run(config_file, tmp_path_factory) -> Path:
    return run(config_file, tmp_path_factory.mktemp("gym") / "whole", *GYM)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(config_file, gym_run, tmp_path) -> None:
    run(config_file, tmp_path / "run", *GYM, "steps=1")
    resumed = run(config_file, tmp_path / "run", *GYM)
    assert comparable(resumed) == comparable(gym_run) and same_weights(resumed, gym_run)


@pytest.mark.slow
def test_eval_takes_the_held_out_problems_of_the_checkpoint(gym_run, tmp_path, capsys) -> None:
    arguments = ["--ckpt", str(gym_run / "checkpoints" / "latest"), "--output", str(tmp_path)]
    arguments += ["--benchmarks", "reasoning_gym:count_bits", "--limit", "4", "--avg-at", "2"]
    assert eval_program.main([*arguments, "--engine", "hf"]) == 0
    assert "reasoning_gym:count_bits" in capsys.readouterr().out
    name = "reasoning_gym:count_bits"
    trained = (gym_run / "eval" / "step-000003" / "t1" / f"{name}.jsonl").read_text()
    mine = (tmp_path / f"{name}.jsonl").read_text()
    ids = [f'"problem_id": "{name}/heldout/{n}"' for n in range(4)]
    assert all(id in mine and id in trained for id in ids)
    assert {line.split('"prompt"')[0] for line in mine.splitlines()} == {
        line.split('"prompt"')[0] for line in trained.splitlines()
    }
    assert read_json(tmp_path / "summary.json")["benchmarks"][name]["samples"] == 2


@pytest.mark.slow
def test_the_report_has_the_task(gym_run) -> None:
    assert report.main([str(gym_run)]) == 0
    page = (gym_run / "report.html").read_text()
    assert "reasoning_gym:count_bits" in page and "Held-out accuracy, count_bits, t1" in page
