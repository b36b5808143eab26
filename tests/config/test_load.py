"""The config: merging, overrides, and one sentence for every kind of mistake."""

from pathlib import Path

import pytest

from asymrl.algo.advantages import ADVANTAGES
from asymrl.config.load import CONFIG_DIR, differing_keys, dump_config, load_config
from asymrl.errors import UserError


def message(*overrides: str, config: str = "pocket_asym.yaml") -> str:
    with pytest.raises(UserError) as raised:
        load_config(config, overrides)
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("rollout.group_sise=8", ["rollout.group_sise", "did you mean group_size", "prompts"]),
        ("rolout.group_size=8", ["rolout", "did you mean rollout"]),
        ("rollout.group_size=1", ["rollout.group_size = 1", "greater than or equal to 2"]),
        ("rollout.group_size=many", ["rollout.group_size = 'many'", "integer"]),
        ("rollout.group_size=4.5", ["rollout.group_size = 4.5", "integer"]),
        ("steps=0", ["steps = 0", "greater than or equal to 1"]),
        ("steps=true", ["steps = True", "integer"]),
        ("optim.lr=-1", ["optim.lr = -1", "greater than or equal to 0"]),
        ("optim.lr=.inf", ["optim.lr = inf", "finite"]),
        ("optim.betas=[0.9]", ["optim.betas", "at least 2 items"]),
        ("rollout.top_p=0.9", ["rollout.top_p = 0.9", "only top_p 1"]),
        ("rollout.top_k=50", ["rollout.top_k = 50", "top_k 0"]),
        ("rollout.temperature=0", ["rollout.temperature = 0", "greater than 0"]),
        ("optim.minibatch_prompts=5", ["optim.minibatch_prompts = 5", "divide", "32"]),
        ("advantage.beta_pos=-0.5", ["advantage.beta_pos = -0.5", "from 0 to 40"]),
        ("advantage.beta_pos=high", ["advantage.beta_pos = 'high'", "from 0 to 40"]),
        ("advantage.gamma=1", ["advantage.gamma", "beta_pos, beta_neg"]),
        ("advantage.name=gpro", ["advantage.name = 'gpro'", "asym", "grpo_sample_std"]),
        ("advantage={name: qae, quantile: 2}", ["'qae'", "quantile must be from 0 to 1 (got 2.0)"]),
        ("reweight.name=quadrant", ["reweight.which is missing"]),
        ("reweight={name: quadrant, which: up}", ["reweight.which = 'up'", "nhr, nlr, phr, plr"]),
        ("reweight.scope=group", ["reweight.scope", "none takes no parameters"]),
        (
            "reweight={name: entropy_aware, phi: 0}",
            ["'entropy_aware'", "phi must be above 0 (got 0.0)"],
        ),
        ("schedule.name=linear", ["schedule.end_beta_pos is missing"]),
        ("schedule.name=spiral", ["schedule.name = 'spiral'", "cosine", "peak_tracking"]),
        ("checkpoint.select=best", ["checkpoint.select"]),
        ("checkpoint.select={best_on: gsm8k}", ["select.best_on = 'gsm8k'", "pocket_heldout"]),
        (
            "checkpoint={select: {best_on: pocket_heldout}, every: 15}",
            ["checkpoint.every = 15", "multiple of eval.every = 10"],
        ),
        ("verifier.name=llm", ["verifier.name = 'llm'", "exact", "math"]),
        ("loss.aggregation=mean", ["loss.aggregation = 'mean'", "token_mean"]),
        ("data.user=hello", ["data.user = 'hello'", "{problem}"]),
        ("rollout.engine=sglang", ["rollout.engine = 'sglang'", "hf"]),
        ("rollout=5", ["rollout = 5"]),
        ("steps", ["override 'steps'", "key.sub=value"]),
        ("advantage.name=[asym]", ["advantage.name"]),
        ("[=1", ["override '[=1'", "key.sub=value"]),
        ("verifier.timeout=.inf", ["verifier.timeout = inf"]),
        ("--steps=5", ["override '--steps=5'", "key.sub=value"]),
        ("data.limit=${nowhere}", ["nowhere", "interpolation"]),
        ("steps=" + "9" * 5000, ["override", "not YAML"]),
        ("steps=1000000000001", ["steps", "less than or equal to"]),
        ("seed=9223372036854775808", ["seed", "less than or equal to"]),
        ('tracking.project="a\\0b"', ["a\\x00b", "NUL"]),
        ('tracking.project="\\ud800"', ["not YAML"]),
        ("checkpoint.select={best_off: a}", ["best_off", "best_on"]),
        ("steps=" + "[" * 100, ["no config has", "levels"]),
        ("steps=[&a [*a]]", ["alias *a"]),
    ],
)
def test_a_mistake_is_one_sentence_with_key_value_and_what_is_valid(
    override: str, parts: list[str]
) -> None:
    text = message(override)
    for part in parts:
        assert part in text


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("steps: 5\n")
    assert "model is missing" in message(config=str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("text", "part"),
    [("a: [", "is not YAML"), ("- 1", "mapping"), ("", "is missing"), ("base: no.yaml", "no.yaml")],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert part in message(config=str(tmp_path / "c.yaml"))


BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (BOMB, "no config has over"),
        ("[" * 100_000, "no config has over"),  # the parser of YAML would crash
        ("a: &a {b: *a}", "alias *a names nothing, or what it is in"),
        ("seed: 1\nseed: 2", "duplicate key"),
        ("!!set {a}", "cannot be read: Invalid loaded object"),
        ("#" * 1_000_001, "is over 1,000,000 bytes"),
        ('base: "a\\0b"', "is not YAML"),
    ],
)
def test_a_file_that_would_fill_the_memory_or_crash_is_a_sentence(
    tmp_path: Path, text: str, part: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert part in message(config=str(tmp_path / "c.yaml"))


def test_aliases_are_written_out(tmp_path: Path) -> None:
    base = CONFIG_DIR / "pocket.yaml"
    text = f"base: {base}\nrollout: {{group_size: &g 4}}\neval: {{samples: *g}}\n"
    (tmp_path / "c.yaml").write_text(text)
    config = load_config(str(tmp_path / "c.yaml"))
    assert config.rollout.group_size == config.eval.samples == 4


@pytest.mark.parametrize(
    "text", ["数学 {problem}", "\x85{problem}", "\u2028 {problem}\n", "???{problem}"]
)
def test_what_is_dumped_is_what_is_loaded(tmp_path: Path, text: str) -> None:
    config = load_config("pocket")
    told = config.model_copy(update={"data": config.data.model_copy(update={"user": text})})
    (tmp_path / "c.yaml").write_text(dump_config(told), encoding="utf-8")
    assert load_config(str(tmp_path / "c.yaml")) == told


def test_an_unknown_config_names_the_nearest() -> None:
    assert "pocket_asym" in message(config="pocket_asim.yaml")


def test_two_levels_of_base_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: c.yaml\n")
    assert "one level" in message(config=str(tmp_path / "a.yaml"))


def test_overrides_win_over_the_row_and_the_row_over_its_base() -> None:
    config = load_config("pocket_asym", ["steps=7", "advantage.beta_neg=0.25"])
    assert config.steps == 7
    assert config.advantage.params == {"beta_pos": 0.9, "beta_neg": 0.25}


def test_another_estimator_does_not_inherit_the_bases_parameters(tmp_path: Path) -> None:
    row = f"base: {CONFIG_DIR / 'pocket.yaml'}\nadvantage: {{name: grpo_sample_std}}\n"
    (tmp_path / "row.yaml").write_text(row)
    assert load_config(str(tmp_path / "row.yaml")).advantage.params == {}


def test_an_estimator_is_one_function_and_one_dict_line(monkeypatch) -> None:
    def maxrl(groups, *, epsilon: float = 1e-6):
        return groups.rewards / epsilon

    monkeypatch.setitem(ADVANTAGES, "maxrl", maxrl)
    plain = load_config("pocket_asym", ["advantage.name=maxrl"])
    assert plain.advantage.params == {"epsilon": 1e-6}
    chosen = load_config("pocket_asym", ["advantage.name=maxrl", "advantage.epsilon=0.5"])
    assert chosen.advantage.params == {"epsilon": 0.5}
    assert "maxrl takes epsilon" in message("advantage.name=maxrl", "advantage.beta_pos=0.5")


def test_a_schedule_needs_betas_to_move() -> None:
    overrides = ("advantage.name=rloo", "schedule.name=peak_tracking")
    assert "moves beta_pos and beta_neg, which advantage.name = 'rloo'" in message(*overrides)


def test_a_row_goes_over_a_config_and_under_the_overrides() -> None:
    config = load_config("pocket", ["loss.clip_high=0.5"], row="ngrpo")
    assert (config.advantage.name, config.advantage.params) == ("ngrpo", {})
    assert (config.loss.clip_low, config.loss.clip_high) == (0.16, 0.5)
    with pytest.raises(UserError, match="'rlo' is neither a file nor a name in configs/rows/"):
        load_config("pocket", row="rlo")


def test_differing_keys_leaves_out_what_a_continuation_may_change() -> None:
    one = load_config("pocket_asym")
    other = load_config("pocket_asym", ["steps=9", "checkpoint.every=1", "seed=3", "optim.lr=1"])
    assert differing_keys(one, other) == ["optim.lr", "seed"]
