"""The table of data sets, and local copies of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asymrl import verifiers
from asymrl.data import problems, sources
from asymrl.errors import UserError

PROMPT = {"system": None, "user": "{problem}", "template_kwargs": {}}
BENCHMARKS = ("math500", "aime24", "aime25", "amc23", "olympiadbench", "minerva", "gsm8k")


def load(source: str, tokenizer: Any, known: str | None, **arguments: Any) -> problems.Loaded:
    with verifiers.make("exact") as verifier:
        return problems.load_problems(
            source,
            tokenizer=tokenizer,
            prompt=PROMPT,
            max_prompt_tokens=10**6,
            verifier=verifier,
            known=known,
            **arguments,
        )


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_real_files_work_as_they_are(shared_data: Path, tokenizer, name: str) -> None:
    source = sources.locate_benchmark(name, shared_data, [])
    found = load(source, tokenizer, name)
    assert len(found.problems) in sources.SOURCES[name].problems
    assert not any("holds" in note for note in found.notes)


def test_a_file_with_the_split_in_its_name_is_that_benchmark(tmp_path: Path) -> None:
    (tmp_path / "gsm8k_train.jsonl").touch()
    with pytest.raises(UserError, match=r"'gsm8k' has no file in .*; there are: gsm8k_train"):
        sources.locate_benchmark("gsm8k", tmp_path, [])
    (tmp_path / "gsm8k_test.jsonl").touch()
    assert sources.locate_benchmark("gsm8k", tmp_path, []).endswith("gsm8k_test.jsonl")
    assert (
        sources.source_of_file("gsm8k_test") == "gsm8k"
        and sources.source_of_file("gsm8k_train") is None
    )


def test_another_number_of_problems_is_refused_with_both_counts(tmp_path, tokenizer) -> None:
    rows = [{"problem": f"{n}?", "answer": "1"} for n in range(29)]
    source = write(tmp_path / "aime25.jsonl", rows)
    with pytest.raises(UserError, match=r"holds 29 problems, and aime25 has 30: .*--allow-count"):
        load(source, tokenizer, "aime25")
    with pytest.raises(UserError, match=r"holds 29"):
        load(source, tokenizer, "aime25", limit=5)  # the first five of what?
    found = load(source, tokenizer, "aime25", any_count=True)
    assert len(found.problems) == 29 and "29 problems" in found.notes[0]
    assert not load(source, tokenizer, None).notes  # a file of some other name


@pytest.mark.parametrize(
    ("name", "row", "gold"),
    [
        ("amc23", {"question": "a?", "answer": 27.0}, "27.0"),
        ("olympiadbench", {"question": "a?", "final_answer": ["$2$", "$3$"]}, "$2$, $3$"),
        ("olympiadbench", {"problem": "a?", "answer": "$2$"}, "$2$"),
        ("gsm8k", {"question": "a?", "answer": "2+2\n#### 1,234"}, "1234"),
        ("olympiadbench", {"question": "a?", "final_answer": [2]}, "2"),
        ("gsm8k", {"problem": "a?", "answer": "18"}, "18"),
        ("math", {"problem": "a?", "solution": r"so \boxed{7}."}, "7"),
        ("math", {"problem": "a?", "solution": r"so \boxed{7}.", "answer": "8"}, "8"),
    ],
)
def test_a_local_copy_may_have_the_data_sets_own_columns(
    tmp_path, tokenizer, name: str, row: dict[str, Any], gold: str
) -> None:
    source = write(tmp_path / "some.jsonl", [row])
    (problem,) = load(source, tokenizer, name, any_count=True).problems
    assert (problem.gold, problem.meta["problem"]) == (gold, "a?")


def test_a_copy_without_an_answer_names_the_field(tmp_path, tokenizer) -> None:
    source = write(tmp_path / "amc23.jsonl", [{"question": "a?"}])
    with pytest.raises(UserError, match=r"amc23.jsonl:1: field 'answer'"):
        load(source, tokenizer, "amc23")


def test_a_list_is_no_answer_where_the_data_set_has_none(tmp_path, tokenizer) -> None:
    for name in ("gsm8k", "amc23"):
        source = write(tmp_path / f"{name}.jsonl", [{"problem": "a?", "answer": ["18"]}])
        with pytest.raises(UserError, match=rf"{name}.jsonl:1: field 'answer' must be a non-empty"):
            load(source, tokenizer, name)


def test_an_unknown_benchmark_is_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'aime99' is unknown; valid are math, math500, .*pocket"):
        sources.locate_benchmark("aime99", None, ["pocket"])
    assert sources.locate_benchmark("pocket", tmp_path, ["pocket"]) == "pocket"
    assert sources.locate_benchmark("aime24", None, []) == "aime24"
    file = tmp_path / "mine.csv"
    file.touch()
    assert (
        sources.locate_benchmark(str(file), None, [])
        == sources.locate_benchmark("mine", tmp_path, [])
        == str(file)
    )


def test_the_papers_benchmarks_are_pinned() -> None:
    for name in BENCHMARKS:
        source = sources.SOURCES[name]
        assert source.problems and source.licence
        assert name == "minerva" or len(source.revision or "") == 40


def on_the_hub(monkeypatch, folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """The hub's part is played by a folder: `datasets` reads both in the same way."""
    known = sources.SOURCES[name]
    write(folder / f"{known.split}.jsonl", rows)
    there = replace(known, id=str(folder), config=None, problems=(len(rows),))
    monkeypatch.setitem(sources.SOURCES, name, there)


@pytest.mark.parametrize(
    ("name", "row", "gold"),
    [
        ("math", {"problem": "q", "level": "1", "solution": r"so $\boxed{7}$"}, "7"),
        ("olympiadbench", {"question": "q", "final_answer": ["7"], "image_1": None}, "7"),
        ("gsm8k", {"question": "q", "answer": "1 + 1,233\n#### 1,234"}, "1234"),
        ("amc23", {"question": "q", "answer": 27.0}, "27.0"),
    ],
)
def test_a_data_set_of_the_hub_is_read_by_its_own_columns(
    tmp_path: Path, tokenizer, monkeypatch, name: str, row: dict[str, Any], gold: str
) -> None:
    on_the_hub(monkeypatch, tmp_path, name, [row])
    (problem,) = load(name, tokenizer, None).problems
    assert (problem.id, problem.meta, problem.gold) == (f"{name}/0", {"problem": "q"}, gold)


def test_columns_and_counts_of_the_hub_are_checked(tmp_path, tokenizer, monkeypatch) -> None:
    on_the_hub(monkeypatch, tmp_path, "gsm8k", [{"problem": "q", "answer": "#### 1"}])
    with pytest.raises(UserError, match=r"has no column question; it has problem, answer"):
        load("gsm8k", tokenizer, None)
    on_the_hub(monkeypatch, tmp_path, "gsm8k", [{"question": "q", "answer": None}])
    with pytest.raises(UserError, match=r"test\[0\]: field 'answer' must be a non-empty text"):
        load("gsm8k", tokenizer, None)
    on_the_hub(monkeypatch, tmp_path, "gsm8k", [{"question": "q", "answer": "#### 1"}])
    there = replace(sources.SOURCES["gsm8k"], problems=(1319,))
    monkeypatch.setitem(sources.SOURCES, "gsm8k", there)
    with pytest.raises(UserError, match="holds 1 problems, and gsm8k has 1319"):
        load("gsm8k", tokenizer, None)
