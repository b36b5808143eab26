"""Every shipped config loads, says what its row says, and dry-runs without a network."""

from pathlib import Path

import pytest

import train
from asymrl import config as configs

FILES = sorted(configs.CONFIG_DIR.glob("*.yaml"))
ROWS = {
    "reinforce": ("asym", 0, 0),
    "grpo": ("asym", 0.5, 0.5),
    "grpo_ent": ("asym", 0.5, 0.5),
    "grpo_clip_higher": ("asym", 0.5, 0.5),
    "pos_only": ("asym", 0.5, 0),
    "neg_only": ("asym", 0, 0.5),
    "asym_sym": ("asym", 0.7, 0.7),
    "asym": ("asym", 0.9, 0.4),
    "ent_increase": ("ent_increase", 0.5, 0.5),
    "ent_decrease": ("ent_decrease", 0.5, 0.5),
}
BACKBONES = {
    "qwen3_4b": (128, 64, 4096),
    "qwen2.5_math_1.5b": (512, 128, 2560),
    "qwen2.5_7b": (128, 64, 4096),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_dry_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--config", path.name, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "optimizer steps" in printed and "GiB" in printed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dumped_config_loads_as_the_same(path: Path, tmp_path: Path) -> None:
    config = configs.load(str(path))
    (tmp_path / "config.yaml").write_text(configs.dump(config))
    assert configs.load(str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize("row", ROWS)
def test_pocket_rows_name_their_estimator(row: str) -> None:
    advantage = configs.load(f"pocket_{row}.yaml").advantage
    betas = advantage.params["beta_pos"], advantage.params["beta_neg"]
    assert (advantage.name, *betas) == ROWS[row]


@pytest.mark.parametrize("row", ROWS)
def test_pocket_rows_differ_from_their_base_only_where_they_say(row: str) -> None:
    base, own = configs.load("pocket.yaml"), configs.load(f"pocket_{row}.yaml")
    allowed = {
        "grpo_ent": {"loss.entropy_bonus"},
        "grpo_clip_higher": {"loss.clip_high"},
    }.get(row, set())
    differing = {k for k in configs.differing_keys(base, own) if not k.startswith("advantage")}
    assert differing == allowed


@pytest.mark.parametrize("row", ["grpo", "asym"])
@pytest.mark.parametrize("model", BACKBONES)
def test_backbones_have_the_papers_settings(model: str, row: str) -> None:
    config = configs.load(f"{model}_{row}")
    rollout, optim = config.rollout, config.optim
    assert (rollout.prompts, optim.minibatch_prompts, rollout.max_tokens) == BACKBONES[model]
    assert (rollout.group_size, optim.lr, config.loss.aggregation) == (8, 2e-6, "token_mean")
    assert tuple(config.advantage.params.values()) == ROWS[row][1:]
