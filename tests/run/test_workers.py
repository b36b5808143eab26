"""Worker processes: their devices, and what becomes of their runs when the user stops them."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from asymrl.run.workers import Task, execute_all
from tests.helpers.worker_tasks import note_place, wait_for_stop


def no_report(finished: int, running: object, message: str) -> None: ...


def nothing_more(task: Task, seconds: float) -> str:
    return ""


def tasks_of(folder: Path, count: int) -> list[Task]:
    return [
        Task(name=str(n), log=folder / f"{n}.log", arguments=(folder / f"{n}.txt",))
        for n in range(count)
    ]


def places_of(tasks: list[Task]) -> list[list[str]]:
    return [task.arguments[0].read_text().split() for task in tasks]


def test_each_run_on_a_gpu_has_a_process_of_its_own_and_one_gpu(tmp_path: Path) -> None:
    """A process keeps memory on its GPU until it ends."""
    tasks = tasks_of(tmp_path, 3)
    assert not execute_all(tasks, note_place, ["4", "GPU-7f"], nothing_more, no_report)
    gpus, processes = zip(*places_of(tasks), strict=True)
    assert {*gpus} == {"4", "GPU-7f"} and len({*processes}) == 3


def test_runs_on_a_cpu_share_a_process_and_see_no_gpu(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    tasks = tasks_of(tmp_path, 3)
    assert not execute_all(tasks, note_place, [None], nothing_more, no_report)
    gpus, processes = zip(*places_of(tasks), strict=True)
    assert {*gpus} == {"none"} and len({*processes}) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_running_runs_save(tmp_path: Path, number: int) -> None:
    def send() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    task = Task(name="run", log=tmp_path / "log", arguments=(tmp_path,))
    with pytest.raises(KeyboardInterrupt):
        execute_all([task], wait_for_stop, [None], nothing_more, no_report)
    assert (tmp_path / "saved").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
