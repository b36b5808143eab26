"""Every shipped config loads, says what its row says, and dry-runs without a network."""

from pathlib import Path

import pytest

import train
from asymrl.config.load import (
    CONFIG_DIR,
    ROW_DIR,
    differing_keys,
    dump_config,
    flatten,
    load_config,
)

FILES = sorted(CONFIG_DIR.glob("*.yaml"))
OVERLAYS = sorted(ROW_DIR.glob("*.yaml"))
GRPO = {"advantage.name": "asym", "advantage.beta_pos": 0.5, "advantage.beta_neg": 0.5}
HIGHER = {"loss.clip_high": 0.28}


def asym(beta_pos: float, beta_neg: float) -> dict[str, object]:
    return {
        "advantage.name": "asym",
        "advantage.beta_pos": beta_pos,
        "advantage.beta_neg": beta_neg,
    }


def reweight(name: str, **params: object) -> dict[str, object]:
    return {"reweight.name": name} | {f"reweight.{key}": value for key, value in params.items()}


ROWS = {
    "reinforce": asym(0, 0),
    "reinforce_ent": asym(0, 0),
    "grpo": GRPO,
    "grpo_ent": GRPO,
    "grpo_clip_higher": GRPO | HIGHER,
    "dr_grpo": {"advantage.name": "dr_grpo", "loss.aggregation": "constant"},
    "pos_only": asym(0.5, 0),
    "neg_only": asym(0, 0.5),
    "asym_sym": asym(0.7, 0.7),
    "asym": asym(0.9, 0.4),
    "asym_clip_higher": asym(0.9, 0.4) | HIGHER,
    "ent_increase": GRPO | {"advantage.name": "ent_increase"},
    "ent_decrease": GRPO | {"advantage.name": "ent_decrease"},
    "cw_grpo": GRPO | reweight("covariance_kernel", scope="group"),
    "eapo": GRPO | HIGHER | reweight("entropy_aware", alpha=0.2, phi=2),
    **{
        f"quad_{which}": GRPO | HIGHER | reweight("quadrant", which=which)
        for which in ("phr", "plr", "nhr", "nlr")
    },
}
BONUS = {
    ("qwen3_4b", "reinforce_ent"): 0.005,
    ("qwen2.5_math_1.5b", "reinforce_ent"): 0.002,
    ("qwen2.5_7b", "reinforce_ent"): 0.002,
    ("pocket", "reinforce_ent"): 0.05,
    ("pocket", "grpo_ent"): 0.05,
    **{(m, "grpo_ent"): 0.001 for m in ("qwen3_4b", "qwen2.5_math_1.5b", "qwen2.5_7b")},
}
BACKBONES = {
    "qwen3_4b": (128, 64, 4096),
    "qwen2.5_math_1.5b": (512, 128, 2560),
    "qwen2.5_7b": (128, 64, 4096),
}
MODELS = ["pocket", *BACKBONES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_dry_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--config", path.name, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "optimizer steps" in printed and "GiB" in printed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dumped_config_loads_as_the_same(path: Path, tmp_path: Path) -> None:
    config = load_config(str(path))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("model", MODELS)
def test_a_row_is_its_base_but_for_what_it_says(model: str, row: str) -> None:
    base = flatten(load_config(model).model_dump())
    own = flatten(load_config(f"{model}_{row}").model_dump())
    said = ROWS[row]
    if bonus := BONUS.get((model, row)):
        said = said | {"loss.entropy_bonus": bonus}
    assert {key: own[key] for key in said} == said
    differing = {key for key in own if own[key] != base.get(key)}
    assert differing <= said.keys() | {"reweight.std"}


def test_every_row_of_every_model_has_a_file_and_nothing_else_does() -> None:
    found = {path.stem for path in FILES}
    rows = {f"{model}_{row}" for model in MODELS for row in ROWS}
    assert found == rows | set(MODELS) | {"pocket_math_smoke", "cw_grpo_paper", "eapo_paper"}


@pytest.mark.parametrize("row", OVERLAYS, ids=lambda path: path.stem)
@pytest.mark.parametrize("model", MODELS)
def test_an_overlay_goes_over_any_model(model: str, row: Path) -> None:
    base, own = load_config(model), load_config(model, row=row.stem)
    sections = {key.split(".")[0] for key in differing_keys(base, own)}
    assert sections and sections <= {"advantage", "reweight", "loss", "schedule"}


@pytest.mark.parametrize("model", BACKBONES)
def test_backbones_have_the_papers_settings(model: str) -> None:
    config = load_config(model)
    rollout, optim = config.rollout, config.optim
    assert (rollout.prompts, optim.minibatch_prompts, rollout.max_tokens) == BACKBONES[model]
    assert (rollout.group_size, optim.lr, config.loss.aggregation) == (8, 2e-6, "token_mean")


def test_rival_papers_have_their_own_settings() -> None:
    cw, eapo = load_config("cw_grpo_paper"), load_config("eapo_paper")
    assert (cw.data.train, cw.rollout.group_size, cw.rollout.temperature) == ("open_rs", 12, 0.7)
    assert (cw.steps, cw.optim.lr, "minerva" in cw.eval.benchmarks) == (100, 1e-6, True)
    assert (eapo.data.train, eapo.rollout.prompts, eapo.optim.minibatch_prompts) == (
        "deepscaler",
        512,
        32,
    )
    assert (eapo.steps, eapo.rollout.max_tokens, eapo.loss.clip_high) == (220, 3072, 0.28)
