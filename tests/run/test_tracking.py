"""Trackers and the progress bar: what they write and what they show."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from asymrl.run import tracking
from tests.helpers.paths import ROOT
from tests.helpers.runs import run, same_weights


def test_jsonl_has_no_nan_and_is_appended_to(tmp_path: Path) -> None:
    for step, number in ((1, 0.5), (2, float("nan"))):
        tracker = tracking.JsonlTracker(tmp_path)
        tracker.log(step, {"a": number})
        tracker.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "a": 0.5}, {"step": 2, "a": None}]


def test_plain_output_is_one_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = tracking.ConsoleTracker("demo", 0, 4)
    tracker.phase("generate", 3, 8)
    tracker.log(0, {"eval/heldout/greedy/avg": 0.25})
    tracker.log(1, {"reward/mean": 0.5, "policy/entropy": 1.25, "time/update": 0.5})
    tracker.close()
    first, second = capsys.readouterr().out.strip().splitlines()
    assert first.startswith("demo step 0/4") and "heldout greedy 0.250" in first
    for part in ("step 1/4", "reward 0.500", "entropy 1.250", "update 0.50s", "ETA"):
        assert part in second


@pytest.mark.parametrize("existing", [0, 4])
def test_a_progress_bar_prints_ten_lines_where_there_is_no_terminal(existing: int) -> None:
    output = io.StringIO()
    with tracking.progress_bar("evaluate", "responses", Console(file=output, width=120)) as show:
        for done in range(existing, 41):
            show(done, 40)
    lines = output.getvalue().splitlines()
    if existing:
        assert lines.pop(0) == "4 of 40 responses exist already"
    expected = range(existing + 4, 41, 4)
    assert [line.partition(" ")[0] for line in lines] == [f"{done}/40" for done in expected]
    assert all(re.fullmatch(r"\d+/40 responses(, \d+:\d\d left)?", line) for line in lines)


def test_a_progress_bar_on_a_terminal_is_one_live_line() -> None:
    output = io.StringIO()
    console = Console(file=output, width=120, force_terminal=True)
    with tracking.progress_bar("evaluate", "responses", console) as show:
        for done in range(41):
            show(done, 40)
    assert "40/40 responses, left" in re.sub(r"\x1b\[[0-9;?]*\w", "", output.getvalue())
    assert output.getvalue().count("\n") <= 2


def test_a_clock_adds_up_phases_and_announces_them() -> None:
    phases = []

    class Recorder(tracking.Tracker):
        def phase(self, name: str, done: int = 0, total: int = 0) -> None:
            phases.append(name)

    clock = tracking.Clock(Recorder())
    for _ in range(2):
        with clock("update"):
            pass
    assert phases == ["update", "update"]
    assert clock.metrics().keys() == {"time/update", "time/step"}
    assert 0 < clock.metrics()["time/update"] <= clock.metrics()["time/step"]


def test_wandb_offline_needs_no_account(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = tracking.WandbTracker(tmp_path, "asymrl", "offline", {"steps": 1})
    tracker.log(1, {"reward/mean": 0.5, "diag/kappa": float("nan")})
    tracker.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


WANDB_DIES = """
import os, signal, sys
from pathlib import Path
from asymrl.run.tracking import WandbTracker

tracker = WandbTracker(Path(sys.argv[1]), "asymrl", "offline", {"steps": 1})
tracker.log(1, {"reward/mean": 0.5})
children = Path("/proc/self/task").glob("*/children")
for child in [int(pid) for file in children for pid in file.read_text().split()]:
    if b"wandb-core" in Path(f"/proc/{child}/cmdline").read_bytes():
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
for step in range(2, 9):
    tracker.log(step, {"reward/mean": 0.5})
tracker.close()
print("done", flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds wandb's process in /proc")
def test_a_run_continues_without_wandb_when_it_dies(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(
        [sys.executable, "-c", WANDB_DIES, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment | {"WANDB_SILENT": "true"},  # starts a wandb process of its own
        cwd=ROOT,
    )
    first, last = done.stdout.splitlines()
    assert first.startswith("warning: wandb failed, the run continues without it:")
    assert last == "done"


def test_a_resumed_run_is_the_same_wandb_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for step in (1, 2):
        tracker = tracking.WandbTracker(tmp_path, "asymrl", "offline", {"steps": 2})
        ids.append(tracker.run.id)
        tracker.log(step, {"reward/mean": 0.5})
        tracker.close()
    other = tmp_path / "other"
    other.mkdir()
    assert ids[0] == ids[1] != tracking.wandb_id(other)


def test_a_run_continues_when_its_output_has_no_reader(
    config_file: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `tee` that died of the Ctrl-C meant for the run; a terminal that hung up."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as broken_pipe:
        monkeypatch.setattr("sys.stdout", broken_pipe)
        run(config_file, tmp_path / "run")
    assert same_weights(tmp_path / "run", finished)
