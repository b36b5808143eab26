"""Loading a config: composition, overrides, and one sentence for every kind of mistake."""

from pathlib import Path

import pytest

from asymrl.algo.advantages import ADVANTAGES
from asymrl.config.load import CONFIG_DIR, composition, differing_keys, dump_config, load_config
from asymrl.errors import UserError


def message(*overrides: str, config: str = "pocket_asym.yaml") -> str:
    with pytest.raises(UserError) as raised:
        load_config(config, overrides)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_a_bare_off_is_the_word(tmp_path: Path) -> None:
    """YAML reads it as false."""
    (tmp_path / "off.yaml").write_text("base: qwen3_4b\ntracking: {wandb: off}\n")
    config = load_config(str(tmp_path / "off.yaml"), ["loss.importance_sampling=off"])
    assert (config.tracking.wandb, config.loss.importance_sampling) == ("off", "off")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("rollout.group_sise=8", ["rollout.group_sise", "did you mean rollout.group_size?"]),
        ("rolout.group_size=8", ["rolout.group_size", "did you mean rollout.group_size?"]),
        ("rollout.group_size=1", ["rollout.group_size = 1", "greater than or equal to 2"]),
        ("rollout.group_size=many", ["rollout.group_size = 'many'", "integer"]),
        ("rollout.group_size=4.5", ["rollout.group_size = 4.5", "integer"]),
        ("steps=0", ["steps = 0", "greater than or equal to 1"]),
        ("steps=true", ["steps = True", "integer"]),
        ("optim.lr=-1", ["optim.lr = -1", "greater than or equal to 0"]),
        ("optim.lr=.inf", ["optim.lr = inf", "finite"]),
        ("optim.betas=[0.9]", ["optim.betas", "at least 2 items"]),
        ("rollout.top_p=0.9", ["rollout.top_p = 0.9", "use top_p=1"]),
        ("rollout.top_k=50", ["rollout.top_k = 50", "top_k=0"]),
        ("rollout.temperature=0", ["rollout.temperature = 0", "greater than 0"]),
        ("optim.minibatch_prompts=5", ["optim.minibatch_prompts = 5", "divide", "32"]),
        ("rollout.dynamic_sampling=true", ["a section; its keys are leftover, max_rounds"]),
        ("rollout.dynamic_sampling.leftover=all", ["leftover = 'all' must be 'drop' or 'keep'"]),
        ("rollout.dynamic_sampling.max_rounds=1", ["max_rounds = 1", "greater than or equal to 2"]),
        ("rollout.filter_groups=true", ["did you mean rollout.dynamic_sampling.leftover?"]),
        ("rollout.overlong=8", ["a section; its keys are buffer, penalty"]),
        ("rollout.overlong={}", ["rollout.overlong.buffer is missing"]),
        ("rollout.overlong={buffer: 40}", ["buffer = 40", "at most rollout.max_tokens = 32"]),
        ("rollout.overlong={buffer: 4, penalty: 0}", ["penalty = 0", "greater than 0"]),
        (
            "rollout={truncation: mask, overlong: {buffer: 4}}",
            ["rollout.truncation = 'mask' leaves them out of the loss; use truncation=score or"],
        ),
        ("advantage.beta_pos=-0.5", ["advantage.beta_pos = -0.5", "from 0 to 40"]),
        ("advantage.beta_pos=high", ["advantage.beta_pos = 'high'", "from 0 to 40"]),
        ("advantage.gamma=1", ["advantage.gamma", "beta_pos, beta_neg"]),
        ("advantage.name=gpro", ["advantage.name = 'gpro'", "asym", "grpo_sample_std"]),
        (
            "advantage={name: qae, quantile: 2}",
            ["advantage.quantile = 2.0", "quantile must be from 0 to 1 (got 2.0)"],
        ),
        ("reweight.name=quadrant", ["reweight.which is missing"]),
        ("reweight={name: quadrant, which: up}", ["reweight.which = 'up'", "nhr, nlr, phr, plr"]),
        ("reweight.scope=group", ["reweight.scope", "none takes no parameters"]),
        (
            "reweight={name: entropy_aware, phi: 0}",
            ["reweight.phi = 0.0", "phi must be above 0 (got 0.0)"],
        ),
        ("schedule.name=linear", ["schedule.end_beta_pos is missing"]),
        ("schedule.name=spiral", ["schedule.name = 'spiral'", "cosine", "peak_tracking"]),
        ("checkpoint.select=best", ["checkpoint.select"]),
        ("checkpoint.select={best_on: gsm8k}", ["select.best_on = 'gsm8k'", "pocket_heldout"]),
        (
            "checkpoint={select: {best_on: pocket_heldout}, every: 15}",
            ["checkpoint.every = 15", "multiple of eval.every = 10"],
        ),
        ("eval.sampling={greedy: {temperature: 0.5}}", ["greedy.temperature = 0.5 must be 0"]),
        ("eval.sampling={a/b: {temperature: 0.5}}", ["eval.sampling.a/b"]),
        ("eval.sampling={greedy: null, t0.4: null}", ["eval.sampling", "at least 1"]),
        ("eval.sampling={t1: {samples: 4}}", ["eval.sampling.t1.temperature is missing"]),
        (
            "eval.sampling={t0: {temperature: 0.0, samples: 4}}",
            ["samples = 4 at temperature 0", "use 1"],
        ),
        (
            "eval={patience: 2, sampling: {greedy: null, t1: {temperature: 1.0}}}",
            ["read the setting greedy", "add greedy: {temperature: 0.0}"],
        ),
        (
            "data={chat_template: none, system: Add.}",
            ["data.system and data.chat_template_kwargs require a chat template"],
        ),
        ("verifier.name=llm", ["verifier.name = 'llm'", "exact", "math"]),
        ("loss.aggregation=mean", ["loss.aggregation = 'mean'", "token_mean"]),
        ("data.user=hello", ["data.user = 'hello'", "{problem}"]),
        ("rollout.engine=sglang", ["rollout.engine = 'sglang'", "hf"]),
        ("rollout=5", ["rollout = 5"]),
        ("steps", ["command line: 'steps'", "key.sub=value"]),
        ("advantage.name=[asym]", ["advantage.name"]),
        ("[=1", ["'[=1'", "key.sub=value"]),
        ("verifier.timeout=.inf", ["verifier.timeout = inf"]),
        ("--steps=5", ["'--steps=5'", "key.sub=value"]),
        ("data.limit=${nowhere}", ["nowhere", "interpolation"]),
        ("steps=" + "9" * 5000, ["command line", "not valid YAML"]),
        ("steps=1000000000001", ["steps", "less than or equal to"]),
        ("seed=9223372036854775808", ["seed", "less than or equal to"]),
        ('tracking.project="a\\0b"', ["a\\x00b", "NUL"]),
        ('tracking.project="\\ud800"', ["not valid YAML"]),
        ("checkpoint.select={best_off: a}", ["best_off", "best_on"]),
        ("steps=" + "[" * 100, ["at most 10,000 values and 30 levels"]),
        ("steps=[&a [*a]]", ["alias *a is undefined or recursive"]),
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
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "mapping"),
        ("", "is missing"),
        ("base: no.yaml", "no.yaml"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert part in message(config=str(tmp_path / "c.yaml"))


BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (BOMB, "a config may have at most 10,000 values"),
        ("[" * 100_000, "a config may have at most 10,000 values"),  # would crash the YAML parser
        ("a: &a {b: *a}", "alias *a is undefined or recursive"),
        ("seed: 1\nseed: 2", "duplicate key"),
        ("!!set {a}", "cannot be read: Invalid loaded object"),
        ("#" * 1_000_001, "is larger than 1,000,000 bytes"),
        ('base: "a\\0b"', "c.yaml: 'a\\x00b' contains a NUL"),
    ],
)
def test_a_file_that_would_fill_the_memory_or_crash_is_rejected_in_one_sentence(
    tmp_path: Path, text: str, part: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert part in message(config=str(tmp_path / "c.yaml"))


def test_aliases_are_expanded(tmp_path: Path) -> None:
    base = CONFIG_DIR / "pocket.yaml"
    text = f"base: {base}\nrollout: {{group_size: &g 4}}\neval: {{limit: *g}}\n"
    (tmp_path / "c.yaml").write_text(text)
    config = load_config(str(tmp_path / "c.yaml"))
    assert config.rollout.group_size == config.eval.limit == 4


@pytest.mark.parametrize(
    "text", ["数学 {problem}", "\x85{problem}", "\u2028 {problem}\n", "???{problem}"]
)
def test_a_dumped_config_with_unusual_text_loads_as_the_same(tmp_path: Path, text: str) -> None:
    config = load_config("pocket")
    changed = config.model_copy(update={"data": config.data.model_copy(update={"user": text})})
    (tmp_path / "c.yaml").write_text(dump_config(changed), encoding="utf-8")
    assert load_config(str(tmp_path / "c.yaml")) == changed


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("pocket_asim.yaml", "pocket_asym"),
        ("qwen3_4b_asym_clip", "qwen3_4b_asym_clip_higher"),
        ("qwen3_5b_grpo", "qwen3_4b_grpo"),
        ("zzz", "valid are cw_grpo_paper"),
        ("", "valid are"),
        ("x" * 300, "valid are"),
        ("pocket_\0", "nearest are pocket"),
    ],
)
def test_an_unknown_config_names_the_nearest(name: str, nearest: str) -> None:
    assert nearest in message(config=name)


