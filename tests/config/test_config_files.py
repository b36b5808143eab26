"""Every config in configs/, and every composition of a model and a row, has the right settings."""

import re
from pathlib import Path

import pytest

import train
from asymrl.config.load import (
    CONFIG_DIR,
    ROW_DIR,
    composition,
    differing_keys,
    dump_config,
    flatten,
    load_config,
)
from asymrl.errors import UserError

FILES = [path.stem for path in sorted(CONFIG_DIR.glob("*.yaml")) if path.stem != "own"]
ROW_FILES = [path.stem for path in sorted(ROW_DIR.glob("*.yaml"))]
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


PAPER_ROWS = {
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
    ("qwen3_1.7b_lora", "reinforce_ent"): 0.005,
    ("pocket", "reinforce_ent"): 0.01,
    ("pocket", "grpo_ent"): 0.002,
    ("smollm2_135m", "reinforce_ent"): 0.002,
    ("smollm2_135m", "grpo_ent"): 0.001,
    **{(m, "grpo_ent"): 0.001 for m in ("qwen3_4b", "qwen2.5_math_1.5b", "qwen2.5_7b")},
    ("qwen3_1.7b_lora", "grpo_ent"): 0.001,
}
ROLLOUT_ROWS = {"dapo": ["rollout"]}  # methods that also choose what to generate
BACKBONES = {
    "qwen3_4b": (128, 64, 4096),
    "qwen2.5_math_1.5b": (512, 128, 2560),
    "qwen2.5_7b": (128, 64, 4096),
}
MODELS = ["pocket", "smollm2_135m", "qwen3_1.7b_lora", *BACKBONES]


@pytest.mark.parametrize("name", [*FILES, *(f"{model}_asym" for model in MODELS)])
def test_every_config_dry_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--config", name, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    verdict, summary, *_ = printed.splitlines()
    assert verdict.startswith("verdict: ") and "fit" in verdict and "GiB" in verdict
    assert summary.startswith("a step: at most ") and summary.endswith(" optimizer steps")
    assert f"\n# composed of {composition(name)}\n" in printed


