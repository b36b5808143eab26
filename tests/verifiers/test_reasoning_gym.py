"""Tasks of reasoning-gym: what TASKS promises of each, and how a response is scored."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from asymrl import verifiers
from asymrl.data.reasoning_gym import different_entries, to_row
from asymrl.errors import UserError
from asymrl.verifiers import reasoning_gym as gym
from tests.helpers.paths import ROOT
from tests.helpers.reasoning import EVALUATES, JUNK

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=[40, pytest.param(200, marks=pytest.mark.long)])
def two_processes(request) -> list[Found]:
    """What two processes with different hash seeds find in so many entries of each task."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.reasoning", str(request.param)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    outputs = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("task", gym.TASKS)
def test_a_task_is_exact_and_the_same_in_every_process(task: str, two_processes) -> None:
    one, other = (found[task] for found in two_processes)
    assert one["digest"] == other["digest"]
    assert one["stored"] == 1
    assert one["junk"] < 1
    assert one["events"] == other["events"] == []


@pytest.mark.slow
def test_an_evaluator_would_be_seen(two_processes) -> None:
    assert "compile" in two_processes[0][EVALUATES]["events"]


@pytest.fixture(scope="module")
def verifier() -> Iterator[verifiers.Verifier]:
    with verifiers.make("exact", 1, 20.0) as verifier:
        yield verifier


def rows_of(task: str, count: int) -> list[dict[str, Any]]:
    return [to_row(task, task, entry) for entry in different_entries(task, None, 5, count)]


def row_of(task: str) -> dict[str, Any]:
    return rows_of(task, 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize("task", gym.TASKS)
def test_a_worker_with_the_sandbox_gives_the_stored_answer_1_and_junk_0(task, verifier) -> None:
    rows = rows_of(task, 40)
    boxed = [(row, f"so it is \\boxed{{{row['answer']}}}") for row in rows]
    junk = [(row, f"\\boxed{{{text}}}") for row in rows[:10] for text in JUNK]
    pending = [verifier.submit(row["answer"], text, row=row) for row, text in boxed + junk]
    reasons = [future.result().reason for future in pending]
    assert reasons == ["correct"] * len(boxed) + ["wrong"] * len(junk)


@pytest.mark.slow
def test_partial_credit_is_no_credit(verifier) -> None:
    row = row_of("word_sorting")
    words = row["answer"].split(", ")
    swapped = ", ".join([words[1], words[0], *words[2:]])
    entry = {"answer": row["answer"], "metadata": row[gym.COLUMN]["metadata"]}
    assert 0 < gym.scorer("word_sorting").score_answer(swapped, entry) < 1
    verdict = verifier.submit(row["answer"], f"\\boxed{{{swapped}}}", row=row).result()
    assert (verdict.reason, verdict.reward) == ("wrong", 0.0)


@pytest.mark.slow
def test_other_rows_are_judged_by_the_named_verifier(verifier) -> None:
    assert verifier.submit("1/2", r"\boxed{0.5}", row={"answer": "1/2"}).result()
    assert verifier.submit("1/2", r"\boxed{0.5}").result()
    row = row_of("gcd") | {"answer": "2"}
    assert not verifier.submit("2", r"\boxed{\frac{4}{2}}", row=row).result()


@pytest.mark.slow
def test_verify_takes_a_row_too() -> None:
    row = row_of("family_relationships")
    word = row["answer"].upper()
    assert verifiers.verify(f"\\boxed{{\\text{{{word}}}}}", row["answer"], row=row)
    assert not verifiers.verify(f"\\boxed{{{word}}}", row["answer"], "exact")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ({"task": "countdown", "metadata": {}}, "reasoning_gym:countdown is not one of the"),
        ("gcd", "must have reasoning_gym: {task, metadata}"),
    ],
)
def test_a_row_with_another_column_ends_the_run(column, sentence, verifier) -> None:
    with pytest.raises(UserError, match=sentence):
        verifier.submit("2", r"\boxed{2}", row={gym.COLUMN: column}).result()


@pytest.mark.parametrize(
    ("text", "settings", "answer"),
    [
        (r"so \boxed{ a b }", (False, False), "a b"),
        (r"\boxed{\text{olleh}}", (False, False), "olleh"),
        ("olleh", (False, False), None),
        (" olleh \n", (True, False), "olleh"),
        ("olleh\nis it", (True, False), None),
        ("so\n<answer>olleh</answer>\n", (True, False), "olleh"),
        ("<think>\nwhy\n</think>olleh", (True, False), "olleh"),
        (r"\boxed{a}</think> done", (False, False), None),
        (r"\boxed{a}</think> done", (False, True), "a"),
        ("", (True, False), None),
    ],
)
def test_the_answer_is_in_the_box_or_is_the_only_line(text, settings, answer) -> None:
    assert gym.find_answer(text, *settings) == answer
