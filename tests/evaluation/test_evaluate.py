"""Samples are saved, reused by a resumed evaluation, and never mixed with other settings."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from asymrl import verifiers
from asymrl.data.problems import problems_digest
from asymrl.engines.distributed import World
from asymrl.engines.hf import HFEngine
from asymrl.errors import UserError
from asymrl.evaluation import evaluate, results_folder
from asymrl.evaluation.evaluate import EvalTask, Resumable
from asymrl.run.tracking import Tracker
from asymrl.training.rollout import Progress
from asymrl.types import Problem, Request, Rollout, Sampling
from tests.helpers.models import tiny_model

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=8, stop_ids=(1,))
COUNTS = {"a": 3, "b": 2}


def problems(name: str, count: int, tokenizer) -> list[Problem]:
    texts = [f"What is {'1 + ' * (n % 4)}{n}?" for n in range(count)]  # of several lengths
    return [
        Problem(
            id=f"{name}/{n}",
            prompt_ids=tuple(tokenizer(text)["input_ids"]),
            prompt_text=text,
            gold="1",
            source=name,
        )
        for n, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def engine(tokenizer) -> HFEngine:
    return HFEngine(tiny_model(len(tokenizer), 1), tokenizer.decode, 64)


@pytest.fixture
def run(engine, tokenizer) -> Callable[..., Any]:
    """Evaluates 7 problems of a, 3 samples each, and 4 of b, 2 samples each, 6 samples a chunk."""
    all_problems = {"a": problems("a", 7, tokenizer), "b": problems("b", 4, tokenizer)}

    def go(
        folder: Path,
        make: Any = lambda: engine,
        only: str = "ab",
        progress: Progress = lambda done, total: None,
        **resumable: Any,
    ) -> Any:
        chosen = {name: all_problems[name] for name in only}
        task = EvalTask(benchmarks=chosen, samples=COUNTS, sampling=SAMPLING, seed=0)
        recorded = {
            name: {"samples": COUNTS[name], "digest": problems_digest(chosen[name])}
            for name in chosen
        }
        defaults = {"chunk": 6, "settings": {"seed": 0, "benchmarks": recorded}}
        how = Resumable(**defaults | resumable)
        with verifiers.make("first_letter") as verifier:
            return evaluate.evaluate(
                task, make, verifier, World(), folder, progress=progress, resumable=how
            )

    return go


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def never() -> Any:
    raise AssertionError("an engine was loaded although no samples are missing")


def test_the_folder_holds_every_sample_in_order(run, tmp_path) -> None:
    a, b = run(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(r["problem_id"], r["sample"]) for r in rows] == [
        (f"a/{n}", i) for n in range(7) for i in range(3)
    ]
    assert 0 < sum(r["reward"] for r in rows) < 21  # otherwise the checks below prove little
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["benchmarks"]["a"]["avg"] == a.avg.value == sum(r["reward"] for r in rows) / 21
    assert summary["mean"]["avg"]["value"] == (a.avg.value + b.avg.value) / 2
    assert list(contents(tmp_path)) == ["a.jsonl", "b.jsonl", "settings.json", "summary.json"]


def test_chunks_do_not_change_samples(run, tmp_path) -> None:
    run(tmp_path / "whole", chunk=1000)
    for chunk in (1, 7):
        run(tmp_path / str(chunk), chunk=chunk)
        assert contents(tmp_path / str(chunk)) == contents(tmp_path / "whole")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.77, 0.99, 1.0])
@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl"])
def test_a_file_truncated_anywhere_is_completed_to_the_same_bytes(
    run, tmp_path, share, name
) -> None:
    results = run(tmp_path)
    before = contents(tmp_path)
    (tmp_path / name).write_bytes(before[name][: int(share * len(before[name]))])
    (tmp_path / "summary.json").unlink()
    if name == "a.jsonl":
        (tmp_path / "b.jsonl").unlink()
    assert run(tmp_path) == results
    assert contents(tmp_path) == before


class DependsOnCall:
    """Like vLLM: what it generates depends on all requests of a call. It records their draws."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine = engine
        self.calls: list[list[int]] = []

    def generate(self, requests: Sequence[Request], *arguments: Any) -> Iterator[Rollout]:
        self.calls.append([request.draw for request in requests])
        seeds = sum(request.seed for request in requests)
        for rollout in self.engine.generate(requests, *arguments):
            yield replace(rollout, text=f"{rollout.text} {seeds}")


