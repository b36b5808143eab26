"""The table of named data sets, and local copies of them."""

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


def load(
    source: str, tokenizer: Any, known: str | None, **arguments: Any
) -> problems.LoadedProblems:
    with verifiers.make("exact") as verifier:
        loader = problems.ProblemLoader(
            tokenizer=tokenizer, verifier=verifier, prompt=PROMPT, max_prompt_tokens=10**6
        )
        return loader.load(source, known=known, **arguments)


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_real_files_work_as_they_are(shared_data: Path, tokenizer, name: str) -> None:
    source = sources.locate_benchmark(name, shared_data, [])
    loaded = load(source, tokenizer, name)
    assert len(loaded.problems) in sources.SOURCES[name].problems
    assert not any("problems, but" in note for note in loaded.notes)


def test_a_file_with_name_and_split_of_a_benchmark_is_that_benchmark(tmp_path: Path) -> None:
    (tmp_path / "gsm8k_train.jsonl").touch()
    with pytest.raises(UserError, match=r"'gsm8k' has no file in .*; it has: gsm8k_train"):
        sources.locate_benchmark("gsm8k", tmp_path, [])
    (tmp_path / "gsm8k_test.jsonl").touch()
    assert sources.locate_benchmark("gsm8k", tmp_path, []).endswith("gsm8k_test.jsonl")
    assert (
        sources.source_of_file("gsm8k_test") == "gsm8k"
        and sources.source_of_file("gsm8k_train") is None
    )


def test_a_wrong_number_of_problems_is_an_error_with_both_counts(tmp_path, tokenizer) -> None:
    rows = [{"problem": f"{n}?", "answer": "1"} for n in range(29)]
    source = write(tmp_path / "aime25.jsonl", rows)
    with pytest.raises(UserError, match=r"has 29 problems, but aime25 has 30, .*--allow-count"):
        load(source, tokenizer, "aime25")
    with pytest.raises(UserError, match=r"has 29 problems"):
        load(source, tokenizer, "aime25", limit=5)  # the count is checked before the limit
    loaded = load(source, tokenizer, "aime25", any_count=True)
    assert len(loaded.problems) == 29 and "29 problems" in loaded.notes[0]
    assert not load(source, tokenizer, None).notes  # the file is not treated as a copy of aime25


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
def test_a_local_copy_may_use_the_columns_of_its_data_set(
    tmp_path, tokenizer, name: str, row: dict[str, Any], gold: str
) -> None:
    source = write(tmp_path / "some.jsonl", [row])
    (problem,) = load(source, tokenizer, name, any_count=True).problems
    assert (problem.gold, problem.meta["problem"]) == (gold, "a?")


def test_a_copy_without_an_answer_names_the_field(tmp_path, tokenizer) -> None:
    source = write(tmp_path / "amc23.jsonl", [{"question": "a?"}])
    with pytest.raises(UserError, match=r"amc23.jsonl:1: field 'answer'"):
        load(source, tokenizer, "amc23")


def test_a_list_is_an_answer_only_if_the_data_set_has_lists(tmp_path, tokenizer) -> None:
    for name in ("gsm8k", "amc23"):
        source = write(tmp_path / f"{name}.jsonl", [{"problem": "a?", "answer": ["18"]}])
        with pytest.raises(UserError, match=rf"{name}.jsonl:1: field 'answer' must be a non-empty"):
            load(source, tokenizer, name)


def test_an_unknown_benchmark_gets_the_list_of_valid_names(tmp_path: Path) -> None:
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


def serve_from_folder(monkeypatch, folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Replace the data set by a local folder, which `datasets` reads in the same way."""
    known = sources.SOURCES[name]
    write(folder / f"{known.split}.jsonl", rows)
    local = replace(known, id=str(folder), config=None, problems=(len(rows),))
    monkeypatch.setitem(sources.SOURCES, name, local)


@pytest.mark.parametrize(
    ("name", "row", "gold"),
    [
        ("math", {"problem": "q", "level": "1", "solution": r"so $\boxed{7}$"}, "7"),
        ("olympiadbench", {"question": "q", "final_answer": ["7"], "image_1": None}, "7"),
        ("gsm8k", {"question": "q", "answer": "1 + 1,233\n#### 1,234"}, "1234"),
        ("amc23", {"question": "q", "answer": 27.0}, "27.0"),
    ],
)
def test_a_data_set_on_the_hub_is_read_by_its_own_columns(
    tmp_path: Path, tokenizer, monkeypatch, name: str, row: dict[str, Any], gold: str
) -> None:
    serve_from_folder(monkeypatch, tmp_path, name, [row])
    (problem,) = load(name, tokenizer, None).problems
    assert (problem.id, problem.meta, problem.gold) == (f"{name}/0", {"problem": "q"}, gold)


def test_columns_and_counts_of_a_data_set_on_the_hub_are_checked(
    tmp_path, tokenizer, monkeypatch
) -> None:
    serve_from_folder(monkeypatch, tmp_path, "gsm8k", [{"problem": "q", "answer": "#### 1"}])
    with pytest.raises(UserError, match=r"has no column question; it has problem, answer"):
        load("gsm8k", tokenizer, None)
    serve_from_folder(monkeypatch, tmp_path, "gsm8k", [{"question": "q", "answer": None}])
    with pytest.raises(UserError, match=r"test\[0\]: field 'answer' must be a non-empty text"):
        load("gsm8k", tokenizer, None)
    serve_from_folder(monkeypatch, tmp_path, "gsm8k", [{"question": "q", "answer": "#### 1"}])
    pinned = replace(sources.SOURCES["gsm8k"], problems=(1319,))
    monkeypatch.setitem(sources.SOURCES, "gsm8k", pinned)
    with pytest.raises(UserError, match="has 1 problems, but gsm8k has 1319"):
        load("gsm8k", tokenizer, None)