def test_a_path_without_a_file_names_those_beside_it(tmp_path: Path) -> None:
    for name in ("own.yaml", "other.yaml"):
        (tmp_path / name).write_text("base: own\n")
    part = f"{tmp_path / 'ownn.yaml'}' does not exist; the nearest are {tmp_path / 'own.yaml'}"
    assert part in message(config=str(tmp_path / "ownn.yaml"))
    part = f"valid are {tmp_path / 'other.yaml'}, {tmp_path / 'own.yaml'}"
    assert part in message(config=f"{tmp_path}/" + "z" * 200)
    with pytest.raises(UserError, match=r"row .* does not exist; the nearest are"):
        load_config("pocket", row=str(tmp_path / "ownn.yaml"))
    (tmp_path / "empty").mkdir()
    assert "empty has no .yaml files" in message(config=str(tmp_path / "empty" / "own.yaml"))


def test_a_base_with_a_base_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: c.yaml\n")
    assert "only one level is supported" in message(config=str(tmp_path / "a.yaml"))


def test_overrides_win_over_the_row_and_the_row_over_the_model() -> None:
    config = load_config("pocket_asym", ["steps=7", "advantage.beta_neg=0.25"])
    assert config.steps == 7
    assert config.advantage.params == {"beta_pos": 0.9, "beta_neg": 0.25}


