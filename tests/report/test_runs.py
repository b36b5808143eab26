"""Reading run folders: complete data is read, damaged data is named with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from asymrl.errors import UserError
from asymrl.files import distinct_names
from asymrl.report.runs import (
    Run,
    accuracy,
    evaluation_sets,
    evaluations,
    minutes,
    read_runs,
    sample_rollouts,
    series,
    untrained,
)
from tests.helpers.report_folders import config, rollout, step_row, write_run

A, B = "a/greedy", "b/greedy"


def read(*folders: Path) -> list[Run]:
    runs, left_out = read_runs(folders)
    assert not left_out
    return runs


def test_null_and_infinite_values_are_gaps(tmp_path: Path) -> None:
    rows = [step_row(1), step_row(2, **{"reward/mean": None}), step_row(3)]
    rows.append(step_row(4, **{"reward/mean": float("inf")}))
    (run,) = read(write_run(tmp_path / "run", rows))
    curve = series(run, "reward/mean")
    assert (curve.steps, curve.values) == ([1, 3], [0.25, 0.75])


def test_standard_errors_are_used_only_if_every_evaluation_has_one(tmp_path: Path) -> None:
    both = {f"eval/{name}/avg": 0.5 for name in (A, B)} | {f"eval/{A}/stderr": 0.1}
    rows = [{"step": step, **both} for step in (0, 1)]
    rows[1]["eval/b/greedy/stderr"] = 0.2
    (run,) = read(write_run(tmp_path / "run", rows))
    assert accuracy(run, [A]).errors == [0.1, 0.1]
    assert not accuracy(run, [B]).errors and not accuracy(run, [A, B]).errors


def test_the_mean_over_benchmarks_needs_all_of_them(tmp_path: Path) -> None:
    whole = {f"eval/{n}/{k}": v for n, v in ((A, 0.3), (B, 0.4)) for k in ("avg", "stderr")}
    rows = [{"step": 0, **whole}, {"step": 1, "eval/a/greedy/avg": 0.9}]
    (run,) = read(write_run(tmp_path / "run", rows))
    mean = accuracy(run, [A, B])
    assert (mean.steps, mean.values) == ([0], pytest.approx([0.35]))
    assert mean.errors == pytest.approx([0.25])  # sqrt(.3^2 + .4^2) / 2
    assert not accuracy(run, [A, B, "another/greedy"]).values


def test_evaluations_are_grouped_by_sampling_setting_with_greedy_first(tmp_path: Path) -> None:
    names = ("a/t1", "b/t1", "a/greedy")
    rows = [{"step": 0, **{f"eval/{name}/avg": 0.5 for name in names}}]
    runs = read(write_run(tmp_path / "run", rows))
    assert evaluations(runs) == [*names]
    assert evaluation_sets(runs) == [["a/greedy"], ["a/t1", "b/t1"], ["a/t1"], ["b/t1"]]


def test_the_untrained_policy_is_step_0_of_each_model_and_seed_once(tmp_path: Path) -> None:
    rows = [{"step": 0, f"eval/{A}/avg": 0.25}, {"step": 1, f"eval/{A}/avg": 0.75}]
    folders = [
        write_run(tmp_path / name, rows, config=config(seed))
        for name, seed in (("asym-0", 0), ("grpo-0", 0), ("grpo-1", 1))
    ]
    late = write_run(tmp_path / "late", rows[1:], config=config(2))
    policies = untrained(read(*folders, late))
    assert [run.settings["seed"] for run in policies] == [0, 1]
    assert [accuracy(run, [A]).values for run in policies] == [[0.25], [0.25]]


def test_minutes_count_the_whole_step_once(tmp_path: Path) -> None:
    phases = [step_row(1), step_row(2)]
    whole = [row | {"time/step": 30.0} for row in phases]
    runs = read(write_run(tmp_path / "a", phases), write_run(tmp_path / "b", whole))
    assert [minutes(run) for run in runs] == pytest.approx([0.1, 1.0])


def test_equal_labels_are_extended_by_parent_folders() -> None:
    folders = [Path(p) for p in ("/r/asym/s0", "/r/grpo/s0", "/q/grpo/s0", "/r/grpo/s1")]
    assert distinct_names(folders) == ["asym/s0", "r/grpo/s0", "q/grpo/s0", "s1"]


def test_a_folder_named_twice_is_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "same")
    assert len(read(run, run / ".." / "same")) == 1


def test_an_incomplete_last_line_is_skipped_with_a_note(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "crashed", rollouts={1: [rollout(0, 0)]})
    for file in (folder / "metrics.jsonl", folder / "rollouts/step-000001.jsonl"):
        file.write_text(file.read_text() + '{"step": 3, "rew')
    (run,) = read(folder)
    groups, notes = sample_rollouts(run, 1)
    assert [row["step"] for row in run.rows] == [1, 2] and len(groups) == 1
    assert run.notes == ["crashed: skipped the incomplete last line of metrics.jsonl"]
    assert notes == ["crashed: skipped the incomplete last line of step-000001.jsonl"]


def test_blank_lines_are_skipped_without_a_note(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n\n{"step": 2}\n \n')
    (run,) = read(folder)
    assert [row["step"] for row in run.rows] == [1, 2] and not run.notes


def test_a_complete_last_line_needs_no_line_break(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "whole")
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text().rstrip("\n"))
    (run,) = read(folder)
    assert [row["step"] for row in run.rows] == [1, 2] and not run.notes


@pytest.mark.parametrize("line", ["{not json", "[1]", '{"step": "two"}', '{"reward/mean": 1}'])
def test_the_error_for_a_malformed_line_names_file_and_line(tmp_path: Path, line: str) -> None:
    folder = write_run(tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: "):
        read_runs([folder])


DOUBLED = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 25)
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: &a [*a]\n", "alias"),
        ("a: &a {b: *a}\n", "alias"),
        (DOUBLED, "10,000 values"),
        ("a: " + "[" * 10_000, "levels"),
        ("a: !!bool x\n", "YAML"),
        ("a: !!timestamp x\n", "YAML"),
        ("", "is empty"),
        ("\0\1", "YAML"),
    ],
    ids=range(8),
)
def test_the_error_for_unreadable_settings_names_the_file(
    tmp_path: Path, text: str, part: str
) -> None:
    folder = write_run(tmp_path / "run", config=text)
    with pytest.raises(UserError, match=rf"(?i)run/config\.yaml.* {part}"):
        read_runs([folder])


def test_numbers_too_large_to_be_measurements_are_gaps(tmp_path: Path) -> None:
    rows = [step_row(s, **{"reward/mean": r}) for s, r in ((1, 1e308), (2, 0.5), (3, -(10**400)))]
    (run,) = read(write_run(tmp_path / "run", rows))
    assert series(run, "reward/mean").steps == [2]
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: step is 1000"):
        read_runs([write_run(tmp_path / "far", [{"step": 10**300}])])


def test_a_folder_of_runs_stands_for_the_runs_below_it(tmp_path: Path) -> None:
    for name in ("b/seed-1", "b/seed-0", "a"):
        write_run(tmp_path / "study" / name)
    (tmp_path / "study/b/seed-2/rollouts").mkdir(parents=True)  # not started
    assert [run.label for run in read(tmp_path / "study")] == ["a", "seed-0", "seed-1"]


def test_a_broken_run_among_others_is_skipped_with_a_sentence(tmp_path: Path) -> None:
    good, bad = write_run(tmp_path / "good"), write_run(tmp_path / "bad")
    (bad / "metrics.jsonl").write_text("{not json\n")
    runs, (sentence,) = read_runs([bad, good])
    assert [run.label for run in runs] == ["good"]
    assert f"{bad}/metrics.jsonl:1: not valid JSON" in sentence


def test_the_pocket_policies_of_the_seeds_are_one_model(tmp_path: Path) -> None:
    """pocket:3 belongs to seed 3; with another seed it is a model like any other."""
    runs = read(
        *(
            write_run(tmp_path / str(seed), config=f"model: {{path: 'pocket:3'}}\nseed: {seed}\n")
            for seed in (3, 4)
        )
    )
    assert [run.settings["model.path"] for run in runs] == ["pocket", "pocket:3"]
