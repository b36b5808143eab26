"""Studies: arms, measures, and documents about run folders with invented numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from asymrl.config.load import load_config
from asymrl.errors import UserError
from studies import measures, paper, tables
from studies.__main__ import STUDIES, main
from studies.jobs import (
    BASE,
    GRID_ARMS,
    SCHEDULED,
    TABLE_ROWS,
    Job,
    betas,
    jobs,
    row,
)
from studies.results import Result, read
from studies.runs import eval_arguments
from tests.helpers.study_folders import write

ALL_ARMS = {arm.name: arm for arm in (BASE, *TABLE_ROWS, *SCHEDULED, *GRID_ARMS)}


def result(*rows: dict, accuracy: float = 0.5) -> Result:
    return Result(rows=rows, accuracy={0.0: accuracy, 0.4: accuracy, 1.0: accuracy})


# --- arms


@pytest.mark.parametrize("name", ALL_ARMS)
def test_every_arm_is_a_config_that_loads(name: str) -> None:
    arm = ALL_ARMS[name]
    load_config(arm.config, arm.overrides)


def test_an_arm_that_is_named_after_betas_has_these_betas() -> None:
    for arm in {arm.name: arm for arm in GRID_ARMS}.values():
        advantage = load_config(arm.config, arm.overrides).advantage
        assert advantage.name == "asym"
        point = advantage.params["beta_pos"], advantage.params["beta_neg"]
        assert betas(*point).name == arm.name


def test_studies_share_run_folders_of_equal_arms() -> None:
    assert {arm.name for arm in GRID_ARMS} & {arm.name for arm in TABLE_ROWS} == {
        "grpo",
        "asym_sym",
    }
    by_name: dict[str, set] = {}
    for study in STUDIES.values():
        for arm in study.arms:
            by_name.setdefault(arm.name, set()).add(arm)
    assert all(len(arms) == 1 for arms in by_name.values())


def test_a_job_has_the_config_of_its_arm_mix_and_seed(tmp_path: Path) -> None:
    job = jobs([row("asym")], ["facts"], 3, tmp_path, steps=7)[2]
    config = job.config()
    assert job.folder == tmp_path / "facts" / "asym" / "seed-2"
    assert (config.data.train, config.seed, config.steps) == ("pocket_train", 2, 7)
    assert config.advantage.params == {"beta_pos": 0.9, "beta_neg": 0.4}
    assert job.benchmarks == ("pocket_heldout",) and job.steps == 7
    assert jobs([BASE], ["facts"], 1, tmp_path, steps=7)[0].steps == 1


# --- measures


def test_measures_of_a_run_by_hand() -> None:
    rows = [
        {
            "step": step,
            "policy/entropy": 1.0 - 0.1 * step,
            "groups/none_solved": 0.1 * step,
            "diag/kappa": math.nan if step == 2 else 0.01 * step,
            **({"diag/logprob_gain_positive": 0.5 * step} if step % 2 else {}),
        }
        for step in (1, 2, 3, 4)
    ]
    run = result(*rows, accuracy=0.625)
    assert measures.entropy(run) == pytest.approx(0.75)
    assert measures.none_solved(run) == pytest.approx(0.35)  # steps 3 and 4
    assert measures.kappa_hat(run) == pytest.approx(0.08 / 3)
    assert measures.gain(run) == pytest.approx(1.0)  # 0.5 and 1.5
    assert measures.accuracy(run) == 0.625
    assert measures.slope([0, 0.25, 0.5], [1.0, 2.0, 6.0]) == pytest.approx(10.0)


def test_slopes_over_a_beta_read_the_arms_of_that_beta() -> None:
    points = (0.0, 0.25, 0.5)
    seed = {betas(beta, 0.0).name: result(accuracy=3 * beta) for beta in points}
    seed |= {betas(0.0, beta).name: result(accuracy=-2 * beta) for beta in points}
    arguments = {"measure": measures.accuracy, "points": points}
    assert measures.slope_over_beta_pos(seed, **arguments) == pytest.approx(3)
    assert measures.slope_over_beta_neg(seed, **arguments) == pytest.approx(-2)


def test_arms_of_one_seed_are_evaluated_with_the_same_sampling_seed(
    tmp_path: Path,
) -> None:
    commands = [
        eval_arguments(job, 1.0) for job in jobs([row("asym"), row("grpo")], ["facts"], 2, tmp_path)
    ]
    seeds = [arguments[arguments.index("--seed") + 1] for arguments in commands]
    assert seeds == ["0", "0", "1", "1"]


def test_kappa_hat_is_over_the_first_twenty_steps() -> None:
    kappas = [1.0] * 20 + [9.0] * 10
    run = result(*({"step": step, "diag/kappa": kappa} for step, kappa in enumerate(kappas, 1)))
    assert measures.kappa_hat(run) == 1.0


def step_pressure(**mass: tuple[float, float]) -> dict[str, float]:
    """One step: for each p (as p125 for 0.125) the fraction of groups there, and their mass."""
    row = {}
    for name, (groups, pressure) in mass.items():
        p = f"0.{name[1:]}"
        row |= {f"groups/accuracy/{p}": groups, f"pressure/positive/{p}": pressure}
    return row


def test_the_peak_is_where_mass_per_group_is_highest_not_where_most_groups_are() -> None:
    first = step_pressure(p25=(0.1, 0.1), p5=(0.7, 0.7), p75=(0.2, 0.6))
    second = step_pressure(p25=(0.1, 0.1), p5=(0.7, 0.7), p75=(0.2, 0.6), p875=(0.1, 0.1))
    run = result(first, second)
    accuracies, mass = measures.pressures(run, "positive")
    assert accuracies == [0.25, 0.5, 0.75, 0.875] and mass == pytest.approx([1.0, 1.0, 3.0, 1.0])
    # the parabola through (.5, 1), (.75, 3), (.875, 1): slopes 8 and -16, curvature -64,
    # vertex where 8 - 64 (2 x - .5 - .75) = 0
    assert measures.peak(run, "positive") == pytest.approx(0.6875)


def test_the_peak_may_be_at_an_end_and_is_nan_without_pressure() -> None:
    run = result(step_pressure(p125=(0.5, 1.0), p5=(0.5, 0.5), p75=(0.1, 0.01)))
    assert measures.peak(run, "positive") == 0.125
    assert math.isnan(measures.peak(run, "negative"))
    assert math.isnan(measures.peak(result({"policy/entropy": 1.0}), "positive"))


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75])
def test_the_peak_of_the_exact_w_is_found_to_a_fortieth(beta: float) -> None:
    """W+ = p^(1 - b) (1 - p)^b, on eighths."""
    row = {}
    for k in range(1, 8):
        p = k / 8
        row[f"groups/accuracy/{p:g}"] = 0.1
        row[f"pressure/positive/{p:g}"] = 0.1 * p ** (1 - beta) * (1 - p) ** beta
    assert measures.peak(result(row), "positive") == pytest.approx(1 - beta, abs=0.025)


def squeezed(text: str) -> list[str]:
    """Lines of Markdown without the padding of table cells."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_run_with_missing_steps_is_an_error(tmp_path: Path) -> None:
    job = jobs([row("grpo")], ["facts"], 1, tmp_path, steps=3)[0]
    write([job], lambda job: [{}] * 2, lambda job, temperature: 0.5)
    with pytest.raises(UserError, match="must have the steps 1 to 3"):
        read(job)


