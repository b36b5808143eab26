"""What can go wrong in a run: signals, non-finite numbers, a full disk, damaged or changed data."""

import errno
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from asymrl.config.load import load_config
from asymrl.config.schema import WarnConfig
from asymrl.engines.distributed import World
from asymrl.engines.hf import HFEngine
from asymrl.engines.rollout import never
from asymrl.errors import UserError
from asymrl.run import alerts, checkpoint, early_stop, tracking
from asymrl.run.early_stop import Stop, StopSignals, evaluations_since_best
from asymrl.run.exit_codes import UNFINISHED
from asymrl.training.rollout import generate_and_verify
from asymrl.types import UpdateStats, Verdict
from asymrl.verifiers import Inline
from tests.helpers import first_letter
from tests.helpers.engines import SAMPLING, hf, requests
from tests.helpers.full_disk import largest_file
from tests.helpers.runs import comparable, engine_of, metrics, run, same_weights


def attempt(config_file: Path, folder: Path, *overrides: str) -> int:
    return train.main(["--config", str(config_file), "--output-dir", str(folder), *overrides])


@contextmanager
def signalled(number: signal.Signals, metrics_file: Path, step: int) -> Iterator[None]:
    """Send the signal to this process as soon as that step is logged."""
    finished = threading.Event()

    def wait() -> None:
        while not finished.is_set():
            if metrics_file.is_file() and metrics_file.read_text().count("\n") > step:
                os.kill(os.getpid(), number)
                return
            time.sleep(0.0005)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


@pytest.mark.parametrize("number", early_stop.SIGNALS)
@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_run_stopped_by_a_signal_saves_and_the_same_command_resumes_it(
    config_file: Path, finished: Path, tmp_path: Path, capsys, number: signal.Signals, step: int
) -> None:
    before = [signal.getsignal(each) for each in early_stop.SIGNALS]
    folder, rare = tmp_path / "run", "checkpoint.every=50"
    with signalled(number, folder / "metrics.jsonl", step):
        assert attempt(config_file, folder, rare) == UNFINISHED
    done = metrics(folder)[-1]["step"]
    saved = f"all finished steps are saved in {folder}"
    what = saved if done else "no step was finished since the start"
    assert f"stopped: {number.name}; {what}\n" in capsys.readouterr().out
    assert step <= done < 5
    if done:
        assert checkpoint.load_position(folder / "checkpoints" / "latest").step == done
    assert [signal.getsignal(each) for each in early_stop.SIGNALS] == before
    run(config_file, folder, rare)
    assert comparable(folder) == comparable(finished)
    assert same_weights(folder, finished)


