"""Runs of train.py with a KL penalty to the model before training."""

import shutil
from pathlib import Path

import pytest

from asymrl.run import checkpoint
from tests.helpers.runs import comparable, metrics, run, same_weights

KL = ("loss.kl_coef=0.05", "optim.minibatch_prompts=6", "optim.lr=0.01")
LORA = ("policy.lora.rank=4", "optim.lr=0.05")


@pytest.fixture(scope="module", params=["all weights", "adapters"])
def overrides(request) -> tuple[str, ...]:
    return KL if request.param == "all weights" else (*KL, *LORA)


@pytest.fixture(scope="module")
def whole(overrides, config_file, tmp_path_factory) -> Path:
    return run(config_file, tmp_path_factory.mktemp("kl") / "whole", *overrides, "steps=3")


def test_the_divergence_is_0_before_the_first_update_and_then_grows(whole) -> None:
    first, *later = [row["loss/kl"] for row in metrics(whole)[1:]]
    assert first == pytest.approx(0, abs=1e-6)
    assert all(divergence > 1e-4 for divergence in later)


def test_a_resumed_run_has_the_first_models_reference(
    whole, overrides, config_file, tmp_path
) -> None:
    """That of model.path, not of the checkpoint: the metrics are bit-equal."""
    resumed = tmp_path / "resumed"
    shutil.copytree(whole, resumed, symlinks=True)
    for step in (2, 3):
        shutil.rmtree(resumed / "checkpoints" / f"step-{step:06d}")
    checkpoint.point_link(resumed / "checkpoints", "latest", "step-000001")
    run(config_file, resumed, *overrides, "steps=3")
    assert comparable(resumed) == comparable(whole)
    assert same_weights(resumed, whole)


@pytest.mark.parametrize(
    ("settings", "models"),
    [((), 1), (("loss.kl_coef=0.0",), 1), (KL, 2), (LORA, 2), ((*KL, *LORA), 2)],
)
def test_a_reference_is_loaded_only_for_a_penalty_on_all_weights(
    settings, models, config_file, tmp_path, capsys
) -> None:
    """Beside the weights of engine and policy, which are two copies with LoRA and one without."""
    run(config_file, tmp_path / "run", *settings, "steps=1")
    assert capsys.readouterr().out.count("\nloading ") == models
