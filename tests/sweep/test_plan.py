"""What a sweep would run, and its mistakes, which are reported before any run."""

from __future__ import annotations

from pathlib import Path

import pytest

from asymrl.config.load import dump_config
from asymrl.errors import UserError
from asymrl.sweep.__main__ import main, make_places, visible_gpus
from asymrl.sweep.plan import check_out, folder_name, make_arms, make_runs, split_values

BETAS = "advantage.beta_pos=0.9,0.5"


def test_every_combination_is_an_arm_named_by_what_varies() -> None:
    arms = make_arms("pocket", [BETAS, "steps=3", "optim.lr=1e-3,1e-4"], None)
    assert [arm.name for arm in arms] == [
        "beta_pos=0.9,lr=1e-3",
        "beta_pos=0.9,lr=1e-4",
        "beta_pos=0.5,lr=1e-3",
        "beta_pos=0.5,lr=1e-4",
    ]
    assert arms[1].overrides == ("advantage.beta_pos=0.9", "steps=3", "optim.lr=1e-4")
    assert arms[1].settings == {"advantage.beta_pos": "0.9", "optim.lr": "1e-4"}


def test_keys_with_the_same_last_part_are_named_in_full() -> None:
    (arm, *_) = make_arms("pocket", ["data.limit=9,8", "eval.limit=1,2"], None)
    assert arm.name == "data.limit=9,eval.limit=1"


def test_rows_are_values_like_others_and_one_arm_has_the_name_of_its_config() -> None:
    assert [arm.name for arm in make_arms("pocket", [], "asym,rloo")] == ["row=asym", "row=rloo"]
    assert [arm.name for arm in make_arms("pocket", ["steps=3"], "rloo")] == ["pocket_rloo"]


def test_runs_are_ordered_by_seed_from_the_seed_of_the_config(tmp_path: Path) -> None:
    arms = make_arms("pocket", [BETAS, "seed=7"], None)
    runs = make_runs("pocket", arms, 2, tmp_path, ["policy.threads=1"])
    assert [run.folder.relative_to(tmp_path).as_posix() for run in runs] == [
        "beta_pos=0.9/seed-7",
        "beta_pos=0.5/seed-7",
        "beta_pos=0.9/seed-8",
        "beta_pos=0.5/seed-8",
    ]
    assert [run.config.seed for run in runs] == [7, 7, 8, 8]
    assert [run.config.advantage.params["beta_pos"] for run in runs] == [0.9, 0.5, 0.9, 0.5]


def test_the_command_line_wins_over_one_thread(tmp_path: Path) -> None:
    for words, threads in (([], 1), (["policy.threads=3"], 3)):
        arms = make_arms("smollm2_135m", words, None)
        (run,) = make_runs("smollm2_135m", arms, 1, tmp_path, ["policy.threads=1"])
        assert run.config.policy.threads == threads


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.9, 0.5", ["0.9", "0.5"]),
        ("[0.9, 0.95],[0.9, 0.99]", ["[0.9, 0.95]", "[0.9, 0.99]"]),
        (
            "{name: asym, beta_pos: 0.9},{name: rloo}",
            ["{name: asym, beta_pos: 0.9}", "{name: rloo}"],
        ),
        ('"Solve, then {problem}",{problem}', ['"Solve, then {problem}"', "{problem}"]),
        ("Let's {problem}", ["Let's {problem}"]),
        ("", [""]),
    ],
)
def test_commas_in_brackets_and_quotes_do_not_separate(text: str, values: list[str]) -> None:
    assert split_values(text, "word") == values


def test_a_mapping_is_a_value() -> None:
    section = "advantage={name: asym, beta_pos: 0.9, beta_neg: 0.4},{name: rloo}"
    arms = make_arms("pocket", [section], None)
    runs = make_runs("pocket", arms, 1, Path("out"), [])
    assert [run.config.advantage.name for run in runs] == ["asym", "rloo"]
    assert all(
        "/" not in run.folder.parent.name and " " not in run.folder.parent.name for run in runs
    )


def test_names_that_no_folder_can_have_stay_distinct() -> None:
    assert folder_name("beta_pos=0.9,lr=1e-3") == "beta_pos=0.9,lr=1e-3"
    names = {folder_name(name) for name in ("path=a/b", "path=a b", "path=a_b", "x" * 500)}
    assert len(names) == 4 and not any("/" in name or len(name) > 140 for name in names)