def test_a_later_second_signal_gets_its_default_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal right after the first is the same request: terminal and launcher send one."""
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signals.listen()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert Stop(World(), signals).requested() == "SIGINT"
        monkeypatch.setattr(early_stop, "SAME_REQUEST", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup and in a shell's background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signals.listen()
            signal.raise_signal(signal.SIGHUP)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_stops_after_max_minutes(config_file: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    assert attempt(config_file, folder, "--max-minutes", "1e-6") == UNFINISHED
    line = "stopped: --max-minutes has passed; no step was finished since the start\n"
    assert line in capsys.readouterr().out
    assert [row["step"] for row in metrics(folder)] == [0]
    assert attempt(config_file, folder, "--max-minutes", "1000") == 0
    for wrong in ("0", "-3", "nan", "inf"):
        assert attempt(config_file, folder, "--max-minutes", wrong) == 2
        assert "--max-minutes" in capsys.readouterr().err


def test_generation_and_verification_end_when_a_stop_is_requested() -> None:
    submitted = []
    arguments = {"engine": hf(), "sampling": SAMPLING, "world": World()}

    class Counting(Inline):
        def submit(self, gold: str, text: str, **others: Any) -> Future[Verdict]:
            submitted.append(text)
            return super().submit(gold, text, **others)

    with Counting("asymrl.verifiers.exact", {}) as verifier:
        rollouts, verdicts = generate_and_verify(
            requests(),
            verifier=verifier,
            stop_requested=lambda: "SIGTERM" if len(submitted) >= 3 else None,
            **arguments,
        )
        assert rollouts == verdicts == [] and len(submitted) == 3
        rollouts, _ = generate_and_verify(requests(), verifier=verifier, **arguments)
        assert len(rollouts) == sum(request.samples for request in requests()) == 30


class Interrupted(HFEngine):
    """Receives SIGTERM during its second forward pass for training, and counts those passes."""

    passes, trains = 0, False

    def generate(self, requests: Any, sampling: Any, stop_requested: Any = never) -> Any:
        self.trains = stop_requested is not never
        return super().generate(requests, sampling, stop_requested)

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any) -> torch.Tensor:
        self.passes += self.trains
        if self.passes == 2:
            signal.raise_signal(signal.SIGTERM)
        return super()._forward(ids, mask, positions, cache)


def test_a_signal_does_not_wait_for_a_response_to_finish(config_file: Path, tmp_path: Path) -> None:
    """On a large model that takes more than a minute; a launcher kills sooner."""
    engine: Any = engine_of(config_file, Interrupted)
    long = ["rollout.max_tokens=500", "eval.max_tokens=6"]
    stopped = train.run(load_config(str(config_file), long), tmp_path / "run", engine=engine)
    assert stopped and stopped.code == UNFINISHED and stopped.why.startswith("SIGTERM")
    assert engine.passes == 2
    assert [row["step"] for row in metrics(tmp_path / "run")] == [0]


@pytest.mark.parametrize(
    ("scores", "since"),
    [([], 0), ([0.1], 0), ([0.1, 0.2], 0), ([0.3, 0.2, 0.3], 2), ([0.1, 0.5, 0.4, 0.2], 2)],
)
def test_evaluations_since_the_best_one(scores: list[float], since: int) -> None:
    assert evaluations_since_best(scores) == since


def test_a_run_without_improvement_stops_and_does_not_resume(
    config_file: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "run"
    settings = ["steps=60", "eval.every=1", "eval.patience=2", "checkpoint.every=50"]
    assert attempt(config_file, folder, *settings) == 0
    assert "the last 2 evaluations did not improve" in capsys.readouterr().out
    rows = metrics(folder)
    scores = [row["eval/problems/greedy/avg"] for row in rows]
    assert len(rows) < 60 and evaluations_since_best(scores) == 2
    assert all(evaluations_since_best(scores[:n]) < 2 for n in range(1, len(scores)))
    last = folder / "checkpoints" / "latest"
    assert checkpoint.load_position(last).step == rows[-1]["step"]
    assert attempt(config_file, folder, *settings) == 0
    assert metrics(folder) == rows
    assert attempt(config_file, folder, *settings[:2], f"steps={len(rows)}") == 0  # once more
    assert len(metrics(folder)) == len(rows) + 1


def test_patience_requires_evaluations(config_file: Path, tmp_path: Path, capsys) -> None:
    assert attempt(config_file, tmp_path, "eval.patience=2", "eval.benchmarks=[]") == 2
    assert "eval.patience = 2" in capsys.readouterr().err


GOOD = {
    "policy/entropy": 0.5,
    "rollout/truncated": 0.1,
    "verdict/timeout": 0.0,
    "verdict/crashed": 0.0,
    "rollout/logprob_mismatch_mean": 0.01,
    "verdict/no_answer": 0.1,
    "reward/mean": 0.25,
    "groups/all_solved": 0.0,
    "groups/none_solved": 0.5,
    "diag/mass_positive": 0.25,
    "diag/mass_negative": 0.25,
}
NO_PRESSURE = {"diag/mass_positive": 0.0, "diag/mass_negative": 0.0}
UNSOLVED = NO_PRESSURE | {"reward/mean": 0.0, "groups/none_solved": 1.0}
SOLVED = NO_PRESSURE | {"reward/mean": 1.0, "groups/none_solved": 0.0, "groups/all_solved": 1.0}
HALF = NO_PRESSURE | {"reward/mean": 0.5, "groups/none_solved": 2 / 3, "groups/all_solved": 1 / 3}


@pytest.mark.parametrize(
    ("changed", "bound", "advice"),
    [
        ({"policy/entropy": 0.01}, "entropy_below", "loss.entropy_bonus"),
        ({"policy/entropy": 2.5}, "entropy_above", "optim.lr"),
        ({"rollout/truncated": 0.3}, "truncated_above", "rollout.max_tokens"),
        ({"verdict/timeout": 0.02}, "verifier_failures_above", "verifier.timeout"),
        ({"verdict/crashed": 0.02}, "verifier_failures_above", "verifier.timeout"),
        ({"rollout/logprob_mismatch_mean": 0.2}, "mismatch_above", "loss.importance_sampling"),
        ({"verdict/no_answer": 1.0}, "no_answer_above", "data.chat_template"),
    ],
)
def test_a_violated_bound_is_warned_about_once(changed, bound: str, advice: str) -> None:
    lines = warnings([GOOD, GOOD | changed, GOOD | changed, GOOD, GOOD | changed])
    assert [line.split(":")[1] for line in lines] == [" step 1", " step 4"]
    (name, number), *_ = changed.items()
    assert all(f"warn.{bound}" in line and advice in line and name in line for line in lines)
    assert not alerts.violated_bounds([GOOD, GOOD | changed], WarnConfig(**{bound: number}))
    if bound != "no_answer_above":  # a fraction of verdicts is never NaN
        assert bound in alerts.violated_bounds([GOOD, GOOD | {name: math.nan}], WarnConfig())


def warnings(rows: Sequence[dict[str, float]], done: int = 0) -> list[str]:
    """The warnings of a run with these metrics, resumed after `done` steps."""
    lines: list[str] = []
    tracker = tracking.Alerts(WarnConfig(), lines.append, rows[:done])
    for step, row in enumerate(rows[done:], done):
        tracker.log(step, row)
    return lines


def test_a_policy_that_starts_with_a_high_entropy_is_not_coming_apart() -> None:
    high = GOOD | {"policy/entropy": 3.0}
    assert not warnings([high, high | {"policy/entropy": 4.4}])
    assert not warnings([GOOD, GOOD | {"policy/entropy": 1.9}])  # below the bound
    (line,) = warnings([high, high | {"policy/entropy": 4.6}])
    assert "risen from 3 nats at the first step to 4.6" in line


def test_the_advice_on_a_low_entropy_at_the_first_step_is_another_one() -> None:
    low = GOOD | {"policy/entropy": 0.01}
    assert "rollout.temperature" in warnings([low])[0]
    assert "optim.lr" in warnings([GOOD, low])[0]


@pytest.mark.parametrize(
    ("rows", "step", "part"),
    [
        ([UNSOLVED] * 5, 2, "no response in 3 steps was correct, so every advantage is 0; try eas"),
        ([HALF] * 5, 2, "no prompt in 3 steps had both correct and wrong responses, so every adv"),
        ([UNSOLVED, HALF, SOLVED, HALF], 2, "no prompt in 3 steps had both"),
        ([{}, SOLVED, SOLVED, SOLVED], 3, "every response in 3 steps was correct, so every adv"),
        ([SOLVED] * 5, 0, "every response since the first step is correct"),
        ([UNSOLVED | {"verdict/no_answer": 1.0}] * 5, 0, "verdict/no_answer is 100% of the"),
        (
            [UNSOLVED | {"verdict/no_answer": 1.0, "rollout/truncated": 0.2}, *[UNSOLVED] * 3],
            0,
            "data.user",
        ),
        ([UNSOLVED | {"diag/mass_negative": 1.0}] * 5, 2, "so nothing tells better responses"),
    ],
)
def test_a_run_that_cannot_learn_says_so_once_for_each_reason(
    rows: list[dict[str, float]], step: int, part: str
) -> None:
    first, *others = warnings([GOOD | row for row in rows])
    assert first.startswith(f"warning: step {step}: ") and part in first
    assert len(others) == (part == "data.user")  # then answers come, all wrong: another reason


@pytest.mark.parametrize(
    "rows",
    [
        [UNSOLVED, UNSOLVED, {}, UNSOLVED, UNSOLVED],
        [HALF | {"diag/mass_positive": 0.5}] * 5,  # REINFORCE learns from one prompt on another
        [{"groups/all_solved": math.nan, "groups/none_solved": math.nan}] * 5,  # all masked
        [{"verdict/no_answer": 0.9}] * 5,
    ],
)
def test_a_run_that_can_learn_gets_no_warning(rows: list[dict[str, float]]) -> None:
    assert not warnings([GOOD | row for row in rows])


def test_truncated_responses_without_an_answer_get_the_advice_of_a_larger_limit() -> None:
    cut = UNSOLVED | {"verdict/no_answer": 1.0, "rollout/truncated": 1.0}
    lines = warnings([GOOD | cut])
    assert all("rollout.max_tokens" in line for line in lines) and len(lines) == 2


def test_a_resumed_run_counts_the_steps_before_it_stopped() -> None:
    rows = [GOOD | UNSOLVED] * 6
    assert len(warnings(rows, done=2)) == 1
    assert not warnings(rows, done=3)  # it has said so already
    assert not warnings([GOOD | {"policy/entropy": 3.0}] * 4, done=2)


def test_warnings_are_printed(config_file: Path, tmp_path: Path, capsys) -> None:
    run(config_file, tmp_path / "run", "steps=1", "warn.entropy_below=9")
    assert "warning: step 1: policy/entropy is" in capsys.readouterr().out


def test_repeated_non_finite_updates_end_a_run_and_name_the_batch(
    config_file: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "run"
    arguments = ["optim.lr=1.0e+30", "optim.max_skipped=2", "steps=20"]
    assert attempt(config_file, folder, *arguments) == 2
    error = capsys.readouterr().err
    last = metrics(folder)[-1]
    assert re.match(rf"error: step {last['step']}: \d updates in a row were skipped", error)
    assert "not finite" in error and last["optim/skipped_updates"] >= 1
    batch = folder / "rollouts" / f"step-{last['step']:06d}.jsonl"
    assert batch.name in error and len(batch.read_text().splitlines()) == 24
    saved = checkpoint.latest(folder)
    assert saved is None or checkpoint.check_digests(saved) is None


def test_skipped_updates_are_counted_over_steps() -> None:
    good = UpdateStats(
        metrics={}, by_accuracy_bin={}, grad_norm=1.0, lr=1.0, updates=1, skipped_rows=0
    )
    bad = replace(good, non_finite="the loss (nan)")
    assert alerts.skipped_in_a_row(0, [good, bad]) == 1
    assert alerts.skipped_in_a_row(1, [bad, bad]) == 3
    assert alerts.skipped_in_a_row(2, [bad, good]) == 0
    alerts.stop_if_diverged(7, 2, [bad, bad], most=3)
    with pytest.raises(UserError, match=r"step 7: 3 updates in a row.*the loss \(nan\)"):
        alerts.stop_if_diverged(7, 3, [bad, bad], most=3)


def test_the_same_command_starts_a_branch_that_ran_out_of_disk(
    config_file: Path, finished: Path, tmp_path: Path, capsys
) -> None:
    branch = ["steps=6", "--resume", str(finished / "checkpoints" / "latest")]
    with largest_file(1024 * 50):
        assert attempt(config_file, tmp_path / "run", *branch) == 2
    assert "there is no earlier one" in capsys.readouterr().err
    (tmp_path / "run" / "checkpoints" / ".step-000005.tmp").mkdir()  # as a kill leaves it
    run(config_file, tmp_path / "run", *branch)


@pytest.mark.parametrize("kilobytes", [1, 8, 50, 100, 200])
def test_a_full_disk_damages_no_checkpoint(
    config_file: Path, finished: Path, tmp_path: Path, capsys, kilobytes: int
) -> None:
    """Whichever file does not fit: metrics, rollouts, the model, the optimizer's state."""
    folder = tmp_path / "run"
    run(config_file, folder, "steps=2")
    with largest_file(1024 * kilobytes):
        assert attempt(config_file, folder) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    saved = checkpoint.latest(folder)
    assert saved is not None and saved.name == "step-000002"
    checkpoint.check_digests(saved)
    assert not list(folder.glob("checkpoints/.step-*"))
    run(config_file, folder)
    assert comparable(folder) == comparable(finished)
    assert same_weights(folder, finished)