# --- tables


def test_the_table_has_means_standard_errors_and_paired_differences(tmp_path: Path) -> None:
    arms = (BASE, row("grpo"), row("asym"), row("reinforce"), SCHEDULED[0])
    study_jobs = jobs(arms[:-1], ["facts"], 3, tmp_path, steps=2)
    gains = {"base": -0.3, "grpo": 0.0, "asym": 0.02, "reinforce": -0.1}

    def accuracy(job: Job, temperature: float) -> float:
        noise = 0.1 * job.seed + 0.001 * job.seed * (job.arm.name == "asym")
        return 0.5 + gains[job.arm.name] + noise

    write(study_jobs, lambda job: [{"policy/entropy": 0.5}] * job.steps, accuracy)
    files = tables.report_table2(
        study_jobs, tmp_path, tmp_path / "docs", "python -m studies table2"
    )
    text = files[0].read_text()
    lines = {line.split(" | ")[0][2:]: line for line in squeezed(text) if line[:2] == "| "}
    # .52 .621 .722: mean .621, s .101, / sqrt 3 = .058; to GRPO .02 .021 .022, t(.975, 2) = 4.303
    assert "**0.621 ± 0.058**" in lines["asym"]
    assert "+0.021 (+0.019 to +0.023)" in lines["asym"]
    assert "<u>0.600 ± 0.058</u>" in lines["grpo"] and lines["grpo"].endswith("| - |")
    assert "0.300 ± 0.058" in lines["base"] and "nan" not in text
    assert "the best, asym," in text and "nothing adjusted): none." in text
    assert files[1].stat().st_size > 1000


