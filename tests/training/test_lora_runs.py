"""Runs of train.py that train LoRA adapters: checkpoints, resume, evaluation, mistakes."""

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import eval as evaluation
import train
from asymrl.engines.model_folder import check_weights
from asymrl.run import checkpoint
from tests.helpers.runs import comparable, metrics, run, same_weights, weights

LORA = ("policy.lora.rank=4", "policy.lora.alpha=8.0", "optim.lr=0.02")
FILES = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(scope="module")
def trained(config_file, tmp_path_factory) -> Path:
    """A run of three steps."""
    return run(config_file, tmp_path_factory.mktemp("lora") / "whole", *LORA, "steps=3")


@pytest.fixture(scope="module")
def adapters_only(config_file, tmp_path_factory) -> Path:
    """The same run, with checkpoints of the adapters alone."""
    folder = tmp_path_factory.mktemp("lora") / "adapters"
    return run(config_file, folder, *LORA, "steps=3", "checkpoint.merged=false")


def latest(folder: Path, step: int = 3) -> Path:
    return folder / "checkpoints" / f"step-{step:06d}"


def test_the_trainers_state_has_the_adapters_and_their_moments_only(trained, model_folder) -> None:
    names = {name.partition("/")[2] for name in weights(trained)}
    assert len(weights(trained)) == 3 * 2 * 2 * 7  # sections, A and B, layers, targets
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)
    rates = [row["optim/lr"] for row in metrics(trained)[1:]]
    assert rates == [0.02] * 3
    merged = load_file(latest(trained) / "model.safetensors")
    before = load_file(model_folder / "model.safetensors")
    changed = {name for name in merged if not torch.equal(merged[name], before[name])}
    assert len(changed) == 2 * 7


def test_a_resumed_run_is_bit_equal(trained, config_file, tmp_path) -> None:
    resumed = tmp_path / "resumed"
    shutil.copytree(trained, resumed, symlinks=True)
    for step in (2, 3):
        shutil.rmtree(latest(resumed, step))
    checkpoint.point_link(resumed / "checkpoints", "latest", "step-000001")
    run(config_file, resumed, *LORA, "steps=3")
    assert comparable(resumed) == comparable(trained)
    assert same_weights(resumed, trained)


def test_a_checkpoint_opens_with_transformers_and_its_adapters_with_peft(
    trained, adapters_only, model_folder
) -> None:
    assert same_weights(trained, adapters_only)
    merged = latest(trained)
    check_weights(merged, False, (None, None))
    ids = torch.arange(4, 20)[None]
    models: list[Any] = [AutoModelForCausalLM.from_pretrained(merged)]
    for folder in (trained, adapters_only):
        adapter = latest(folder) / "adapter"
        assert {path.name for path in adapter.iterdir()} >= FILES
        base = AutoModelForCausalLM.from_pretrained(model_folder)
        models.append(peft.PeftModel.from_pretrained(base, adapter))
    with torch.no_grad():
        logits = [model(input_ids=ids).logits for model in models]
        start = AutoModelForCausalLM.from_pretrained(model_folder)(input_ids=ids).logits
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(start, logits[0], atol=1e-2)
    assert not list(latest(adapters_only).glob("*.safetensors"))


def test_eval_gives_the_same_samples_for_both_kinds_of_checkpoint(
    trained, adapters_only, config_file, tmp_path
) -> None:
    samples = []
    for folder in (trained, adapters_only):
        out = tmp_path / folder.name
        data = str(config_file.parent / "problems.jsonl")
        arguments = ["--ckpt", str(latest(folder)), "--benchmarks", data, "--output", str(out)]
        arguments += ["--avg-at", "2", "--engine", "hf", "--allow-count"]
        assert evaluation.main(arguments) == 0
        rows = (out / "problems.jsonl").read_text().splitlines()
        samples.append([json.loads(row)["response"] for row in rows])
    assert samples[0] == samples[1] and len({*samples[0]}) > 1


def test_training_starts_from_a_checkpoint_of_adapters(adapters_only, config_file, tmp_path):
    folder = run(config_file, tmp_path / "next", f"model.path={latest(adapters_only)}", "steps=1")
    first, last = metrics(folder)[0], metrics(adapters_only)[-1]
    scores = {name for name in first if name.startswith("eval/")}
    assert scores and all(first[name] == last[name] for name in scores if "greedy" in name)
    state = load_file(latest(folder, 1) / checkpoint.state_file(0, 1))
    assert "weights/model.norm.weight" in state  # all weights are trained


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.lora.targets=[query]"], "is named query; valid are down_proj, gate_proj, k_proj"),
        (["policy.lora.rank=0"], "policy.lora.rank = 0"),
        (["policy.lora.alpha=0.0"], "policy.lora.alpha = 0.0"),
        (["policy.lora.targets=[]"], "policy.lora.targets"),
        (["policy.lora.targets=attention"], "all-linear"),
        (["policy.lora.dropout=0.1"], "policy.lora.dropout"),
        (["policy.lora=true"], "policy.lora = True"),
        (["checkpoint.merged=false"], "it requires policy.lora"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_a_mistake_is_one_sentence(overrides, message, dry, config_file, tmp_path, capsys) -> None:
    arguments = ["--config", str(config_file), "--output-dir", str(tmp_path / "run"), *overrides]
    assert train.main([*arguments, *(["--dry-run"] if dry else [])]) == 2
    printed = capsys.readouterr().err
    assert message in printed and len(printed.strip().splitlines()) == 1, printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.lora.rank=8"], "was saved with policy.lora.rank = 4, and this run has 8"),
        (["policy.lora.targets=[q_proj]"], "policy.lora.targets = all-linear, and this run has"),
        (["policy.lora.alpha=16.0"], "policy.lora.alpha = 8.0, and this run has 16.0"),
        (["policy.lora=null"], "a run that trains LoRA adapters, and policy.lora = None"),
    ],
)
def test_a_run_with_other_adapters_does_not_start_from_a_checkpoint(
    trained, overrides, message, config_file, tmp_path, capsys
) -> None:
    arguments = ["--config", str(config_file), "--output-dir", str(tmp_path / "run"), *LORA]
    start = ["--resume", str(latest(trained, 1)), "steps=3"]
    assert train.main([*arguments, *start, *overrides]) == 2
    printed = capsys.readouterr().err
    assert message in printed and f"model.path={latest(trained, 1)}" in printed
    assert not (tmp_path / "run").exists()


def test_resuming_with_another_rank_names_the_key(trained, config_file, capsys) -> None:
    arguments = ["--config", str(config_file), "--output-dir", str(trained), *LORA, "steps=3"]
    assert train.main([*arguments, "policy.lora.rank=2"]) == 2
    assert "differs in policy.lora.rank" in capsys.readouterr().err


def test_the_folder_of_the_adapters_names_that_of_its_checkpoint(trained, capsys) -> None:
    adapter = latest(trained) / "adapter"
    assert evaluation.main(["--ckpt", str(adapter)]) == 2
    assert f"use the folder of their checkpoint, {adapter.parent}" in capsys.readouterr().err