@pytest.mark.parametrize("share", [0.4, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl"])
def test_a_resumed_evaluation_repeats_whole_calls(run, tmp_path, engine, share, name) -> None:
    whole = DependsOnCall(engine)
    run(tmp_path, make=lambda: whole, chunk=8)  # two of a's problems, or a's last and two of b's
    assert whole.calls == [[0, 1], [0, 1], [0, 1], [0, 1, 2], [0, 1]]
    before = contents(tmp_path)
    (tmp_path / name).write_bytes(before[name][: int(share * len(before[name]))])
    (tmp_path / "summary.json").unlink()
    if name == "a.jsonl":
        (tmp_path / "b.jsonl").unlink()
    again = DependsOnCall(engine)
    run(tmp_path, make=lambda: again, chunk=8)
    assert contents(tmp_path) == before and len(again.calls) < 5


def test_only_missing_samples_are_generated(run, tmp_path, engine) -> None:
    run(tmp_path)
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b"".join(file.read_bytes().splitlines(keepends=True)[:14])
    )  # four problems are 12
    seen: list[tuple[int, int]] = []
    run(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (12 + 8, 29) and seen[-1] == (29, 29)
    assert [done for done, _ in dict.fromkeys(seen)] == list(range(20, 30))  # one a response


def test_a_complete_evaluation_loads_no_engine(run, tmp_path) -> None:
    before = run(tmp_path), contents(tmp_path)
    assert (run(tmp_path, make=never), contents(tmp_path)) == before


def test_another_benchmark_is_added_to_the_folder(run, tmp_path) -> None:
    run(tmp_path, only="a")
    run(tmp_path, only="b")
    assert set(json.loads((tmp_path / "summary.json").read_text())["benchmarks"]) == {"b"}
    run(tmp_path, make=never)  # both are complete


def test_other_settings_are_an_error_that_names_them_and_changes_nothing(run, tmp_path) -> None:
    run(tmp_path, only="a")
    before = contents(tmp_path)
    settings = json.loads(before["settings.json"])
    settings["benchmarks"]["a"]["samples"] = 9
    settings["seed"] = 5
    settings["checkpoint"] = "elsewhere"
    with pytest.raises(UserError) as raised:
        run(tmp_path, make=never, only="a", settings=settings)
    assert "differ in seed (0 there, 5 here); benchmarks.a.samples (3 there" in str(raised.value)
    assert "elsewhere" not in str(raised.value)
    assert contents(tmp_path) == before
    run(tmp_path, only="a", settings=settings, replace=True)
    assert json.loads(contents(tmp_path)["settings.json"])["seed"] == 5


def test_replace_reuses_samples_with_the_same_settings(run, tmp_path) -> None:
    run(tmp_path)
    run(tmp_path, make=never, replace=True)


def test_replaced_samples_are_deleted_only_after_the_engine_has_loaded(run, tmp_path) -> None:
    """If the engine fails to load, the old samples are still there."""
    run(tmp_path)
    before = contents(tmp_path)
    settings = json.loads(before["settings.json"]) | {"seed": 5}

    def fails() -> Any:
        assert contents(tmp_path) == before
        raise MemoryError

    with pytest.raises(MemoryError):
        run(tmp_path, make=fails, settings=settings, replace=True)
    assert contents(tmp_path) == before
    run(tmp_path, make=never)  # and can still be resumed
    run(tmp_path, settings=settings, only="a", replace=True)
    assert list(contents(tmp_path)) == ["a.jsonl", "settings.json", "summary.json"]


def test_replace_deletes_only_samples(run, tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    (tmp_path / "a.jsonl").write_text("of some other program\n")
    with pytest.raises(UserError, match=r"a\.jsonl, but no settings\.json"):
        run(tmp_path, make=never)
    run(tmp_path, replace=True)
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda lines: [lines[0], b"{\n", *lines[2:]], "a.jsonl:2: not valid JSON"),
        (lambda lines: [*lines[1:]], "a.jsonl:1: expected sample 0 of problem a/0"),
        (lambda lines: [*lines, lines[0]], "has 22 samples, but these settings give 21"),
        (
            lambda lines: [lines[0].replace(b'"reason"', b'"because"'), *lines[1:]],
            "a.jsonl:1: the row has no reason",
        ),
        (
            lambda lines: [
                *lines[:4],
                lines[4].replace(b'"truncated": ', b'"truncated": 1'),
                *lines[5:],
            ],
            "a.jsonl:5: ",
        ),
    ],
)
def test_damage_is_named_and_not_repaired(run, tmp_path, damage, part) -> None:
    run(tmp_path, only="a")
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_bytes(b"".join(damage(lines)))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=part):
        run(tmp_path, make=never, only="a")
    assert contents(tmp_path) == before