MISTAKES = [
    (["advantage.beta_pos=0.9,.9"], "advantage.beta_pos=0.9,.9 has the value .9 twice"),
    (["advantage.beta_pos=0.9,0.5,"], "'advantage.beta_pos=0.9,0.5,' has an empty value"),
    (["advantage={name: asym"], "'advantage={name: asym': { is not closed"),
    (["optim.betas=0.9,0.95]"], "'optim.betas=0.9,0.95]': ] closes no bracket"),
    (['data.user="a,b'], '" is not closed'),
    (["data.user=Add, then {problem}"], "data.user = 'Add' must contain {problem} (commas sep"),
    (["advantage.beta_poss=0.9,0.5"], "advantage.beta_poss is not valid"),
    (["optim.learn=1,2"], "unknown key optim.learn"),
    (["advantage.beta_pos=x,0.5"], "advantage.beta_pos = 'x' must be a number"),
    (["optim.lr"], "'optim.lr' must have the form key.sub=value"),
    (["steps=3", "steps=4"], "steps is given twice; write its values as steps=a,b,c"),
    (["seed=1,2"], "seed=1,2: use --seeds N"),
    (["--seeds", "0"], "--seeds must be from 1 to 1000 (got 0)"),
    (["--jobs", "0"], "--jobs must be from 1 to 1000 (got 0)"),
    (["--row", "asym,asim"], "row 'asim' is neither a file nor a name"),
    (["--row", "asym,asym"], "row=asym,asym has the value asym twice"),
    (["--row", "grpo,asym", BETAS, "advantage.beta_neg=0.4"], "are the same config; leave one out"),
    (
        [f"{key}={','.join(map(str, range(1, 13)))}" for key in ("steps", "data.limit")]
        + [f"eval.{key}={','.join(map(str, range(1, 13)))}" for key in ("limit", "every")],
        "these values have 20,736 combinations; at most 10,000 can run",
    ),
]


@pytest.mark.parametrize(("arguments", "part"), MISTAKES)
def test_a_mistake_is_one_sentence_before_any_run(
    arguments: list[str], part: str, tmp_path: Path, capsys
) -> None:
    assert main(["pocket", *arguments, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line and line.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_run_of_another_config_is_a_mistake(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "beta_pos=0.5" / "seed-0"
    folder.mkdir(parents=True)
    (run,) = make_runs("pocket", make_arms("pocket", ["optim.lr=0.1"], None), 1, tmp_path, [])
    (folder / "config.yaml").write_text(dump_config(run.config))
    (folder / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    assert main(["pocket", BETAS, "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "beta_pos=0.5/seed-0 holds a run with another config, which differs in optim.lr" in line
    assert "use the same config or another --out" in line


def test_a_folder_of_other_files_is_no_place_for_a_sweep(tmp_path: Path, capsys) -> None:
    (tmp_path / "notes.md").write_text("mine")
    assert main(["pocket", BETAS, "--out", str(tmp_path)]) == 2
    assert f"--out {tmp_path} already holds other files (notes.md)" in capsys.readouterr().err
    (tmp_path / "beta_pos=0.9" / "seed-0").mkdir(parents=True)
    check_out(tmp_path)


def test_a_sweep_is_not_launched(monkeypatch, capsys) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "x")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    assert main(["pocket"]) == 2
    assert "run it without accelerate or torchrun" in capsys.readouterr().err


def test_runs_get_the_gpus_that_this_process_sees_or_one_core_each() -> None:
    assert visible_gpus(2, None) == ["0", "1"] and visible_gpus(0, "") == []
    assert visible_gpus(2, "5,GPU-7f") == ["5", "GPU-7f"]
    assert make_places(None, [], 3) == [None] * 3 and make_places(2, [], 3) == [None] * 2
    assert make_places(None, ["5", "6"], 9) == ["5", "6"] and make_places(1, ["5", "6"], 9) == ["5"]
    with pytest.raises(UserError, match="--jobs 3: each run needs a GPU, and this machine has 2"):
        make_places(3, ["5", "6"], 9)
