"""The functions of `import asymrl`, their examples, and the examples of examples/."""

import doctest
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

import asymrl
from asymrl import api
from asymrl.algo.advantages import ADVANTAGES
from asymrl.errors import UserError
from tests.helpers.paths import ROOT
from tests.helpers.runs import metrics, same_weights
from tests.helpers.runs import run as run_program

EXAMPLES = ROOT / "examples"
# also called with what their types do not allow
advantages: Any = asymrl.advantages
evaluate: Any = asymrl.evaluate
train: Any = asymrl.train
load_run: Any = asymrl.load_run
verify: Any = asymrl.verify


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory, from which `import asymrl` and its configs are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.fixture(scope="module")
def pocket_model(tmp_path_factory) -> Path:
    """The folder runs/models with the policy of seed 0, made once."""
    from asymrl import pocket

    folder = tmp_path_factory.mktemp("pocket")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pocket.model_folder("pocket:0")
    return folder / "runs" / "models"


def with_model(folder: Path, models: Path) -> None:
    shutil.copytree(models, folder / "runs" / "models")


def test_import_loads_no_framework_until_a_function_needs_it() -> None:
    code = (
        "import sys, asymrl; asymrl.verify; asymrl.UserError; asymrl.load_run;"
        "assert {*dir(asymrl)} == {*asymrl.__all__, '__version__'};"
        "print(*[m for m in ('torch', 'transformers', 'pandas', 'datasets') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.split() == []
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        asymrl.trian  # noqa: B018


def test_every_public_name_has_a_docstring_and_examples_that_run(here, pocket_model) -> None:
    assert all(getattr(asymrl, name).__doc__ for name in asymrl.__all__)
    with_model(here, pocket_model)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = doctest.DocTestFinder().find(api, extraglobs={"asymrl": asymrl})
    for test in sorted(tests, key=lambda test: test.lineno or 0):  # evaluate uses the run of train
        runner.run(test)
    assert runner.tries >= 10 and not runner.failures


def test_train_equals_train_py_and_resumes_its_run(config_file, here) -> None:
    whole = run_program(config_file, here / "whole", "steps=3")
    started = run_program(config_file, here / "parts", "steps=2")
    resumed = asymrl.train(config_file, {"steps": 3}, output_dir=started)
    assert resumed == started and same_weights(whole, resumed)


def test_overrides_are_python_values(config_file, here) -> None:
    settings = {
        "steps": 1,
        "optim.lr": 1e-6,
        "eval.benchmarks": [],
        "data.train": config_file.parent / "problems.jsonl",
        "eval.sampling": {"greedy": {"temperature": 0.0}},
        "eval.patience": None,
    }
    run = asymrl.train(config_file, settings, output_dir="mine")
    read = asymrl.load_run(run).attrs["settings"]
    assert (read["optim.lr"], read["eval.benchmarks"], read["eval.patience"]) == (1e-6, [], None)


def test_an_interrupt_saves_and_raises_and_the_same_call_resumes(config_file, here) -> None:
    def interrupt_after_a_step() -> None:
        while not (log.is_file() and '"step": 1,' in log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    log = here / "mine" / "metrics.jsonl"
    threading.Thread(target=interrupt_after_a_step, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        asymrl.train(config_file, {"steps": 10_000}, output_dir="mine")
    last = metrics(here / "mine")[-1]["step"]
    asymrl.train(config_file, {"steps": last + 1}, output_dir="mine")
    assert [row["step"] for row in metrics(here / "mine")] == [*range(last + 2)]


def test_evaluate_has_the_columns_that_it_documents(finished, config_file, here) -> None:
    found = asymrl.evaluate(
        finished / "checkpoints" / "latest",
        [config_file.parent / "problems.jsonl"],
        avg_at=2,
        limit=3,
        output=here / "scores",
    )
    documented = re.sub(r"\([^)]*\)", "", str(asymrl.evaluate.__doc__).partition("Columns: ")[2])
    assert all(re.search(rf"\b{name}\b", documented) for name in found.columns)
    row = found.loc["problems"]
    assert row.low <= row.avg <= row.high and row.samples == 2 and row.problems == 3


def test_load_run_has_one_row_per_step(finished) -> None:
    table = asymrl.load_run(finished)
    assert table.index.name == "step" and table.index.tolist() == list(range(6))
    expected = [row["reward/mean"] for row in metrics(finished)[1:]]
    assert table["reward/mean"].dropna().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_are_those_of_the_estimator(name: str) -> None:
    rewards = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    groups = api.as_groups(rewards, None, None, None)
    params = {"beta_pos": 0.9, "beta_neg": 0.4} if name == "asym" else {}
    found = advantages(rewards.long().tolist(), name, **params)
    assert torch.equal(found, ADVANTAGES[name](groups, **params))


def test_invalid_rollouts_get_no_advantage() -> None:
    valid = [[True, True, False]]
    found = advantages([[1, 0, 0]], "dr_grpo", valid=valid)
    assert found.tolist() == [[0.5, -0.5, 0.0]]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: advantages([[1, 0.5]], "dr_grpo"),
            "rewards must be 0 or 1, got [0.5, 1.0]",
        ),
        (
            lambda: advantages([1, 0], "dr_grpo"),
            "rewards must have the shape (N, G), got (2,)",
        ),
        (lambda: advantages("abc", "dr_grpo"), "rewards must be N groups of G, got 'abc'"),
        (lambda: advantages([[1, 0]], "grp"), "advantage.name = 'grp'"),
        (
            lambda: advantages([[1, 0]], "asym", beta_pos=-1.0, beta_neg=0.0),
            "must be a number from 0",
        ),
        (lambda: advantages([[1, 0]], "rloo", beta=1.0), "rloo takes no parameters"),
        (lambda: advantages([[1, 0]], "no.py:f"), "no.py does not exist"),
        (
            lambda: advantages([[1, 0]], "rloo", valid=torch.ones(1, 3).bool()),
            "valid has the shape (1, 3), the rewards (1, 2)",
        ),
        (lambda: asymrl.train("pocket", {"optim.lrr": 1}), "overrides: unknown key optim.lrr"),
        (lambda: asymrl.train("pocket", {"steps": 0}), "overrides: steps"),
        (lambda: train("pocket", ["steps=1"]), "overrides must be a dict of dotted keys, got ["),
        (lambda: train("pocket", {"data.user": "😀"}), "data.user = '😀'"),
        (
            lambda: asymrl.train("pocket", {"advantage.name": print}),
            "a function is given by its path",
        ),
        (lambda: asymrl.train("pockett"), "the nearest are pocket"),
        (lambda: asymrl.load_run("nowhere"), "nowhere is not a run folder"),
        (
            lambda: advantages([[1, 0]], "asym_sym"),
            "is a row; its estimator is asym with beta_pos=0.7",
        ),
        (lambda: advantages([[1, 0]], 3), "name must be an estimator's name or a function, got 3"),
        (lambda: evaluate("nowhere", avg_at=2.5), "avg_at 2.5 must be a whole number"),
        (lambda: evaluate("nowhere", temperature=None), "temperature None must be from"),
        (lambda: evaluate("nowhere", chunk=None), "chunk None must be a whole number from 1 to"),
        (lambda: evaluate("nowhere", output=3), "output 3 must be a path"),
        (lambda: evaluate("nowhere", data_split=None), "data_split None must be a text"),
        (lambda: evaluate("nowhere", replace="no"), "replace 'no' must be True or False"),
        (lambda: evaluate("nowhere", 3), "benchmarks must be a name, a path or a list, got 3"),
        (lambda: evaluate(3), "ckpt 3 must be a text"),
        (lambda: train(None), "config must be a path or a name, got None"),
        (lambda: train("pocket", row=3), "row must be a path or a name, got 3"),
        (lambda: train("pocket", output_dir=""), "output_dir must be a path or a name, got ''"),
        (lambda: train("pocket", {"optim.lr": torch.ones(2)}), "optim.lr = tensor([1., 1.]) has"),
        (lambda: train("pocket", resume="nowhere"), "resume nowhere is not a checkpoint"),
        (lambda: load_run(None), "folder must be a path or a name, got None"),
        (lambda: verify(3, "3"), "response must be a text, got 3"),
        (lambda: verify("3", 3), "gold must be a text, got 3"),
        (lambda: verify("3", "3", None), "name must be a verifier's name or a function, got None"),
        (lambda: verify("3", "3", timeout=0), "timeout must be above 0 and at most 3600 seconds"),
        (lambda: verify("3", "3", unbxed=True), "unbxed is not a setting of a verifier; did you"),
        (lambda: verify("3", "3", unboxed=1), "unboxed must be True or False, got 1"),
        (lambda: verify("3", "3", row=3), "row must be a dict, a row of the data, got 3"),
        (
            lambda: verify("3", "3", lambda text: True),
            "requires the parameter text; a verifier may",
        ),
        (lambda: verify("3", "3", lambda gold: 0.5), "<lambda> returned 0.5 for the response '3'"),
        (lambda: verify("3", "3", lambda gold: 1 / 0), "<lambda>: ZeroDivisionError: division by"),
        (
            lambda: advantages([[1, 0]], lambda groups: groups.rewards.mean(1)),
            "<lambda> returned a tensor of shape (1,); the shape must be (1, 2) = (N, G)",
        ),
        (
            lambda: advantages([[1, 0]], lambda groups: groups.rewards.numpy()),
            "<lambda> returned array([[1., 0.]], dtype=float32); it must be a torch.Tensor of shap",
        ),
        (lambda: advantages([[1, 0]], lambda groups: groups.reward), "<lambda>: AttributeError: "),
        (
            lambda: advantages([[1, 0]], lambda groups: groups.rewards / 0),
            "returned [inf, nan] for",
        ),
        (lambda: advantages(np.zeros((2, 2, 2)), "rloo"), "the shape (N, G), got (2, 2, 2)"),
        (lambda: evaluate("nowhere", avg=3), "avg is not an option of an evaluation"),
        (lambda: evaluate(), "needs either a ckpt or a config"),
        (
            lambda: evaluate("nowhere", avg_at=0),
            "avg_at 0 must be a whole number from 1 to 10000 or paper",
        ),
        (lambda: evaluate("nowhere", engine="gpu"), "engine 'gpu' must be one of"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence: str, here) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert sentence in str(caught.value) and "--" not in str(caught.value)
    assert not [*here.iterdir()]


def test_a_folder_that_is_no_run_points_to_the_runs_around_it(finished: Path) -> None:
    part = f"it has no config.yaml; it is part of the run folder {finished}"
    for inside in ("checkpoints/latest", "checkpoints/step-000005", "eval/step-000004/greedy"):
        with pytest.raises(UserError, match=re.escape(part)):
            asymrl.load_run(finished / inside)
    with pytest.raises(UserError, match=re.escape(f"it has the run folders {finished}")):
        asymrl.load_run(finished.parent)


def test_verify_calls_a_function_directly() -> None:
    def same(response, gold, row):
        calls.append(os.getpid())
        return response == gold + row["unit"]

    calls: list[int] = []
    assert asymrl.verify("7 cm", "7", same, row={"unit": " cm"}).reason == "correct"
    assert not asymrl.verify("7", "7", same, row={"unit": " cm"}) and calls == [os.getpid()] * 2


def test_rewards_may_be_any_array() -> None:
    rewards = np.array([[0.0, 1.0]])[:, ::-1]
    assert advantages(rewards, "dr_grpo").tolist() == [[0.5, -0.5]]
    valid = [[True, False]]
    assert advantages([[1, 0]], lambda groups: groups.rewards - 0.5, valid=valid)[0, 1] == 0


def test_own_reward_trains_with_the_function_of_its_file(here, pocket_model, capsys) -> None:
    with_model(here, pocket_model)
    example = runpy.run_path(str(EXAMPLES / "own_reward.py"))
    row = {"problem": "What is 3 + 4 + 0 (mod 13)?"}
    assert example["complete"](r"4 + 0 = 4; 4 + 3 = \boxed{7}", "7", row)
    assert not example["complete"](r"4 + 3 = \boxed{7}", "7", row)
    example["main"](steps=2)
    run = here / "runs" / "own_reward"
    assert "own_reward.py:complete@" in (run / "config.yaml").read_text()
    assert "pocket_heldout" in capsys.readouterr().out


def test_the_notebook_runs_from_start_to_end(here, pocket_model) -> None:
    with_model(here, pocket_model)
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    steps = next(cell for cell in notebook.cells if '"steps": 40' in cell.source)
    steps.source = steps.source.replace(
        '"steps": 40, "eval.every": 10', '"steps": 4, "eval.every": 2'
    )
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(here)}}).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    assert any("image/png" in one.get("data", {}) for one in outputs)
    assert "focal" in "".join(str(one) for one in notebook.cells[-1].outputs)