@pytest.mark.parametrize("name", FILES)
def test_a_dumped_config_loads_as_the_same(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(str(tmp_path / "config.yaml")) == config


@pytest.mark.slow
@pytest.mark.parametrize("row", ROW_FILES)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_composes_with_every_row(model: str, row: str) -> None:
    config = load_config(f"{model}_{row}")
    assert load_config(model, row=row) == config
    base = load_config(model)
    sections = {key.split(".")[0] for key in differing_keys(base, config)}
    assert sections <= {"advantage", "reweight", "loss", "schedule", *ROLLOUT_ROWS.get(row, ())}
    assert sections or row == "grpo", "grpo is the method of the model files themselves"


@pytest.mark.parametrize("name", ["pocket_asym", "qwen2.5_math_1.5b_asym_clip_higher"])
def test_the_suffix_is_optional(name: str) -> None:
    model, row = name.split("_asym")
    config = load_config(name)
    assert load_config(f"{name}.yaml") == config
    assert load_config(f"{model}.yaml", row=f"asym{row}.yaml") == config


@pytest.mark.slow
@pytest.mark.parametrize("row", PAPER_ROWS)
@pytest.mark.parametrize("model", MODELS)
def test_a_row_differs_from_its_model_only_in_its_own_settings(model: str, row: str) -> None:
    base = flatten(load_config(model).model_dump())
    composed = flatten(load_config(f"{model}_{row}").model_dump())
    expected = PAPER_ROWS[row]
    if bonus := BONUS.get((model, row)):
        expected = expected | {"loss.entropy_bonus": bonus}
    assert {key: composed[key] for key in expected} == expected
    differing = {key for key in composed if composed[key] != base.get(key)}
    assert differing <= expected.keys() | {"reweight.std"}


def test_every_row_of_the_paper_has_a_file() -> None:
    assert set(PAPER_ROWS) <= set(ROW_FILES)
    examples = {"qwen3_4b_asym", "pocket_math_smoke", "cw_grpo_paper", "eapo_paper", "pocket_short"}
    examples |= {"qwen3_4b_gym", "smollm2_gym"}
    assert set(FILES) == set(MODELS) | examples


OWN = ["model.path=org/model", "data.train=own.jsonl"]


def test_own_needs_a_model_and_data_and_takes_every_row() -> None:
    for key in ("model.path", "data.train"):
        with pytest.raises(UserError, match=f"{key} is missing; add it to the file"):
            load_config("own", [setting for setting in OWN if not setting.startswith(key)])
    for row in ROW_FILES:
        assert load_config(f"own_{row}", OWN).model.path == "org/model"


def test_every_value_of_own_is_marked_as_ours() -> None:
    lines = (CONFIG_DIR / "own.yaml").read_text().splitlines()
    numbers = [line for line in lines if re.search(r": \[?[0-9]", line.partition("#")[0])]
    assert len(numbers) > 8
    assert [line for line in numbers if "# ours" not in line and "advantage" not in line] == []


def test_another_model_does_not_inherit_shape_and_revision() -> None:
    other = load_config("qwen3_4b_asym", ["model.path=org/model"]).model
    assert other.shape is None and other.revision is None
    same = load_config("qwen3_4b_asym", ["model.path=Qwen/Qwen3-4B"]).model
    assert same.shape and same.revision
    settings = ["model.path=org/model", "model.revision=main"]
    assert load_config("qwen3_4b_asym", settings).model.revision == "main"


def test_a_composed_name_may_stand_behind_the_folder() -> None:
    assert load_config(str(CONFIG_DIR / "pocket_asym.yaml")) == load_config("pocket_asym")


def test_the_example_config_is_the_composed_one() -> None:
    path = CONFIG_DIR / "qwen3_4b_asym.yaml"
    assert path.read_text() == "base: qwen3_4b\nrow: asym\n"
    assert load_config(str(path)) == load_config("qwen3_4b", row="asym")


@pytest.mark.parametrize("model", BACKBONES)
def test_backbones_have_the_papers_settings(model: str) -> None:
    config = load_config(model)
    rollout, optim = config.rollout, config.optim
    assert (rollout.prompts, optim.minibatch_prompts, rollout.max_tokens) == BACKBONES[model]
    assert (rollout.group_size, optim.lr, config.loss.aggregation) == (8, 2e-6, "token_mean")


@pytest.mark.parametrize("name", FILES)
def test_a_policy_in_bf16_is_corrected_for_the_rounding_of_its_engine(name: str) -> None:
    config = load_config(name)
    expected = ("token", 0.02) if config.policy.dtype == "bfloat16" else ("off", 0.05)
    assert (config.loss.importance_sampling, config.warn.mismatch_above) == expected
    assert config.loss.importance_cap == 2


@pytest.mark.parametrize("model", MODELS)
def test_dapo_penalizes_the_last_fifth_of_long_responses(model: str) -> None:
    """As the paper has 4,096 of 20,480 tokens; rounded, and for the long responses only."""
    config = load_config(f"{model}_dapo")
    rollout, loss = config.rollout, config.loss
    assert rollout.dynamic_sampling and rollout.dynamic_sampling.max_rounds == 10
    assert (loss.params["clip_low"], loss.params["clip_high"]) == (0.2, 0.28)
    assert loss.aggregation == "token_mean"
    assert (rollout.overlong is not None) == model.startswith("qwen")
    if rollout.overlong:
        assert rollout.overlong.buffer == pytest.approx(rollout.max_tokens / 5, rel=0.03)
        assert rollout.overlong.penalty == 1


def test_rival_papers_have_their_own_settings() -> None:
    cw, eapo = load_config("cw_grpo_paper"), load_config("eapo_paper")
    assert (cw.data.train, cw.rollout.group_size, cw.rollout.temperature) == ("open_rs", 12, 0.7)
    assert (cw.steps, cw.optim.lr, "minerva" in cw.eval.benchmarks) == (100, 1e-6, True)
    assert (eapo.data.train, eapo.rollout.prompts, eapo.optim.minibatch_prompts) == (
        "deepscaler",
        512,
        32,
    )
    assert (eapo.steps, eapo.rollout.max_tokens, eapo.loss.params["clip_high"]) == (220, 3072, 0.28)