def test_another_estimator_does_not_inherit_the_parameters_of_the_base(tmp_path: Path) -> None:
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


def test_a_schedule_requires_an_estimator_with_betas() -> None:
    overrides = ("advantage.name=rloo", "schedule.name=peak_tracking")
    assert "changes beta_pos and beta_neg, but advantage.name = 'rloo'" in message(*overrides)


def test_a_row_option_wins_over_the_config_and_overrides_win_over_it() -> None:
    config = load_config("pocket", ["loss.clip_high=0.5"], row="ngrpo")
    assert (config.advantage.name, config.advantage.params) == ("ngrpo", {})
    assert (config.loss.params["clip_low"], config.loss.params["clip_high"]) == (0.16, 0.5)
    with pytest.raises(UserError, match="'rlo' is neither a file nor a name in configs/rows/"):
        load_config("pocket", row="rlo")


def test_differing_keys_omits_what_may_change_on_resume() -> None:
    one = load_config("pocket_asym")
    other = load_config("pocket_asym", ["steps=9", "checkpoint.every=1", "seed=3", "optim.lr=1"])
    assert differing_keys(one, other) == ["model.path", "optim.lr", "seed"]


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def model_with_rows(rows: str) -> str:
    return (CONFIG_DIR / "pocket.yaml").read_text().partition("\nrows:")[0] + f"\nrows: {rows}\n"


