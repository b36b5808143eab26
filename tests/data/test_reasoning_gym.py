"""Problems of reasoning-gym: which ones a source has, and what is said about a wrong one."""

import sys

import pytest

import train
from asymrl.config.load import load_config
from asymrl.data.readers import read_problem_rows
from asymrl.data.reasoning_gym import HELDOUT, GymSettings
from asymrl.data.sources import locate_benchmark
from asymrl.errors import UserError

SOURCE = "reasoning_gym:gcd"
SMALL = GymSettings(size=40)


def problems(source: str, settings: GymSettings, *, heldout: bool = False) -> list[str]:
    rows, _ = read_problem_rows(source, gym=settings, heldout=heldout)
    assert len({row.id for row in rows}) == len(rows)
    return [row.problem for row in rows]


@pytest.mark.slow
def test_a_seed_gives_the_same_problems_and_another_seed_others() -> None:
    mine = problems(SOURCE, SMALL)
    assert len(set(mine)) == 40
    assert problems(SOURCE, SMALL) == mine
    for seed in range(1, 4):  # the package's own neighbouring seeds share nearly all problems
        assert len(set(mine) & set(problems(SOURCE, GymSettings(size=40, seed=seed)))) < 5


@pytest.mark.slow
def test_held_out_problems_are_the_same_for_every_seed_and_are_never_trained_on() -> None:
    # 20 numbers make 210 pairs, so that a random training set would have held-out problems
    small = {"gcd": {"min_numbers": 2, "max_numbers": 2, "max_value": 20}}
    one, other = (GymSettings(size=150, seed=seed, difficulty=small) for seed in (0, 1))
    heldout = problems(SOURCE, one, heldout=True)
    assert 0 < len(heldout) <= HELDOUT
    assert problems(SOURCE, other, heldout=True) == heldout
    assert not set(heldout) & (set(problems(SOURCE, one)) | set(problems(SOURCE, other)))


@pytest.mark.slow
def test_the_first_rows_of_a_mix_are_from_every_task() -> None:
    rows, _ = read_problem_rows("reasoning_gym:gcd, lcm,count_bits", gym=GymSettings(size=5))
    tasks = [row.row["reasoning_gym"]["task"] for row in rows]
    assert tasks == ["gcd", "lcm", "count_bits"] * 5


@pytest.mark.slow
def test_a_higher_level_is_harder() -> None:
    longest = [
        max(map(len, problems(SOURCE, GymSettings(size=20, difficulty=level))))
        for level in (0, {"gcd": 3})
    ]
    assert longest[0] < longest[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (GymSettings(difficulty=4), "difficulty = 4 is not valid for gcd: its levels are 0 to 3"),
        (
            GymSettings(difficulty={"gcd": {"max_nmbers": 3}}),
            "no parameter max_nmbers; it has",
        ),
        (GymSettings(difficulty={"gcd": {"max_value": -1}}), "max_value must be > min_value"),
        (GymSettings(difficulty={"gcd": {"seed": 1}}), "it has no parameter seed"),
        (
            GymSettings(size=300, difficulty={"gcd": {"max_numbers": 2, "max_value": 20}}),
            "size = 300: gcd has only ",
        ),
        (  # 210 pairs: 200 million draws would find no more
            GymSettings(size=10**7, difficulty={"gcd": {"max_numbers": 2, "max_value": 20}}),
            "size = 10000000: gcd has only ",
        ),
    ],
)
def test_a_wrong_difficulty_is_one_sentence(settings: GymSettings, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        problems(SOURCE, settings)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data.train=reasoning_gym:gdc"], "data.train: reasoning_gym:gdc is not one of the"),
        (["data.train=reasoning_gym:countdown"], "checked tasks"),
        (["data.train='reasoning_gym:gcd,gcd'"], "names gcd twice"),
        (["eval.benchmarks=['reasoning_gym:gcd,lcm']"], "each task is a benchmark of its own"),
        (["data.reasoning_gym.size=9"], "data.reasoning_gym applies only to data.train or"),
        (
            [f"data.train={SOURCE}", "data.reasoning_gym.difficulty=hard"],
            "data.reasoning_gym.difficulty = 'hard' must be a level from 0, null",
        ),
        (
            [f"data.train={SOURCE}", "data.reasoning_gym.difficulty={lcm: 1}"],
            "data.reasoning_gym.difficulty.lcm is not a task of data.train or",
        ),
        (
            [f"data.train={SOURCE}", "data.reasoning_gym.difficulty={gcd: [1]}"],
            "must be a level from 0, or numbers for parameters",
        ),
        ([f"data.train={SOURCE}", "data.split=train"], "data.split = 'train' applies only to hub"),
    ],
)
def test_a_wrong_config_is_one_sentence_and_exit_code_2(overrides, sentence, capsys) -> None:
    assert train.main(["--config", "qwen3_4b_grpo", "--dry-run", *overrides]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and sentence in error


def test_without_the_package_the_sentence_names_the_extra(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    assert train.main(["--config", "qwen3_4b_grpo", "--dry-run", f"data.train={SOURCE}"]) == 2
    assert "pip install 'asymrl[reasoning]'" in capsys.readouterr().err


def test_the_defaults_are_stated_only_where_they_apply() -> None:
    assert load_config("qwen3_4b_grpo").data.reasoning_gym is None
    for override in (f"data.train={SOURCE}", f"eval.benchmarks=[{SOURCE}]"):
        block = load_config("qwen3_4b_grpo", [override]).data.reasoning_gym
        assert block is not None and (block.size, block.seed, block.difficulty) == (1000, 0, None)


def test_a_benchmark_is_found_by_its_name() -> None:
    assert locate_benchmark(SOURCE, None, []) == SOURCE
    with pytest.raises(UserError, match="the nearest are gcd"):
        locate_benchmark("reasoning_gym:gcdd", None, [])
    with pytest.raises(UserError, match="'gcd' is unknown; the task of that name is reasoning_gym"):
        locate_benchmark("gcd", None, [])