def test_in_training_all_samples_are_generated_again(engine, tokenizer, tmp_path) -> None:
    """Samples from before a resume are deleted."""
    greedy = replace(SAMPLING, temperature=0.0)
    benchmarks = {"a": problems("a", 7, tokenizer), "b": problems("b", 4, tokenizer)}
    task = {"benchmarks": benchmarks, "samples": COUNTS, "sampling": SAMPLING, "seed": 0}
    recorder: Any = DependsOnCall(engine)
    with verifiers.make("first_letter") as verifier:
        step = partial(
            evaluate.evaluate_step,
            run_dir=tmp_path,
            tracker=Tracker(),
            engine=recorder,
            verifier=verifier,
            world=World(),
            tasks={"t1": task, "greedy": task | {"sampling": greedy}},
        )
        metrics, folder = step(3), tmp_path / "eval" / "step-000003" / "t1"
        kinds = ("avg", "stderr", "pass_at_k", "truncated")
        assert [*metrics] == [
            f"eval/{name}/{s}/{kind}" for s in ("t1", "greedy") for name in "ab" for kind in kinds
        ]
        assert recorder.calls == [[*range(11)]] * 2  # all benchmarks of a setting at once
        before = contents(folder)
        (folder / "a.jsonl").write_bytes(before["a.jsonl"] * 2)
        assert step(3) == metrics
    assert contents(folder) == before and "settings.json" not in before


def test_a_benchmark_name_that_looks_like_markup_is_shown_unchanged(run, tmp_path) -> None:
    (a,) = run(tmp_path, only="a")
    screen = Console(record=True, width=200, file=io.StringIO())
    screen.print(evaluate.results_table([replace(a, benchmark="[/x] [red]y")]))
    assert "[/x] [red]y" in screen.export_text()


def test_progress_of_one_rank_is_scaled_to_all_ranks() -> None:
    calls: list[tuple[int, int]] = []
    report = partial(
        evaluate.report_progress, lambda done, total: calls.append((done, total)), 10, 20, 50
    )
    report(5, 10)  # half of this rank's share
    report(10, 10)
    assert calls == [(20, 50), (30, 50)]


def test_the_weights_digest_depends_on_every_file(model_folder, tmp_path) -> None:
    known = results_folder.weights_digest(model_folder)
    file = next(model_folder.glob("*.safetensors"))
    changed = tmp_path / file.name
    content = bytearray(file.read_bytes())
    changed.write_bytes(content)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    assert results_folder.weights_digest(tmp_path) == known
    content[-5] ^= 1
    changed.write_bytes(content)
    assert results_folder.weights_digest(tmp_path) != known
    changed.write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text("{}")
    assert results_folder.weights_digest(tmp_path) != known
    assert results_folder.weights_digest(tmp_path / "no-such") is None


@pytest.mark.parametrize("place", [0, 2**20, -1])
def test_the_weights_digest_depends_on_every_byte(tmp_path, place: int) -> None:
    """Fine-tuning can change only some layers."""
    content = bytearray(3 * 2**20)
    (tmp_path / "model.safetensors").write_bytes(content)
    known = results_folder.weights_digest(tmp_path)
    content[place] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    assert results_folder.weights_digest(tmp_path) != known