def test_a_file_is_composed_of_model_row_rows_block_and_its_own_keys(tmp_path: Path) -> None:
    rows = "{reinforce_ent: {loss: {entropy_bonus: 0.3, clip_high: 0.3}}}"
    write(tmp_path, model=model_with_rows(rows), mine="base: model\nrow: reinforce_ent\n")
    config = load_config(str(tmp_path / "mine.yaml"))
    assert config.advantage.params == {"beta_pos": 0.0, "beta_neg": 0.0}
    assert (config.loss.entropy_bonus, config.loss.params["clip_high"]) == (0.3, 0.3)
    write(tmp_path, mine="base: model\nrow: reinforce_ent\nloss: {entropy_bonus: 0.4}\n")
    config = load_config(str(tmp_path / "mine.yaml"), ["loss.clip_low=0.1"])
    loss = config.loss
    assert (loss.entropy_bonus, loss.params) == (
        0.4,
        {"clip_high": 0.3, "clip_low": 0.1, "dual_clip": 0.0},
    )
    files = [str(tmp_path / "model.yaml"), "configs/rows/reinforce_ent.yaml"]
    files += [f"{tmp_path / 'model.yaml'} (rows.reinforce_ent)", str(tmp_path / "mine.yaml")]
    assert composition(str(tmp_path / "mine.yaml")) == " + ".join(files)


def test_a_row_option_brings_the_models_values_for_that_row(tmp_path: Path) -> None:
    write(tmp_path, mine="base: pocket\nloss: {entropy_bonus: 0.5}\n")
    assert load_config(str(tmp_path / "mine.yaml")).loss.entropy_bonus == 0.5
    assert load_config(str(tmp_path / "mine.yaml"), row="grpo_ent").loss.entropy_bonus == 0.002
    assert load_config("pocket_asym", row="grpo_ent") == load_config("pocket_grpo_ent")


def test_a_base_is_looked_up_beside_the_file_first(tmp_path: Path) -> None:
    write(tmp_path, pocket=model_with_rows("{}").replace("steps: 100", "steps: 101"))
    for base in ("pocket", "pocket.yaml", str(tmp_path / "pocket.yaml")):
        write(tmp_path, mine=f"base: {base}\n")
        assert load_config(str(tmp_path / "mine.yaml")).steps == 101


def test_a_row_may_be_a_path(tmp_path: Path) -> None:
    write(tmp_path, own="advantage: {name: rloo}\n", mine=f"base: pocket\nrow: {tmp_path}/own.yaml")
    assert load_config(str(tmp_path / "mine.yaml")).advantage.name == "rloo"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("base: poket", "base 'poket' is neither a file beside it nor a name"),
        ("base: poket", "the nearest are pocket"),
        ("base: pocket_asym", "the nearest are pocket"),
        ("base: pocket\nrow: asim", "row 'asim' is neither a file nor a name in configs/rows/"),
        ("base: pocket\nrow: [asym]", "row: must be a path or a name, got ['asym']"),
        ("base: null", "base: must be a path or a name, got None"),
        ("base: 3", "base: must be a path or a name, got 3"),
        ("row: asym", "row: requires base:"),
        ("base: qwen3_4b_asym", "only one level is supported"),
        ("base: pocket\nrows: {}", "rows: is valid only in a model file"),
    ],
)
def test_a_wrong_composition_is_one_sentence(tmp_path: Path, text: str, part: str) -> None:
    write(tmp_path, mine=text + "\n")
    assert part in message(config=str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ("[asym]", "rows: must map names of rows"),
        ("{asim: {}}", "row 'asim' is neither a file"),
        ("{grpo: 5}", "rows.grpo must be a mapping"),
        (
            "{asym: {los: {clip_low: 1}}}",
            "(rows.asym): unknown key los.clip_low; did you mean loss.clip",
        ),
    ],
)
def test_a_wrong_rows_block_is_one_sentence(tmp_path: Path, rows: str, part: str) -> None:
    write(tmp_path, model=model_with_rows(rows))
    with pytest.raises(UserError) as raised:
        load_config(str(tmp_path / "model.yaml"), row="asym")
    assert part in str(raised.value)


def test_null_removes_an_evaluation_setting_of_the_base_config() -> None:
    base = load_config("smollm2_135m").eval.sampling
    fewer = load_config("smollm2_135m", ["eval.sampling={t1: null, never: null}"]).eval.sampling
    assert "t1" in base and fewer == {name: base[name] for name in base if name != "t1"}
