"""Runs for tests of worker processes: what `execute_all` calls."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def note_place(file: Path) -> int:
    """Write which GPU and which process this run has."""
    file.write_text(f"{os.environ['CUDA_VISIBLE_DEVICES'] or 'none'} {os.getpid()}")
    return 0


def wait_for_stop(folder: Path) -> int:
    """Say that the run has begun; at SIGTERM, save and end with another exit code than 0."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    (folder / "begun").touch()
    while not stopped:
        time.sleep(0.01)
    (folder / "saved").touch()
    return 75
