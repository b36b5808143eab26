"""Data of one's own: columns by their usual names, and data sets of the hub."""

import json
from pathlib import Path
from typing import Any

import pytest

from asymrl import verifiers
from asymrl.config.load import load_config
from asymrl.data import problems, sources
from asymrl.data.readers import Fields, short_names
from asymrl.data.sources import Subset
from asymrl.errors import UserError
from asymrl.run.card import hub_id
from asymrl.training.setup import load_data

PROMPT: dict[str, Any] = {"system": None, "user": "{problem}", "template_kwargs": {}}


def write(file: Path, *rows: dict[str, Any]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def load(source: str, tokenizer, fields: Fields | None = None, **arguments: Any):
    with verifiers.make("exact") as verifier:
        loader = problems.ProblemLoader(
            tokenizer=tokenizer,
            verifier=verifier,
            prompt=PROMPT,
            max_prompt_tokens=10**6,
            fields=fields or Fields(),
        )
        return loader.load(source, **arguments)


@pytest.mark.parametrize("answer", sources.ANSWER_FIELDS)
@pytest.mark.parametrize("problem", sources.PROBLEM_FIELDS)
def test_columns_are_found_by_their_usual_names(tmp_path, tokenizer, problem, answer) -> None:
    source = write(tmp_path / "own.jsonl", {"level": 3, problem: "1 + 1?", answer: "2"})
    loaded = load(source, tokenizer)
    (found,) = loaded.problems
    assert (found.meta["problem"], found.gold, found.meta["level"]) == ("1 + 1?", "2", 3)
    said = f"{source}: problems from the column {problem}, answers from {answer}"
    assert list(loaded.notes) == ([] if (problem, answer) == ("problem", "answer") else [said])


def test_the_most_usual_name_wins_and_a_given_one_wins_over_it(tmp_path, tokenizer) -> None:
    row = {"solution": "1 + 1 = 2", "answer": "2", "prompt": "p", "question": "q", "mine": "m"}
    source = write(tmp_path / "own.jsonl", row)
    (found,) = load(source, tokenizer).problems
    assert (found.meta["problem"], found.gold) == ("q", "2")
    (found,) = load(source, tokenizer, Fields(problem="mine", answer="solution")).problems
    assert (found.meta["problem"], found.gold) == ("m", "1 + 1 = 2")


def test_a_file_without_usual_columns_lists_its_own_and_the_setting(tmp_path, tokenizer) -> None:
    source = write(tmp_path / "own.jsonl", {"text": "q", "answer": "2"})
    with pytest.raises(UserError, match=r"'problem' must .* fields are 'text, answer'.*data.prob"):
        load(source, tokenizer)
    with pytest.raises(UserError, match=r"has none of problem, question, prompt; its fields are"):
        load(source, tokenizer)


def test_given_columns_do_not_reach_sources_that_know_their_own(tmp_path, tokenizer) -> None:
    given = Fields(problem="mine", answer="gold")
    assert load("pocket_heldout", tokenizer, given, limit=3).problems
    copy = write(tmp_path / "aime24.jsonl", {"problem": "q", "answer": "7"})
    (found,) = load(copy, tokenizer, given, known="aime24", any_count=True).problems
    assert found.gold == "7"


def test_a_run_with_own_columns_evaluates_on_a_built_in_set(tmp_path, tokenizer) -> None:
    own = write(tmp_path / "own.jsonl", {"mine": "q", "gold": "7"})
    settings = [f"data.train={own}", "data.problem_field=mine", "data.answer_field=gold"]
    config = load_config("pocket_asym", [*settings, "eval.limit=2"])
    with verifiers.make("exact") as verifier:
        data = load_data(config, tokenizer, verifier)
    assert data.problems[0].gold == "7" and len(data.benchmarks["pocket_heldout"]) == 2


# ---- data sets of the hub; `datasets` reads a folder of the same name in the same way


@pytest.fixture
def on_hub(tmp_path: Path, monkeypatch) -> str:
    """A data set org/name with splits train and test and a nested column."""
    monkeypatch.chdir(tmp_path)
    for split, answer in (("train", 7.0), ("test", 8.0)):
        row = {"question": "q", "answer": answer, "level": 3, "steps": [{"a": 1}]}
        write(tmp_path / "org/name-1.5" / f"{split}.jsonl", row)
    return "org/name-1.5"


@pytest.mark.parametrize(("split", "gold"), [("train", "7.0"), ("test", "8.0")])
def test_a_data_set_of_the_hub_is_read_by_id_and_split(on_hub, tokenizer, split, gold) -> None:
    loaded = load(on_hub, tokenizer, subset=Subset(split=split))
    (found,) = loaded.problems
    assert (found.id, found.gold) == ("name-1.5/0", gold)
    assert found.meta == {"problem": "q", "level": 3}
    assert any("column question" in note for note in loaded.notes)


def test_training_and_benchmarks_have_their_own_splits(on_hub, tokenizer) -> None:
    settings = [f"data.train={on_hub}", f"eval.benchmarks=[{on_hub}]"]
    config = load_config("pocket_asym", [*settings, "checkpoint.select.best_on=name-1.5"])
    with verifiers.make("exact") as verifier:
        data = load_data(config, tokenizer, verifier)
    assert data.problems[0].gold == "7.0" and data.benchmarks["name-1.5"][0].gold == "8.0"


def test_a_part_that_a_data_set_does_not_have_names_the_settings(on_hub, tokenizer) -> None:
    with pytest.raises(UserError, match=r"Unknown split \"dev\".*train.*data.split.*eval.split"):
        load(on_hub, tokenizer, subset=Subset(split="dev"))
    with pytest.raises(UserError, match=r"other/none is not a data file, and .* cannot be loaded"):
        load("other/none", tokenizer)
    with pytest.raises(UserError, match="data file org/none does not exist"):  # there is ./org
        load("org/none", tokenizer)


@pytest.mark.parametrize("setting", ["data.split=dev", "data.config=main"])
def test_a_part_of_a_source_without_parts_is_an_error(tokenizer, setting: str) -> None:
    key, _, value = setting.partition("=")
    with (
        verifiers.make("exact") as verifier,
        pytest.raises(UserError, match=rf"{key} = '{value}' applies only to hub data sets"),
    ):
        load_data(load_config("pocket_asym", [setting]), tokenizer, verifier)


def test_a_known_data_set_by_its_id_is_read_as_the_named_one() -> None:
    source = sources.hub_source("openai/gsm8k", Subset())
    named = sources.SOURCES["gsm8k"]
    assert (source.split, source.config, source.revision) == ("train", "main", named.revision)
    assert source.read_answer("2 + 2\n#### 1,234") == "1234" and source.problems == ()


def test_what_is_read_from_the_hub(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    names = {"org/name": True, "local": True, "gsm8k": False, "a/b.jsonl": False, "name": False}
    assert {name: sources.is_hub_source(name) for name in names} == names
    assert hub_id("org/name") == "org/name" and hub_id("local") is None
    assert hub_id("gsm8k") == "openai/gsm8k" and hub_id("pocket_train") is None
    assert short_names(["org/name-1.5", "a/own.jsonl", "gsm8k"]) == ["name-1.5", "own", "gsm8k"]
    assert sources.locate_benchmark("org/name", None, []) == "org/name"
