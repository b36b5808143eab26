"""How a program ends: its exit code, and the one sentence that goes with it.

Of several processes the first one speaks. Used by train.py and eval.py.

When a run ends before its last step: it is asked to, its time is up, or it no longer improves.

A run stops between a step and the next, or drops the step that it is in before that has changed
anything; what it has is then saved. Knows signals, clocks and scores; nothing of training.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from asymrl.errors import RESUME_HINT, ReportedByRankZero, UserError
from asymrl.files import UNWRITABLE

DONE, WRONG, INTERRUPTED = 0, 2, 130
FIRST_TO_SPEAK = 1.0  # seconds; less than a watch waits for every rank to (watch.TIME_TO_SPEAK)
BEFORE_A_WATCH = 10.0  # seconds, while no process group is there and so no rank waits for another


def exit_code(run: Callable[[], int | None]) -> int:
    """run() gives the code of a program that came to its end, None for 0; what it raises has a code
    of its own, and is said.

    Ranks mostly meet the same mistake: the first says it at once, the others where they still live
    some seconds later, as a launcher ends all when one has ended.
    """
    out: Any = RobustStream(sys.stdout)
    error: Any = RobustStream(sys.stderr)
    with redirect_stdout(out), redirect_stderr(error):
        if is_first():
            return _attempt(run, first=True)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            return _attempt(run, first=False)


def is_first() -> bool:
    """Of the processes that a launcher started; alone without one."""
    return not os.environ.get("RANK", "").strip("0")


class RobustStream:
    """A stream that may lose its reader, which ends no run: a terminal hangs up, a `tee` dies of
    the same Ctrl-C, a log's disk is full. From then on what is said goes nowhere."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError:
            self._go_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            self._go_nowhere()

    def _go_nowhere(self) -> None:
        """What the stream still holds too, which it would try to write once more at exit."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


def _attempt(run: Callable[[], int | None], *, first: bool) -> int:
    try:
        return run() or DONE
    except ReportedByRankZero:
        return WRONG
    except UserError as error:
        if not first:
            joined = "torch" in sys.modules and sys.modules["torch"].distributed.is_initialized()
            time.sleep(FIRST_TO_SPEAK if joined else BEFORE_A_WATCH)
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        print(f"error: cannot read or write: {error}; {RESUME_HINT}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        if first:
            print(f"stopped at once; {RESUME_HINT}", file=sys.stderr)
        return INTERRUPTED


UNFINISHED = 75  # exit code of a run that the same command goes on with (EX_TEMPFAIL of sysexits.h)