STATE = checkpoint.state_file(0, 1)
SAVED = ["model.safetensors", STATE, "asymrl.json", "tokenizer.json", "config.json"]


def flip(file: Path) -> None:
    """Flip one bit in the last third: sizes, headers and JSON syntax stay valid."""
    content = bytearray(file.read_bytes())
    content[-len(content) // 3] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        checkpoint.state_file(0, 1),
        "asymrl.json",
        "tokenizer.json",
        "config.json",
    ],
)
def test_the_damaged_file_of_a_checkpoint_is_named(
    config_file: Path, finished: Path, tmp_path: Path, capsys, name: str, damage
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    damage(folder / "checkpoints" / "latest" / name)
    assert attempt(config_file, folder, "steps=6") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and name.rpartition("/")[2] in error, error
    assert metrics(folder) == metrics(finished)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds open files in /proc")
def test_a_resumed_run_lets_go_of_the_files_that_it_started_from(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would fill the disk after they are deleted, and NFS cannot delete open files."""
    folder, mapped, remove_old = tmp_path / "run", [], checkpoint.remove_old

    def remove_and_look(*arguments: Any) -> None:
        remove_old(*arguments)
        mapped.extend(x for x in Path("/proc/self/maps").read_text().splitlines() if "state-" in x)

    run(config_file, folder, "steps=2", "checkpoint.keep=1")
    monkeypatch.setattr(checkpoint, "remove_old", remove_and_look)
    run(config_file, folder, "steps=4", "checkpoint.keep=1")
    assert not mapped
    assert [path.name for path in checkpoint.checkpoints(folder / "checkpoints")] == ["step-000004"]


def test_an_old_checkpoint_that_cannot_be_deleted_is_a_note(
    config_file: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(checkpoint, "remove", busy)
    run(config_file, tmp_path / "run", "steps=2", "checkpoint.keep=1")
    assert "step-000001 could not be deleted: Directory not empty" in capsys.readouterr().out


def test_a_run_whose_checkpoints_are_on_another_disk_resumes(
    config_file: Path, finished: Path, tmp_path: Path
) -> None:
    folder, scratch = tmp_path / "run", tmp_path / "scratch"
    scratch.mkdir()
    folder.mkdir()
    (folder / "checkpoints").symlink_to(scratch)
    run(config_file, folder, "steps=2")
    run(config_file, folder)
    assert not (folder / "begun_from").exists()
    assert comparable(folder) == comparable(finished) and same_weights(folder, finished)


def test_a_checkpoints_readme_may_be_edited(config_file: Path, finished: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "checkpoints" / "latest" / "README.md").write_text("Ours.")
    run(config_file, folder, "steps=6")


@pytest.mark.parametrize("key", ["data.train={}", "eval.benchmarks=[{}]"])
def test_resuming_with_changed_data_is_an_error(
    config_file: Path, tmp_path: Path, capsys, key: str
) -> None:
    data = tmp_path / "problems.jsonl"
    rows = [{"id": str(n), "problem": f"What is {n}?", "answer": str(n)} for n in range(9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder, override = tmp_path / "run", key.format(data)
    run(config_file, folder, override, "steps=2")
    data.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert attempt(config_file, folder, override, "steps=3") == 2
    error = capsys.readouterr().err
    assert "data.train or eval.benchmarks has changed since" in error and error.count("\n") == 1
    last = str(folder / "checkpoints" / "latest")
    run(config_file, tmp_path / "new", override, "steps=3", "--resume", last)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(config_file, folder, override, "steps=3")


def test_no_wall_clock_and_no_host_name_is_read() -> None:
    """Durations are measured on a monotonic clock, which nobody can set."""
    root = Path(train.__file__).parent
    for path in [*root.glob("asymrl/**/*.py"), root / "train.py", root / "eval.py"]:
        forbidden = r"time\.time\(|time_ns|datetime\.now|gethostname|\.node\("
        assert not re.findall(forbidden, path.read_text()), path


def test_an_incomplete_batch_is_never_trained_on(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop during generation leaves the policy unchanged and saves it."""
    folder = tmp_path / "run"
    run(config_file, folder, "steps=2")
    before = checkpoint.load_checkpoint(folder / "checkpoints" / "latest")[0]
    verify, texts = first_letter.verify, []

    def verify_and_signal(gold: str, text: str) -> tuple[str, str | None]:
        texts.append(text)
        if len(texts) == 3:  # the third response of step 3
            signal.raise_signal(signal.SIGTERM)
        return verify(gold, text)

    monkeypatch.setattr(first_letter, "verify", verify_and_signal)
    assert attempt(config_file, folder, "steps=9") == UNFINISHED
    assert 3 <= len(texts) < 24
    assert checkpoint.load_checkpoint(folder / "checkpoints" / "latest")[0] == before
    assert metrics(folder)[-1]["step"] == 2


@pytest.mark.parametrize(("best_on", "ends"), [("falls", True), ("rises", False), (None, False)])
def test_patience_uses_the_benchmark_that_selects_the_checkpoint(
    best_on: str | None, ends: bool
) -> None:
    stop = Stop(World(), StopSignals(), patience=2, best_on=best_on)
    stopped = [
        stop(
            {
                "eval/rises/greedy/avg": 0.2 * n,
                "eval/falls/greedy/avg": 0.5 - 0.1 * n,
                "loss/total": 1.0,
            }
        )
        for n in range(4)
    ]
    assert [bool(each) for each in stopped] == [False, False, ends, ends]


def test_skipped_updates_in_a_row_are_counted_across_steps(
    config_file: Path, tmp_path: Path, capsys
) -> None:
    """With one update per step, three in a row end the run."""
    folder = tmp_path / "run"
    arguments = ["optim.lr=1.0e+30", "optim.minibatch_prompts=6", "steps=20"]
    assert attempt(config_file, folder, *arguments) == 2
    assert "3 updates in a row were skipped" in capsys.readouterr().err
    skipped = [row["optim/skipped_updates"] for row in metrics(folder)[1:]]
    assert skipped[-3:] == [1, 1, 1]


def test_other_folders_beside_checkpoints_are_left_alone(config_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(config_file, folder, "steps=2", "checkpoint.keep=1")
    for name in ("step-final", "step-000002.bak"):
        shutil.copytree(folder / "checkpoints" / "step-000002", folder / "checkpoints" / name)
    run(config_file, folder, "steps=3", "checkpoint.keep=1")
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"latest", "step-000003", "step-final", "step-000002.bak"}