def test_one_seed_has_no_standard_errors_and_the_table_says_so(tmp_path: Path) -> None:
    study_jobs = jobs((BASE, row("grpo"), SCHEDULED[0]), ["facts"], 1, tmp_path, steps=2)
    write(
        study_jobs, lambda job: [{"policy/entropy": 0.5}] * job.steps, lambda job, temperature: 0.25
    )
    study_jobs += jobs((row("asym"),), ["facts"], 1, tmp_path, steps=2)
    write(study_jobs[-1:], lambda job: [{"policy/entropy": 0.5}] * job.steps, lambda job, t: 0.5)
    text = tables.report_table2(study_jobs, tmp_path, tmp_path, "table2")[0].read_text()
    assert "| asym | **0.500** | **0.500** | **0.500** | 0.500 | - | +0.250 |" in squeezed(text)
    assert "nan" not in text
    assert "nothing here tells two rows apart" in text and "the best" not in text


def test_the_grid_has_a_number_for_every_point(tmp_path: Path) -> None:
    study_jobs = jobs(GRID_ARMS, ["facts"], 2, tmp_path, steps=1)

    def accuracy(job: Job, temperature: float) -> float:
        params = job.config().advantage.params
        return params["beta_pos"] / 10 + params["beta_neg"] / 100 + 0.01 * job.seed

    write(study_jobs, lambda job: [{}], accuracy)
    files = tables.report_grid(study_jobs, tmp_path, tmp_path / "docs", "python -m studies grid")
    text = files[0].read_text()
    assert "| **0.3** | 0.036 | 0.038 | 0.040 | 0.042 | 0.044 |" in squeezed(text)
    assert "Highest: 0.104 at (0.9, 0.9); lowest: 0.016 at (0.1, 0.1)" in text
    assert files[1].stat().st_size > 1000


def test_the_papers_table_has_our_numbers_beside_the_papers_and_a_dash_for_missing_ones(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "qwen3_4b_asym" / "eval" / "paper"
    folder.mkdir(parents=True)
    entry = {"avg": 0.5, "stderr": 0.01, "problems": 30}
    scores = {
        name: entry | {"samples": 5 if name == "math500" else 10} for name in paper.BENCHMARKS
    }
    (folder / "summary.json").write_text(json.dumps({"benchmarks": scores}))
    training = tmp_path / "qwen3_4b_grpo" / "eval" / "step-000010"
    training.mkdir(parents=True)
    (training / "summary.json").write_text(json.dumps({"benchmarks": {"math500": {"avg": 1.0}}}))
    greedy = tmp_path / "qwen3_4b_base" / "eval" / "greedy"
    greedy.mkdir(parents=True)
    (greedy / "summary.json").write_text(json.dumps({"benchmarks": scores}))
    lines = squeezed(paper.table("qwen3_4b", tmp_path))
    assert "| base, greedy | ours |" + " 50.00 ± 1.00 |" * 5 + " 50.00 |" in lines
    assert "| base | ours | - | - | - | - | - | - |" in lines
    place = lines.index(next(line for line in lines if line.startswith("| asym |")))
    assert lines[place] == "| asym | ours |" + " 50.00 ± 1.00 |" * 5 + " 50.00 |"
    assert lines[place + 1] == "| | paper | 89.33 | 39.33 | 28.67 | 81.00 | 58.48 | 59.36 |"
    assert "| grpo | ours | - | - | - | - | - | - |" in lines  # not the evaluation during training
    assert "math500 30 x 5; aime24 30 x 10" in lines[-1]


def test_the_papers_averages_are_the_means_of_its_benchmarks() -> None:
    for *scores, average in paper.PRINTED["qwen3_4b"].values():
        assert sum(scores) / 5 == pytest.approx(average, abs=0.0101)


@pytest.mark.parametrize(
    "arguments",
    [["table2", "--seeds", "0"], ["plan", "grid", "--jobs", "0"], ["paper-table", "gpt2"]],
)
def test_invalid_arguments_exit_2_with_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_plan_prints_runs_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "table2", "--out", str(tmp_path / "study")]) == 0
    output = capsys.readouterr().out
    assert "22 arms x 1 mixes x 8 seeds = 176 runs, 0 already done" in output
    assert not (tmp_path / "study").exists()
