"""The sample of rollouts: evenly thinned, with each kind of rollout; a bad file gives a note."""

from __future__ import annotations

from pathlib import Path

from asymrl.report.runs import MAX_TEXT, Run, evenly, read_runs, sample_rollouts
from tests.helpers.report_folders import rollout, write_run


def with_rollouts(folder: Path, **steps: list[dict]) -> Run:
    """A run with saved rollouts; the keyword s<n> holds those of step n."""
    saved = {int(name[1:]): rows for name, rows in steps.items()}
    ((run,), _) = read_runs([write_run(folder, rollouts=saved)])
    return run


def test_saved_steps_are_thinned_evenly_with_the_first_and_the_last(tmp_path: Path) -> None:
    saved = {f"s{step}": [rollout(0, 0)] for step in range(10, 210, 10)}
    run = with_rollouts(tmp_path / "run", **saved)
    assert [g["step"] for g in sample_rollouts(run, 6)[0]] == [10, 110, 200]
    assert [g["step"] for g in sample_rollouts(run, 1)[0]] == [200]
    assert len({g["step"] for g in sample_rollouts(run, 1000)[0]}) == 6


def test_groups_are_thinned_evenly_over_their_accuracy(tmp_path: Path) -> None:
    solved = [0 if d % 6 == 0 else 1 + d % 4 for d in range(25)]  # 0 at every sixth draw
    rows = [rollout(d, i, reward=float(i < k)) for d, k in enumerate(solved) for i in range(4)]
    groups, _ = sample_rollouts(with_rollouts(tmp_path / "run", s1=rows), 5)
    assert sorted(group["solved"] for group in groups) == [0, 1, 2, 3, 4]
    assert [g["draw"] for g in groups] == sorted(g["draw"] for g in groups)


def test_evenly_includes_both_ends() -> None:
    assert evenly("abc", 5) == ["a", "b", "c"]
    assert evenly(range(11), 3) == [0, 5, 10] and evenly(range(11), 1) == [10]


def test_each_kind_of_rollout_is_sampled_and_the_count_covers_the_whole_group(
    tmp_path: Path,
) -> None:
    wrong = [rollout(0, i) for i in range(6)]
    correct = rollout(0, 6, reason="correct", reward=1.0)
    cut = rollout(0, 7, reason="no_answer", truncated=True, answer=None)
    groups, _ = sample_rollouts(with_rollouts(tmp_path / "run", s1=[*wrong, correct, cut]), 2)
    (group,) = groups
    assert (group["solved"], group["size"]) == (1, 8)
    kinds = [(row["correct"], row["truncated"]) for row in group["rollouts"]]
    assert kinds == [(True, False), (False, False), (False, True), (False, False)]


def test_a_rollout_is_correct_if_its_reward_is_1(tmp_path: Path) -> None:
    zeroed = rollout(0, 0, reason="correct", reward=0.0, truncated=True)
    groups, _ = sample_rollouts(with_rollouts(tmp_path / "run", s1=[zeroed]), 1)
    assert groups[0]["solved"] == 0


def test_masked_rollouts_do_not_count_in_the_groups_accuracy(tmp_path: Path) -> None:
    """As in the metric groups/accuracy, from which `truncation: mask` excludes them too."""
    valid = [rollout(0, i, reward=1.0, reason="correct") for i in range(2)]
    cut = [rollout(0, i, truncated=True, valid=False) for i in (2, 3)]
    none = [rollout(1, i, truncated=True, valid=False) for i in (0, 1)]
    groups, _ = sample_rollouts(with_rollouts(tmp_path / "run", s1=[*valid, *cut, *none]), 2)
    assert [(g["solved"], g["size"]) for g in groups] == [(2, 2), (0, 0)]
    assert [len(g["rollouts"]) for g in groups] == [4, 2]  # they are shown


def test_a_long_response_keeps_its_beginning_and_end(tmp_path: Path) -> None:
    response = "BEGIN" + "x" * 10 * MAX_TEXT + "END"
    run = with_rollouts(tmp_path / "run", s1=[rollout(0, 0, response=response)])
    shown = sample_rollouts(run, 1)[0][0]["rollouts"][0]["response"]
    assert shown.startswith("BEGIN") and shown.endswith("END")
    assert f"{len(response) - MAX_TEXT:,} characters left out" in shown
    assert len(shown) < MAX_TEXT + 100


def test_a_damaged_step_is_skipped_with_a_note_and_others_are_read(tmp_path: Path) -> None:
    run = with_rollouts(tmp_path / "run", s1=[rollout(0, 0)], s2=[rollout(0, 0)])
    (run.folder / "rollouts/step-000001.jsonl").write_text("nonsense\n")
    groups, notes = sample_rollouts(run, 10)
    assert [group["step"] for group in groups] == [2]
    assert "step-000001.jsonl:1: not valid JSON" in notes[0]
