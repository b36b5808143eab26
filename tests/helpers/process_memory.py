"""How much memory this process and its children take, from /proc; knows nothing of verifiers."""

import threading
from pathlib import Path
from typing import Self

INTERVAL_SECONDS = 0.02


def resident(pid: str, peak: bool = False) -> int:
    """Bytes of a process in memory, now or at its peak; 0 if it is not there."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    name = "VmHWM:" if peak else "VmRSS:"
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


def children() -> list[str]:
    found = []
    for file in Path("/proc/self/task").glob("*/children"):
        try:
            found += file.read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # that thread has ended
            continue
    return found


class Watch:
    """While it is entered: the largest peak of a child, and how many children there were."""

    measures = Path("/proc/self/status").exists()

    def __init__(self) -> None:
        self.largest, self.seen, self._end = 0, set[str](), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        last = not self.measures
        while not last:
            last = self._end.wait(INTERVAL_SECONDS)
            for pid in children():
                self.seen.add(pid)
                self.largest = max(self.largest, resident(pid, peak=True))
