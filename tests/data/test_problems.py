"""Reading rows, rendering prompts, and the order in which training draws problems."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from asymrl import verifiers
from asymrl.data import problems as data
from asymrl.data import sources
from asymrl.data.readers import Fields, short_names
from asymrl.errors import UserError
from asymrl.types import Problem
from asymrl.verifiers import math

PROMPT = {"system": None, "user": "{problem}", "template_kwargs": {}}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(n: int, **other: Any) -> dict[str, Any]:
    return {"id": f"p{n}", "problem": f"What is {n} + 1 (mod 13)?", "answer": str(n + 1)} | other


def load(
    source: str, tokenizer: Any, name: str = "exact", limit: int | None = None, **settings: Any
) -> data.LoadedProblems:
    settings = {"prompt": PROMPT, "max_prompt_tokens": 64} | settings
    with verifiers.make(name, 1, 20.0) as verifier:
        loader = data.ProblemLoader(tokenizer=tokenizer, verifier=verifier, **settings)
        return loader.load(source, limit=limit)


def error_of(source: str, tokenizer: Any, **arguments: Any) -> str:
    with pytest.raises(UserError) as raised:
        load(source, tokenizer, **arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_row_becomes_a_problem_and_keeps_its_other_fields(tmp_path, tokenizer) -> None:
    (problem,) = load(write(tmp_path / "d.jsonl", row(3, level=2)), tokenizer).problems
    assert (problem.id, problem.gold, problem.meta["level"]) == ("p3", "4", 2)
    assert problem.prompt_text.count("What is 3 + 1") == 1
    assert tokenizer.decode(problem.prompt_ids) == problem.prompt_text


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"problem": "a", "answer": "1"', ["d.jsonl:2", "not valid JSON"]),
        ('{"problem": "a"}', ["d.jsonl:2", "'answer'"]),
        ('{"problem": "", "answer": "1"}', ["d.jsonl:2", "'problem'"]),
        ('{"problem": "a", "answer": [7]}', ["d.jsonl:2", "'answer'", "[7]"]),
        ('{"problem": "a", "answer": true}', ["d.jsonl:2", "'answer'", "True"]),
        ('{"problem": "\\ud800", "answer": "1"}', ["d.jsonl:2", "'problem'", "surrogate"]),
        ("[" * 100000, ["d.jsonl:2", "not valid JSON"]),
        ("[1, 2]", ["d.jsonl:2", "object"]),
        ('{"problem": ' + "9" * 5000 + "}", ["d.jsonl:2", "not valid JSON"]),
        ('{"id": "p1", "problem": "a", "answer": "1"}', ["d.jsonl:2", "'id'", "d.jsonl:1"]),
    ],
)
def test_a_malformed_row_names_file_line_and_field(tmp_path, tokenizer, line, parts) -> None:
    source = write(tmp_path / "d.jsonl", row(1))
    with (tmp_path / "d.jsonl").open("a") as file:
        file.write(line + "\n")
    text = error_of(source, tokenizer)
    for part in parts:
        assert part in text


def test_bytes_that_are_not_utf8_name_the_line(tmp_path, tokenizer) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"problem": "\xff"}\n')
    assert "d.jsonl:1: not valid JSON: 'utf-8' codec can't decode" in error_of(
        str(tmp_path / "d.jsonl"), tokenizer
    )


def test_a_missing_or_empty_file_or_an_unknown_suffix_is_an_error(tmp_path, tokenizer) -> None:
    assert "does not exist" in error_of(str(tmp_path / "no.jsonl"), tokenizer)
    assert "no problems" in error_of(write(tmp_path / "empty.jsonl"), tokenizer)
    (tmp_path / "d.txt").write_text("hello")
    assert ".jsonl" in error_of(str(tmp_path / "d.txt"), tokenizer)


def test_csv_reads_like_jsonl(tmp_path, tokenizer, monkeypatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "d.csv").write_text('id,problem,answer\na,"x, y",12\n')
    (problem,) = load(str(tmp_path / "d.csv"), tokenizer).problems
    assert (problem.meta["problem"], problem.gold) == ("x, y", "12")
    for name, broken in (("d.parquet", "no"), ("e.json", "[]"), ("f.json", ""), ("g.json", "[1]")):
        (tmp_path / name).write_text(broken)
        assert name in error_of(str(tmp_path / name), tokenizer)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_an_answer_is_the_text_in_the_file_whatever_other_rows_contain(
    tmp_path, tokenizer, suffix: str
) -> None:
    """In a table with one type per column they would become 1.2345678901234568e+16 or missing."""
    golds = ["12345678901234567", "2.50", "007", "None", "2024-01-02"]
    rows = [{"problem": f"{n}?", "answer": gold} for n, gold in enumerate(golds)]
    lines = {
        "csv": "problem,answer\n" + "".join(f"{n}?,{gold}\n" for n, gold in enumerate(golds)),
        "json": json.dumps([*rows, {"problem": "6?", "answer": 2**54 + 1}, rows[0] | {"x": 1.5}]),
    }
    file = tmp_path / f"d.{suffix}"
    file.write_text(lines[suffix])
    golds_read = [problem.gold for problem in load(str(file), tokenizer).problems]
    more = [str(2**54 + 1), golds[0]] if suffix == "json" else []
    assert golds_read == [*golds, *more]


def test_an_extra_comma_does_not_change_the_answer(tmp_path, tokenizer) -> None:
    (tmp_path / "d.csv").write_text("problem,answer\na, b,7\n")
    text = error_of(str(tmp_path / "d.csv"), tokenizer)
    assert "d.csv cannot be read as csv: row 1 has more fields" in text


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("d.csv", "problem,answer,answer\nq,1,2\n", "two columns are called 'answer'"),
        ("d.csv", 'problem,answer\nq,1\n"q"x,1\n', "as csv after row 1: ',' expected"),
        ("d.csv", "problem;answer\nq;1\n", "question, prompt; its fields are 'problem;answer'"),
        ("d.json", '[\n{"problem": "q", "answer": "1"},\n{"problem": 1.2.3}\n]', "line 3 column"),
        ("d.json", '[{"problem": "q", "answer": NaN}]', "d.json, row 1: field 'answer' must"),
    ],
)
def test_an_error_in_a_file_names_its_place(tmp_path, tokenizer, name, text, part) -> None:
    (tmp_path / name).write_text(text)
    assert part in error_of(str(tmp_path / name), tokenizer)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc on this machine")
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, tokenizer, suffix: str) -> None:
    file = tmp_path / f"d{suffix}"
    file.symlink_to("/proc/self/mem")  # reading its first byte is an input/output error
    assert f"{file} cannot be read" in error_of(str(file), tokenizer)


def test_the_id_of_a_problem_does_not_depend_on_the_folder_of_its_file(tmp_path, tokenizer) -> None:
    rows = [{"problem": f"{n}?", "answer": "1"} for n in range(2)]
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "d.json").write_text(json.dumps(rows))
    for source in (write(tmp_path / "d.jsonl", *rows), str(tmp_path / "else" / "d.json")):
        assert [problem.id for problem in load(source, tokenizer).problems] == ["d/0", "d/1"]


def test_a_byte_order_mark_is_not_part_of_the_first_row(tmp_path, tokenizer) -> None:
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(row(1)).encode() + b"\r\n")
    assert load(str(tmp_path / "d.jsonl"), tokenizer).problems[0].id == "p1"


def test_an_error_in_the_chat_template_is_reported(tmp_path, tokenizer) -> None:
    source, strict = write(tmp_path / "d.jsonl", row(1)), copy.copy(tokenizer)
    strict.chat_template = "{{ raise_exception('System role not supported') }}"
    assert "System role not supported" in error_of(source, strict)
    strict.chat_template = None
    assert "chat template" in error_of(source, strict)


def test_two_benchmarks_with_one_name_are_an_error() -> None:
    with pytest.raises(UserError, match="two benchmarks are called a"):
        short_names(["x/a.jsonl", "math500", "y/a.jsonl"])


def test_field_names_can_be_set(tmp_path, tokenizer) -> None:
    source = write(tmp_path / "d.jsonl", {"question": "a", "gold": "1"})
    loaded = load(source, tokenizer, fields=Fields(problem="question", answer="gold"))
    assert loaded.problems[0].gold == "1"


def test_over_long_prompts_are_dropped_counted_and_named(tmp_path, tokenizer) -> None:
    source = write(tmp_path / "d.jsonl", row(1), row(2, problem="x" * 100))
    loaded = load(source, tokenizer, max_prompt_tokens=30)
    assert [problem.id for problem in loaded.problems] == ["p1"]
    assert "dropped 1 of 2" in loaded.notes[0] and "p2" in loaded.notes[0]
    assert "every prompt" in error_of(source, tokenizer, max_prompt_tokens=2)


def test_a_gold_that_cannot_be_parsed_gets_a_note_or_is_an_error(tmp_path, tokenizer) -> None:
    source = write(tmp_path / "d.jsonl", row(1), row(2, answer=r"\frac{"))
    (note,) = load(source, tokenizer, "math").notes
    assert "d.jsonl:2" in note and r"\frac{" in note
    text = error_of(source, tokenizer, name="math", reject_unparseable=True)
    assert "d.jsonl:2" in text


def test_golds_that_box_different_answers_are_dropped_counted_and_shown(tmp_path, tokenizer):
    rows = [row(1), row(2, answer=r"First \boxed{5}. Then we add one, which is \boxed{6}.")]
    loaded = load(write(tmp_path / "d.jsonl", *rows), tokenizer, "math")
    assert [problem.id for problem in loaded.problems] == ["p1"]
    assert "dropped 1 of 2 problems: their golds box different answers" in loaded.notes[0]
    assert "d.jsonl:2" in loaded.notes[0] and "Then we add" in loaded.notes[0]
    assert "cannot use 1 of 1" in error_of(write(tmp_path / "e.jsonl", rows[1]), tokenizer)


def test_an_answer_column_without_answers_is_an_error(tmp_path, tokenizer) -> None:
    story = "We walk from the house to the lake and then all the way back again, twice."
    rows = [row(n, answer=story) for n in range(1, 4)]
    text = error_of(write(tmp_path / "d.jsonl", row(9), *rows), tokenizer, name="math")
    assert "3 of 4 golds cannot be parsed" in text and "We walk" in text
    assert "data.answer_field" in text


def test_a_column_of_solutions_loads_with_every_gold_readable(tmp_path, tokenizer) -> None:
    golds = [
        "two and two\n#### 4",
        r"So $\boxed{4}$.",
        '["4"]',
        r"\\frac{8}{2}",
        "The answer is 4.",
    ]
    rows = [row(n, answer=gold) for n, gold in enumerate(golds)]
    loaded = load(write(tmp_path / "d.jsonl", *rows), tokenizer, "math")
    assert not loaded.notes
    for problem in loaded.problems:
        assert math.verify(problem.gold, r"\boxed{4}")[0] == "correct"
        assert math.verify(problem.gold, r"\boxed{5}")[0] == "wrong"


def test_an_unreachable_data_set_suggests_a_local_file(tokenizer) -> None:
    assert "a local file works too" in error_of("aime24", tokenizer)


def problems(count: int) -> list[Problem]:
    return [
        Problem(id=str(n), prompt_ids=(1,), prompt_text="", gold="", source="")
        for n in range(count)
    ]


def draw(first: int, count: int, seed: int = 0, step: int = 1) -> list[str]:
    requests = data.sample_prompts(
        problems(7), count, samples=2, first_draw=first, seed=seed, step=step
    )
    return [request.problem.id for request in requests]


def test_each_epoch_draws_every_problem_once_in_a_new_order() -> None:
    first, second = draw(0, 7), draw(7, 7)
    assert sorted(first) == sorted(second) == [str(n) for n in range(7)]
    assert first != second


def test_the_order_does_not_depend_on_the_size_of_the_steps() -> None:
    whole = draw(0, 20)
    assert draw(0, 5) + draw(5, 11) + draw(16, 4) == whole
    assert draw(0, 20, seed=1) != whole


def test_every_draw_of_every_step_has_its_own_seed() -> None:
    seeds = [
        request.seed
        for seed in (0, 1)
        for step in (1, 2)
        for request in data.sample_prompts(
            problems(3), 6, samples=1, first_draw=0, seed=seed, step=step
        )
    ]
    assert len(set(seeds)) == len(seeds) == 24


def test_named_sources_read_answers_in_the_format_of_their_data_sets() -> None:
    assert sources.SOURCES["math"].read_answer(r"so \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert sources.SOURCES["gsm8k"].read_answer("2+2\n#### 1,234") == "1234"
    assert sources.SOURCES["olympiadbench"].read_answer(["$2$"]) == "$2$"


def test_real_math_problems_load_with_their_golds_checked(shared_data, tokenizer) -> None:
    source = str(shared_data / "math_train.jsonl")
    loaded = load(source, tokenizer, "math", max_prompt_tokens=100000, limit=200)
    assert len(loaded.problems) == 200
    assert tokenizer.decode(loaded.problems[0].prompt_ids) == loaded.problems[0].prompt_text
