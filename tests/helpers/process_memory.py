"""Memory of this process and its children, read from /proc. Does not know verifiers."""

import threading
from pathlib import Path
from typing import Self

INTERVAL_SECONDS = 0.02


def resident_bytes(pid: str, peak: bool = False) -> int:
    """Bytes of a process in memory, now or at its peak; 0 if there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    name = "VmHWM:" if peak else "VmRSS:"
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


def child_pids() -> list[str]:
    pids = []
    for file in Path("/proc/self/task").glob("*/children"):
        try:
            pids += file.read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
    return pids


class MemoryMonitor:
    """Records the largest peak of any child, and the children's ids, while it is entered."""

    available = Path("/proc/self/status").exists()

    def __init__(self) -> None:
        self.largest_child, self.pids, self._end = 0, set[str](), threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _poll(self) -> None:
        last = not self.available
        while not last:
            last = self._end.wait(INTERVAL_SECONDS)
            for pid in child_pids():
                self.pids.add(pid)
                self.largest_child = max(self.largest_child, resident_bytes(pid, peak=True))
