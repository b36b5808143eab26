"""The model card of a checkpoint, and the choice of the best checkpoint."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import eval as evaluation
from asymrl.config.load import load_config
from asymrl.run import checkpoint
from asymrl.run.card import card, rule
from asymrl.training import loop
from tests.helpers.runs import metrics, run


def unpadded(text: str) -> str:
    """The text with one space wherever a table pads its cells."""
    return re.sub(" +", " ", text)


EACH = "checkpoint={every: 1, keep: 5, select: {best_on: problems}}"


def test_a_checkpoint_has_a_card_with_its_results_and_settings(finished: Path) -> None:
    text = unpadded((finished / "checkpoints" / "latest" / "README.md").read_text())
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert "step 5" in body and "| advantage.beta_pos | " in body
    cells = []
    for step in (0, 5):
        summary = finished / "eval" / f"step-{step:06d}" / "t1" / "summary.json"
        (problems,) = json.loads(summary.read_text())["benchmarks"].values()
        low, high = (100 * bound for bound in problems["interval"])
        cells.append(f"{100 * problems['avg']:.2f} ({low:.2f} to {high:.2f})")
    assert f"| problems | t1 | {cells[0]} | {cells[1]} | 2 | 4 |" in body


def test_an_evaluation_says_how_its_checkpoint_was_chosen(
    finished: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "some.jsonl").write_text(json.dumps({"problem": "1 + 1", "answer": "2"}) + "\n")
    arguments = ["--ckpt", str(finished / "checkpoints" / "latest"), "--benchmarks", "some"]
    arguments += ["--data-dir", str(tmp_path), "--avg-at", "1", "--output", str(tmp_path / "out")]
    assert evaluation.main(arguments) == 0
    assert "the last one (checkpoint.select: last)" in capsys.readouterr().err
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["which"] == "the last one (checkpoint.select: last)"


def test_a_benchmark_of_one_problem_has_no_interval(config_file: Path, tmp_path: Path) -> None:
    folder = run(config_file, tmp_path / "run", "steps=1", "eval.limit=1")
    text = unpadded((folder / "checkpoints" / "latest" / "README.md").read_text())
    assert "(-) | 1 | 1 |" in text


def test_a_card_names_data_sources_and_their_licences(tmp_path: Path) -> None:
    select = ["checkpoint={select: {best_on: math500}}"]
    config = load_config("qwen3_4b_asym", select)
    text = card(config, tmp_path / "mine", 20)
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "Qwen/Qwen3-4B"
    assert "trained on math: DigitalLearningGmbH/MATH-lighteval, MIT" in text
    assert "evaluated on olympiadbench: Hothan/OlympiadBench, CC BY-NC 4.0" in text
    assert "Results" not in text  # nothing was evaluated
    assert "best on math500" in rule(config)


def test_local_copies_get_the_licence_of_their_name_and_bars_are_escaped(tmp_path: Path) -> None:
    local = ["data.train=x/math_train.jsonl", "eval.benchmarks=[x/aime24.csv, x/a|b.jsonl]"]
    for step, setting, avg in ((0, "t1", 0.3), (20, "t1", 0.5), (20, "greedy", 0.7)):
        folder = tmp_path / "eval" / f"step-{step:06d}" / setting
        folder.mkdir(parents=True)
        scores = {"avg": avg, "interval": [avg - 0.1, avg + 0.1], "samples": 2, "problems": 9}
        (folder / "summary.json").write_text(json.dumps({"benchmarks": {"a|b": scores}}))
    text = unpadded(card(load_config("qwen3_4b_asym", local), tmp_path, 20))
    math = "local data, by its name a copy of DigitalLearningGmbH/MATH-lighteval, MIT"
    assert f"trained on x/math_train.jsonl: {math}" in text
    assert (
        "x/aime24.csv: local data, by its name a copy of HuggingFaceH4/aime_2024, texts (c) MAA"
        in text
    )
    assert "x/a|b.jsonl: local data\n" in text
    untrained = "30.00 (20.00 to 40.00)"
    assert f"\n| a\\|b | t1 | {untrained} | 50.00 (40.00 to 60.00) | 2 | 9 |\n" in text
    assert "\n| a\\|b | greedy | - | 70.00 (60.00 to 80.00) | 2 | 9 |\n" in text


def test_the_best_step_is_the_first_saved_one_with_the_highest_score(
    tmp_path: Path,
) -> None:
    scores = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.7}
    rows = [{"step": n, "eval/b/greedy/avg": score} for n, score in scores.items()] + [{"step": 5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (1, 3, 4, 5):
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    link = tmp_path / "checkpoints" / "best"
    best = "step-000003"
    for benchmark, name, exists in (("b", best, True), (None, None, True), ("other", None, False)):
        assert checkpoint.link_best(tmp_path, benchmark) == name
        assert link.is_symlink() is exists


def test_the_best_checkpoint_is_kept_and_linked(config_file: Path, tmp_path: Path) -> None:
    select = EACH.replace("keep: 5", "keep: 1")
    folder = run(config_file, tmp_path / "run", select, "eval.every=1", "optim.lr=0.05")
    scores = {row["step"]: row["eval/problems/greedy/avg"] for row in metrics(folder)}
    best = max(range(1, 6), key=lambda step: (scores[step], -step))
    link = folder / "checkpoints" / "best"
    assert link.resolve().name == f"step-{best:06d}"
    names = {path.name for path in (folder / "checkpoints").glob("step-*")}
    assert names == {f"step-{best:06d}", "step-000005"}


def test_a_run_killed_in_its_last_save_has_its_best_checkpoint(
    config_file: Path, tmp_path: Path, monkeypatch
) -> None:
    """Killed after the first of the two links that a save makes."""
    once = ["checkpoint={every: 5, select: {best_on: problems}}", "eval.every=5"]
    point_link, links = checkpoint.point_link, []

    def killed(folder: Path, link: str, name: str) -> None:
        if links:
            raise SystemExit
        links.append(link)
        point_link(folder, link, name)

    monkeypatch.setattr(checkpoint, "point_link", killed)
    with pytest.raises(SystemExit):
        run(config_file, tmp_path / "run", *once)
    monkeypatch.undo()
    folder = run(config_file, tmp_path / "run", *once)
    assert checkpoint.latest(folder) == (folder / "checkpoints" / "best").resolve()


def test_best_never_points_at_a_removed_checkpoint(
    config_file: Path, tmp_path: Path, monkeypatch
) -> None:
    """After a kill between the two links of a save, the step runs again and may score otherwise."""
    select = [EACH.replace("keep: 5", "keep: 1"), "eval.every=1", "optim.lr=0.05"]
    folder = run(config_file, tmp_path / "run", *select)
    best = (folder / "checkpoints" / "best").resolve().name
    for link, name in (("best", "step-000005"), ("latest", best)):
        checkpoint.point_link(folder / "checkpoints", link, name)

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    monkeypatch.setattr(loop, "train", killed)
    with pytest.raises(SystemExit):
        run(config_file, folder, *select)
    assert (folder / "checkpoints" / "best").resolve(strict=True).name == best


def test_a_resumed_run_finds_the_same_best(config_file: Path, tmp_path: Path) -> None:
    folder = run(config_file, tmp_path / "run", EACH, "eval.every=1")
    best = (folder / "checkpoints" / "best").resolve().name
    for later in (3, 4, 5):
        shutil.rmtree(folder / "checkpoints" / f"step-{later:06d}")
    (folder / "checkpoints" / "latest").unlink()
    (folder / "checkpoints" / "latest").symlink_to("step-000002")
    run(config_file, folder, EACH, "eval.every=1")
    assert (folder / "checkpoints" / "best").resolve().name == best


def test_bars_in_stop_tokens_are_escaped() -> None:
    (line,) = [
        line
        for line in card(load_config("qwen3_4b"), Path("run"), 1).splitlines()
        if line.startswith("| rollout.stop ")
    ]
    assert "<\\|im_end\\|>" in line and len(re.findall(r"(?<!\\)\|", line)) == 3
